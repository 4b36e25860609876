//! Why a request has no result, and what that says about the call: nothing happened, or nobody
//! knows.
//!
//! An error that the service names is a definite no when it is one of those below: they are told
//! before anything is written. A failure inside the service (HTTP 500 and 503), or a name that we
//! do not know, is unknown. What never left this host is a definite no.

use std::error::Error;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use super::super::{BackendError, RefusedKind, Unfit};
use super::wire::Trouble;

/// What a failed request says about a call that writes.
pub(super) fn of_write<E>(error: &SdkError<E, HttpResponse>) -> BackendError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let answer = answer.err();
            let code = answer.code().unwrap_or("no code");
            let detail = answer.message().unwrap_or_default();
            let why = format!("dynamodb answered {code} {detail}{}", advice(code));
            match kind(code) {
                Some(_) if is_of_the_shape(code, detail) => {
                    refused(RefusedKind::NotSetUp(Unfit::OtherTable), &why)
                }
                Some(kind) => refused(kind, why.trim_end()),
                None => BackendError::Unknown { why: why.trim_end().to_owned() },
            }
        }
        SdkError::DispatchFailure(_) => match find(error) {
            Some(Trouble::NotSent(why)) => refused(RefusedKind::Unreachable, why),
            Some(Trouble::Silence(why)) => BackendError::Unknown { why: why.clone() },
            // It did not come as far as to our client: there is nobody to sign it.
            None => refused(RefusedKind::Credentials, &format!("no credentials: {}", chain(error))),
        },
        SdkError::ConstructionFailure(_) => {
            refused(RefusedKind::Credentials, &format!("making the request: {}", chain(error)))
        }
        // Of a timeout (we set none), and of an answer that is none; a new variant may be anything.
        _ => BackendError::Unknown { why: format!("no answer from dynamodb: {}", chain(error)) },
    }
}

/// What a failed request says about a call that has only read: nothing happened.
pub(super) fn of_read<E>(error: &SdkError<E, HttpResponse>) -> BackendError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match of_write(error) {
        BackendError::Unknown { why } => refused(RefusedKind::Unreachable, &why),
        refused @ BackendError::Refused { .. } => refused,
    }
}

pub(super) fn refused(kind: RefusedKind, why: &str) -> BackendError {
    BackendError::Refused { kind, why: why.to_owned() }
}

/// The code of an error that the service named.
pub(super) fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    match error {
        SdkError::ServiceError(answer) => answer.err().code(),
        _ => None,
    }
}

/// Names of a service that is up and does not write.
const NOT_WRITABLE: [&str; 9] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "ThrottlingError",
    "RequestLimitExceeded",
    "LimitExceededException",
    "ResourceInUseException",
    "ItemCollectionSizeLimitExceededException",
    "ReplicatedWriteConflictException",
    "ValidationException",
];
/// Names of a service that knows who asks and does not let them: a policy may name the keys that
/// somebody may touch, so that says nothing of others.
const DENIED: [&str; 2] = ["AccessDeniedException", "AccessDenied"];
/// Names of a service that does not let us.
const CREDENTIALS: [&str; 12] = [
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "MissingAuthenticationTokenException",
    "MissingAuthenticationToken",
    "ExpiredTokenException",
    "ExpiredToken",
    "OptInRequired",
];

pub(super) fn kind(code: &str) -> Option<RefusedKind> {
    if NOT_WRITABLE.contains(&code) {
        return Some(RefusedKind::NotWritable);
    }
    if DENIED.contains(&code) {
        return Some(RefusedKind::Denied);
    }
    if code == "ResourceNotFoundException" {
        return Some(RefusedKind::NotSetUp(Unfit::NoTable));
    }
    CREDENTIALS.contains(&code).then_some(RefusedKind::Credentials)
}

/// True of a table with another key than ours; of what else is not valid an item may be the cause.
fn is_of_the_shape(code: &str, detail: &str) -> bool {
    code == "ValidationException"
        && ["key element does not match", "Missing the key"].iter().any(|it| detail.contains(it))
}

fn advice(code: &str) -> &'static str {
    match code {
        "ResourceNotFoundException" => {
            "; there is no such table in this region: create it with `stormlockd setup`"
        }
        "InvalidSignatureException" | "SignatureDoesNotMatch" => {
            "; is the key right, and this host's clock within five minutes of the region's?"
        }
        _ => "",
    }
}

/// Our client's own word on it.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Trouble> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(trouble) = error.downcast_ref::<Trouble>() {
            return Some(trouble);
        }
        next = error.source();
    }
    None
}

/// What it says and why; the SDK's errors name no secrets.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::error::{ConnectorError, ErrorMetadata};
    use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn named(code: &str) -> SdkError<UpdateItemError, HttpResponse> {
        let status = 400_u16.try_into().expect("a status");
        let said = ErrorMetadata::builder().code(code).message("because").build();
        let raw = HttpResponse::new(status, SdkBody::empty());
        SdkError::service_error(UpdateItemError::generic(said), raw)
    }

    fn unsent(trouble: Trouble) -> SdkError<UpdateItemError, HttpResponse> {
        SdkError::dispatch_failure(ConnectorError::io(Box::new(trouble)))
    }

    #[track_caller]
    fn check(error: BackendError, expected: Option<RefusedKind>) {
        let found = match &error {
            BackendError::Refused { kind, .. } => Some(*kind),
            BackendError::Unknown { .. } => None,
        };
        assert_eq!(found, expected, "{error}");
    }

    #[test]
    fn each_named_error_has_its_kind_and_the_rest_is_unknown() {
        for (code, expected) in [
            ("ThrottlingException", Some(RefusedKind::NotWritable)),
            ("ProvisionedThroughputExceededException", Some(RefusedKind::NotWritable)),
            ("ResourceNotFoundException", Some(RefusedKind::NotSetUp(Unfit::NoTable))),
            ("AccessDeniedException", Some(RefusedKind::Denied)),
            ("UnrecognizedClientException", Some(RefusedKind::Credentials)),
            ("InvalidSignatureException", Some(RefusedKind::Credentials)),
            ("ExpiredTokenException", Some(RefusedKind::Credentials)),
            ("InternalServerError", None),
            ("ServiceUnavailable", None),
            ("TransactionInProgressException", None),
            ("IdempotentParameterMismatchException", None),
            ("SomethingNewException", None),
        ] {
            check(of_write(&named(code)), expected);
        }
    }

    #[test]
    fn what_never_left_is_a_definite_no_and_silence_is_not() {
        let why = || "x".to_owned();
        check(of_write(&unsent(Trouble::NotSent(why()))), Some(RefusedKind::Unreachable));
        check(of_write(&unsent(Trouble::Silence(why()))), None);
        let unsigned =
            SdkError::dispatch_failure(ConnectorError::other("no provider".into(), None));
        check(of_write::<UpdateItemError>(&unsigned), Some(RefusedKind::Credentials));
    }

    #[test]
    fn a_failed_read_changed_nothing() {
        check(of_read(&unsent(Trouble::Silence("x".into()))), Some(RefusedKind::Unreachable));
        check(of_read(&named("InternalServerError")), Some(RefusedKind::Unreachable));
        check(of_read(&named("AccessDenied")), Some(RefusedKind::Denied));
    }
}
