//! The way to one table: the SDK's client, made at the first call, and what was learned of table
//! and time since.
//!
//! The SDK retries nothing and has no timeouts: one attempt per call, and the caller's patience is
//! the only one. Only while it looks for credentials it does as it always does; nothing of a call
//! has left then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::ProfileFileRegionProvider;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use secrecy::ExposeSecret;
use tokio::sync::OnceCell;

use super::super::tls::Tls;
use super::super::{BackendError, Clock, OpenError, RefusedKind};
use super::Options;
use super::refusal::{code, of_read, refused};
use super::time::{AwsTime, Span};
use super::wire::Wire;
use crate::lease::Moment;

/// Longest time to hear from the table before a call: below the longest attempt, so that a service
/// that swallows everything is still told from one that may have done something.
const MEET_MAX: Duration = Duration::from_secs(4);

/// The way to the table of one configuration.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) options: Options,
    clock: Clock,
    time: Arc<AwsTime>,
    wire: Wire,
    /// For roles and instance metadata: other hosts, whose time is none of the table's.
    credentials_wire: Wire,
    client: OnceCell<Client>,
    met: Mutex<Met>,
}

/// What the table said of itself.
#[derive(Debug, Default)]
struct Met {
    /// False: ask it again before the next call.
    is_known: bool,
    identity: Option<String>,
}

impl Link {
    pub(super) fn new(options: &Options, clock: Clock) -> Result<Link, OpenError> {
        let is_plain = options.endpoint_url.as_ref().is_some_and(|url| url.starts_with("http://"));
        let tls = || Tls::new(options.ca_file.clone(), options.client_cert.clone());
        let tls = (!is_plain).then(tls).transpose()?;
        // Only some credentials come from far away: without authorities those are not had.
        let roots = Tls::new(None, None).ok();
        let time = Arc::new(AwsTime::default());
        Ok(Link {
            options: options.clone(),
            clock,
            wire: Wire::new(tls, clock, Some(time.clone())),
            credentials_wire: Wire::new(roots, clock, None),
            time,
            client: OnceCell::new(),
            met: Mutex::default(),
        })
    }

    /// The table's own id, as it was when it was last asked.
    pub(super) fn identity(&self) -> Option<String> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).identity.clone()
    }

    /// The client, after the table was met once, and again after it was away.
    pub(super) async fn ready(&self) -> Result<&Client, BackendError> {
        let client = self.client().await?;
        let is_known = self.met.lock().unwrap_or_else(PoisonError::into_inner).is_known;
        if !is_known || self.time.span(self.now()).is_none() {
            self.meet(client).await?;
        }
        Ok(client)
    }

    pub(super) fn now(&self) -> Moment {
        (self.clock)()
    }

    /// The region's clock at `at`, by what is known now.
    pub(super) fn span(&self, at: Moment) -> Result<Span, BackendError> {
        self.time.span(at).ok_or_else(|| {
            let why = "its answers carry no Date: without one nobody knows when a lease ends";
            refused(RefusedKind::NotWritable, why)
        })
    }

    /// Hears of an error of a call: after some of them the table may be another one.
    pub(super) fn heard(&self, error: BackendError) -> BackendError {
        let doubtful = match &error {
            BackendError::Refused { kind, .. } => {
                use RefusedKind::{NotSetUp, NotWritable, Unreachable};
                matches!(kind, Unreachable | NotWritable | NotSetUp(_))
            }
            BackendError::Unknown { .. } => true,
        };
        if doubtful {
            self.met.lock().unwrap_or_else(PoisonError::into_inner).is_known = false;
        }
        error
    }

    /// Asks the table what it is. Who may not ask may lock all the same: its id is then not known,
    /// but the answer brings the time.
    async fn meet(&self, client: &Client) -> Result<(), BackendError> {
        let asked = client.describe_table().table_name(&self.options.table).send();
        let answer = tokio::time::timeout(MEET_MAX, asked).await.map_err(|_| {
            let secs = MEET_MAX.as_secs();
            let why = format!("neither dynamodb nor who has the credentials answers in {secs} s");
            refused(RefusedKind::Unreachable, &why)
        })?;
        let identity = match answer {
            Ok(answer) => answer.table.and_then(|table| table.table_id),
            Err(error) if code(&error).is_some_and(is_denied) => None,
            Err(error) => return Err(of_read(&error)),
        };
        let met = Met { is_known: true, identity };
        *self.met.lock().unwrap_or_else(PoisonError::into_inner) = met;
        Ok(())
    }

    /// The client, whether or not the table is there.
    pub(super) async fn client(&self) -> Result<&Client, BackendError> {
        self.client.get_or_try_init(|| self.make()).await
    }

    /// No network is asked here but, by the SDK and later, the one that has the credentials.
    async fn make(&self) -> Result<Client, BackendError> {
        let Options { region, endpoint_url, profile, keys, .. } = &self.options;
        let region = match region {
            Some(region) => Some(Region::new(region.clone())),
            None => self.region().await,
        };
        let region = region.ok_or_else(|| {
            let why = "no region: the configuration, $AWS_REGION and the profile name none";
            refused(RefusedKind::Credentials, why)
        })?;
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(region)
            .http_client(self.credentials_wire.clone().client());
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        if let Some((id, secret)) = keys {
            let secret = secret.expose_secret();
            let keys = Credentials::new(id, secret, None, None, "the configuration");
            loader = loader.credentials_provider(keys);
        }
        let shared = loader.load().await;
        let mut config = aws_sdk_dynamodb::config::Builder::from(&shared)
            .http_client(self.wire.clone().client())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled());
        if let Some(url) = endpoint_url {
            config = config.endpoint_url(url);
        }
        Ok(Client::from_conf(config.build()))
    }

    /// Never from the instance's metadata: on a host without one that takes seconds.
    async fn region(&self) -> Option<Region> {
        let environment = EnvironmentVariableRegionProvider::new().region().await;
        if environment.is_some() && self.options.profile.is_none() {
            return environment;
        }
        let mut profiles = ProfileFileRegionProvider::builder();
        if let Some(profile) = &self.options.profile {
            profiles = profiles.profile_name(profile);
        }
        profiles.build().region().await.or(environment)
    }
}

/// True for the name of an error that says: you may not do this, though others may.
pub(super) fn is_denied(code: &str) -> bool {
    matches!(code, "AccessDeniedException" | "AccessDenied")
}
