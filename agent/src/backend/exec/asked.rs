//! What the agent asks a program, as JSON. The protocol's text is `agent/examples/README.md`; this
//! is its letter.

use serde::Serialize;
use stormlock_protocol::name::{LeaseId, Reason, Resource, Ttl};

use crate::lease::{Claim, Nonce, Proof};

/// The version of the protocol that this agent speaks.
pub(super) const PROTOCOL: u32 = 1;

/// A question with its number.
#[derive(Serialize)]
pub(super) struct Asking<'a> {
    pub(super) id: u64,
    #[serde(flatten)]
    pub(super) question: &'a Question<'a>,
}

/// A question.
#[derive(Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Question<'a> {
    Hello {
        protocol: u32,
        agent: &'static str,
        password: Option<&'a str>,
    },
    Look {
        resource: &'a str,
    },
    Acquire(Wish<'a>),
    Renew {
        resource: &'a str,
        lease: String,
        marks: Vec<String>,
        next: Option<String>,
        ttl_ms: u64,
    },
    Verify {
        resource: &'a str,
        lease: String,
        marks: Vec<String>,
    },
    Release {
        resource: &'a str,
        lease: String,
        marks: Vec<String>,
    },
    Cancel {
        resource: &'a str,
        lease: String,
    },
    List {
        after: Option<&'a str>,
        limit: usize,
    },
    Examine,
    Setup,
}

/// A claim, and the counter that it was seen with.
#[derive(Serialize)]
pub(super) struct Wish<'a> {
    resource: &'a str,
    lease: String,
    counter: u64,
    ttl_ms: u64,
    principal: &'a str,
    host: &'a str,
    reason: Option<&'a str>,
    since_ms: i64,
    mark: String,
    /// The lease that it breaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    over: Option<String>,
}

impl<'a> Question<'a> {
    pub(super) fn acquire(claim: &'a Claim, counter: u64) -> Question<'a> {
        Question::Acquire(Wish {
            resource: claim.resource.as_str(),
            lease: id(claim.lease),
            counter,
            ttl_ms: ttl_ms(claim.ttl),
            principal: claim.principal.as_str(),
            host: &claim.host,
            reason: claim.reason.as_ref().map(Reason::as_str),
            since_ms: claim.created.0,
            mark: mark(claim.nonce),
            over: claim.over.map(id),
        })
    }

    pub(super) fn verify(proof: &'a Proof) -> Question<'a> {
        let (lease, marks) = (id(proof.lease), marks(proof));
        Question::Verify { resource: proof.resource.as_str(), lease, marks }
    }

    pub(super) fn release(proof: &'a Proof) -> Question<'a> {
        let (lease, marks) = (id(proof.lease), marks(proof));
        Question::Release { resource: proof.resource.as_str(), lease, marks }
    }

    pub(super) fn renew(proof: &'a Proof, ttl: Ttl, next: Nonce) -> Question<'a> {
        let mut marks = marks(proof);
        let next = (!marks.is_empty()).then(|| mark(next));
        // A repeat of a renewal finds the mark that the first copy left: so it is a fit.
        marks.extend(next.clone());
        let (resource, lease) = (proof.resource.as_str(), id(proof.lease));
        Question::Renew { resource, lease, marks, next, ttl_ms: ttl_ms(ttl) }
    }

    pub(super) fn cancel(resource: &'a Resource, lease: LeaseId) -> Question<'a> {
        Question::Cancel { resource: resource.as_str(), lease: id(lease) }
    }
}

/// A lease id in the protocol: always 32 hex digits.
fn id(lease: LeaseId) -> String {
    format!("{:032x}", u128::from_be_bytes(*lease.as_bytes()))
}

/// A mark in the protocol: 16 hex digits.
fn mark(nonce: Nonce) -> String {
    format!("{:016x}", nonce.0)
}

fn marks(proof: &Proof) -> Vec<String> {
    proof.nonces.iter().copied().map(mark).collect()
}

fn ttl_ms(ttl: Ttl) -> u64 {
    u64::from(ttl.as_secs()) * 1000
}
