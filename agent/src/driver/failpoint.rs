//! Where a test has the agent killed: with `STORMLOCK_FAILPOINT=name:n` in its environment it ends
//! by SIGKILL when it passes the point of that name for the n-th time. For tests only, and only
//! with debug assertions: a released agent has none of this.
//!
//! - `intent`, `marking`, `renewed`, `ending`, `lost`: before this record is handed to the journal;
//!   of an intent and a mark, so before it is durable and before its call leaves.
//! - `acquire-call`, `renew-call`, `verify-call`, `release-call`, `cancel-call`: the call is about
//!   to leave; what has to be durable before it is.
//! - `acquire-answer` (a grant), `renew-answer`, ...: the store has done it, and nobody knows.
//! - `acquire-tell`, `renew-tell`, `release-tell`: it stands in the journal, and its asker is about
//!   to be told.
//! - `recover`, `recovered`: at start, the journal was read; and what it says was taken up.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

use crate::lease::{Answer, Attempt, Call, CallResult, Effect, Record};

static ARMED: LazyLock<Option<Armed>> = LazyLock::new(Armed::from_environment);

/// The point where this process ends.
#[derive(Debug)]
struct Armed {
    point: String,
    /// How often it is still passed.
    left: AtomicU64,
}

impl Armed {
    fn from_environment() -> Option<Armed> {
        let setting = std::env::var("STORMLOCK_FAILPOINT").ok()?;
        let (point, times) = setting.split_once(':')?;
        let left = AtomicU64::new(times.parse().ok()?);
        Some(Armed { point: point.to_owned(), left })
    }
}

/// The agent passes a point.
pub(super) fn passes(point: &str) {
    let Some(armed) = ARMED.as_ref().filter(|armed| armed.point == point) else { return };
    if armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // It does not return.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// An effect is about to be performed.
pub(super) fn performs(effect: &Effect) {
    match effect {
        Effect::Record(Record::Intent(_)) => passes("intent"),
        Effect::Record(Record::Marking { .. }) => passes("marking"),
        Effect::Record(Record::Renewed { .. }) => passes("renewed"),
        Effect::Record(Record::Ending { .. }) => passes("ending"),
        Effect::Record(Record::Lost { .. }) => passes("lost"),
        Effect::Answer { answer: Answer::Acquired(_), .. } => passes("acquire-tell"),
        Effect::Answer { answer: Answer::Renewed(_), .. } => passes("renew-tell"),
        Effect::Answer { answer: Answer::Released, .. } => passes("release-tell"),
        _ => {}
    }
}

/// A call is about to leave; gives the point that its answer passes.
pub(super) fn leaves(call: &Call) -> &'static str {
    let (call, answer) = match call {
        Call::Acquire(_) => ("acquire-call", "acquire-answer"),
        Call::Renew { .. } => ("renew-call", "renew-answer"),
        Call::Verify(_) => ("verify-call", "verify-answer"),
        Call::Release(_) => ("release-call", "release-answer"),
        Call::Cancel(..) => ("cancel-call", "cancel-answer"),
    };
    passes(call);
    answer
}

/// Its answer is there; only one that says that something was done counts.
pub(super) fn answered(point: &str, result: &CallResult) {
    match result {
        CallResult::Attempted(Attempt::Granted(_))
        | CallResult::Stands(_)
        | CallResult::Done
        | CallResult::NotThere => passes(point),
        CallResult::Attempted(_) | CallResult::Refused(_) | CallResult::Unknown => {}
    }
}
