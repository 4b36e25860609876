//! The suite of every store against a program: the one that `$STORMLOCK_EXEC` names, as a JSON list
//! of its path and arguments, or the example. What the program's store holds already stays as it
//! is; resources have names of their own. Then what the protocol asks beyond that suite, question
//! by question: that no late copy of an acquire succeeds.

use std::sync::Arc;

use super::super::contract::{self, Others, Site, claim, granted, proof, resource};
use super::asked::Question;
use super::said::Looked;
use super::server::ExecStore;
use super::{Attempt, Backend, Exec, Options};
use crate::lease::Claim;

/// Names the program to run the suite against.
const OWN: &str = "STORMLOCK_EXEC";

struct Own {
    command: Vec<String>,
    _store: Option<ExecStore>,
}

impl Own {
    fn start() -> Own {
        if let Ok(command) = std::env::var(OWN) {
            let command = serde_json::from_str(&command);
            let command = command.expect("$STORMLOCK_EXEC is a list, as in [\"/path/prog\"]");
            return Own { command, _store: None };
        }
        let store = ExecStore::start();
        Own { command: store.command(), _store: Some(store) }
    }

    fn exec(&self) -> Exec {
        let command = self.command.clone();
        Exec::new(&Options { command, ..Options::default() }).expect("a program")
    }
}

impl Site for Own {
    fn open(&self) -> Arc<dyn Backend> {
        Arc::new(self.exec())
    }

    fn others(&self) -> Option<&dyn Others> {
        None
    }
}

contract::contract!(Own::start());

/// What a copy of an acquire comes to that names this counter.
async fn late(exec: &Exec, claim: &Claim, counter: u64) -> Attempt {
    let said = exec.seat.ask(&Question::acquire(claim, counter)).await.expect("an answer");
    said.attempt(claim).expect("an answer to an acquire")
}

async fn counter(exec: &Exec, claim: &Claim) -> u64 {
    match exec.look(&claim.resource).await.expect("an answer to a look") {
        Looked::Free(counter) | Looked::Held(_, Some(counter)) => counter,
        Looked::Held(holder, None) => panic!("no counter beside {holder:?}"),
    }
}

#[tokio::test]
async fn a_late_copy_of_a_cancelled_acquire_is_moved() {
    let site = Own::start();
    let (one, two) = (site.exec(), site.exec());
    let never = claim(&resource("copy"), 600);
    let seen = counter(&one, &never).await;
    two.cancel(&never.resource, never.lease).await.expect("a cancel");
    assert_eq!(late(&one, &never, seen).await, Attempt::Moved, "a cancel moves the counter");

    let seen = counter(&one, &never).await;
    let first = late(&one, &never, seen).await;
    assert!(matches!(first, Attempt::Granted(_)), "{first:?}");
    two.cancel(&never.resource, never.lease).await.expect("a cancel");
    for exec in [&one, &two] {
        assert_eq!(late(exec, &never, seen).await, Attempt::Moved, "also one that was granted");
    }
    assert!(counter(&two, &never).await > seen);
}

#[tokio::test]
async fn a_late_copy_of_an_acquire_that_was_given_back_is_moved() {
    let site = Own::start();
    let exec = site.exec();
    let (ours, other) = (claim(&resource("back"), 600), claim(&resource("back"), 600));
    let other = Claim { resource: ours.resource.clone(), ..other };
    let seen = counter(&exec, &ours).await;
    assert!(matches!(late(&exec, &ours, seen).await, Attempt::Granted(_)));
    exec.release(&proof(&ours)).await.expect("a release");
    for claim in [&ours, &other] {
        assert_eq!(late(&exec, claim, seen).await, Attempt::Moved, "a grant moves the counter");
    }
}

#[tokio::test]
async fn a_late_copy_of_a_cancelled_break_is_moved() {
    let site = Own::start();
    let (one, two) = (site.exec(), site.exec());
    let victim = claim(&resource("copy"), 600);
    granted(&two, &victim).await;
    let breaker = Claim { over: Some(victim.lease), ..claim(&victim.resource, 600) };
    let seen = counter(&one, &breaker).await;
    two.cancel(&breaker.resource, breaker.lease).await.expect("a cancel");
    assert_eq!(late(&one, &breaker, seen).await, Attempt::Moved, "a cancel moves the counter");
    let holder = two.holder(&victim.resource).await.expect("a holder").expect("somebody");
    assert_eq!(holder.lease, victim.lease);

    let seen = counter(&one, &breaker).await;
    let first = late(&one, &breaker, seen).await;
    assert!(matches!(first, Attempt::Granted(_)), "{first:?}");
    two.cancel(&breaker.resource, breaker.lease).await.expect("a cancel");
    assert_eq!(late(&one, &breaker, seen).await, Attempt::Gone, "nobody has it to be broken");
}

#[tokio::test]
async fn a_break_that_comes_when_another_has_it_is_told_who() {
    let site = Own::start();
    let exec = site.exec();
    let (victim, heir) = (claim(&resource("heir"), 600), claim(&resource("heir"), 600));
    let heir = Claim { resource: victim.resource.clone(), ..heir };
    granted(&exec, &victim).await;
    let breaker = Claim { over: Some(victim.lease), ..claim(&victim.resource, 600) };
    let seen = counter(&exec, &breaker).await;
    exec.release(&proof(&victim)).await.expect("a release");
    assert_eq!(late(&exec, &breaker, seen).await, Attempt::Gone);
    granted(&exec, &heir).await;
    for counter in [seen, counter(&exec, &breaker).await] {
        let Attempt::Held(Some(holder)) = late(&exec, &breaker, counter).await else {
            panic!("not held")
        };
        assert_eq!(holder.lease, heir.lease);
    }
}

#[tokio::test]
async fn locks_and_counters_outlive_the_program() {
    let site = Own::start();
    let ours = claim(&resource("outlives"), 600);
    let first = granted(&site.exec(), &ours).await;
    let exec = site.exec();
    let holder = exec.holder(&ours.resource).await.expect("a holder").expect("somebody");
    assert_eq!((holder.lease, holder.fence), (ours.lease, Some(first.fence)));
    exec.release(&proof(&ours)).await.expect("a release");
    let second = granted(&site.exec(), &claim(&ours.resource, 600)).await;
    assert!(second.fence > first.fence, "{second:?} after {first:?}");
}
