//! Our agents and the Python tool on an etcd: what each sees of the other there.

use crate::agent::Agent;
use crate::python::{Peer, Said};
use crate::stores::Store;

#[test]
fn agent_and_python_tool_see_renew_and_release_each_other_s_locks_on_etcd() {
    let store = Store::etcd();
    let agent = store.agent("alpha");
    let mut python = store.tool().peer();
    let ours = agent.ctl(&["acquire", "prod/db", "-m", "ours"]).stdout.trim().to_owned();
    let Said::Held { lease, principal } = python.acquire("prod/db", 60) else { panic!("taken") };
    assert_eq!(lease, ours);
    assert!(principal.ends_with("@alpha"), "{principal}");
    assert_eq!(python.renew("prod/db", &ours, 60), Said::Done);
    assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
    assert_eq!(python.current("prod/db"), Said::Free);

    let Said::Granted(theirs) = python.acquire("prod/db", 60) else { panic!("not free") };
    let refused = agent.ctl(&["acquire", "prod/db"]);
    assert_eq!(refused.code, Some(75), "{refused:?}");
    assert!(refused.stderr.contains("peer@elsewhere"), "{refused:?}");
    let shown = agent.ctl(&["current", "--id-only", "prod/db"]);
    assert_eq!(shown.stdout.trim(), theirs);
    assert_eq!(python.renew("prod/db", &theirs, 60), Said::Done);
    assert_eq!(python.release("prod/db", &theirs), Said::Done);
    // Python frees one of ours by its id: the agent's holder hears that it is lost.
    let ours = agent.ctl(&["acquire", "prod/db"]).stdout.trim().to_owned();
    assert_eq!(python.release("prod/db", &ours), Said::Done);
    assert_eq!(python.current("prod/db"), Said::Free);
    assert_eq!(agent.ctl(&["renew", "prod/db", &ours]).code, Some(79), "it is lost");
}

/// Either side, as people have it.
struct Sides {
    agent: Agent,
    python: Peer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Python,
}

impl Sides {
    fn take(&mut self, side: Side, on: &str) -> String {
        match side {
            Side::Ours => {
                let taken = self.agent.ctl(&["acquire", on]);
                assert_eq!(taken.code, Some(0), "{on}: {taken:?}");
                taken.stdout.trim().to_owned()
            }
            Side::Python => match self.python.acquire(on, 60) {
                Said::Granted(lease) => lease,
                other => panic!("{on}: {other:?}"),
            },
        }
    }

    fn give_back(&mut self, side: Side, on: &str, lease: &str) {
        match side {
            Side::Ours => {
                assert_eq!(self.agent.ctl(&["release", on, lease]).code, Some(0));
            }
            Side::Python => assert_eq!(self.python.release(on, lease), Said::Done),
        }
    }

    /// Both show this lease on it, and refuse it to others; `None`: nobody has it.
    fn check(&mut self, on: &str, lease: Option<&str>) {
        let shown = match self.python.current(on) {
            Said::Held { lease, .. } => Some(lease),
            _ => None,
        };
        assert_eq!(shown.as_deref(), lease, "{on}, to the Python tool");
        let shown = self.agent.ctl(&["current", "--id-only", on]).stdout;
        assert_eq!(shown.trim(), lease.unwrap_or_default(), "{on}, to an agent");
        let listed = self.agent.ctl(&["-o", "tsv", "list"]).stdout;
        let is_listed = listed.split_whitespace().any(|word| word == on);
        assert_eq!(is_listed, lease.is_some(), "{on} in {listed}");
        if let Some(lease) = lease {
            let Said::Held { lease: held, .. } = self.python.acquire(on, 60) else {
                panic!("{on} was given twice");
            };
            assert_eq!(held, lease);
        }
    }
}

#[test]
fn a_and_a_slash_b_are_two_resources_on_etcd_for_both_tools_in_each_order() {
    let store = Store::etcd();
    let mut sides = Sides { agent: store.agent("alpha"), python: store.tool().peer() };
    let pairs = [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a"), ("a/id", "a"), ("a", "a/f")];
    for (first, second) in pairs {
        for (one, two) in [
            (Side::Ours, Side::Ours),
            (Side::Ours, Side::Python),
            (Side::Python, Side::Ours),
            (Side::Python, Side::Python),
        ] {
            let lease = sides.take(one, first);
            sides.check(second, None);
            let other = sides.take(two, second);
            sides.check(first, Some(&lease));
            sides.check(second, Some(&other));
            // Under the other's name an agent does nothing with it.
            let refused = sides.agent.ctl(&["release", second, &lease]);
            assert_ne!(refused.code, Some(0), "{refused:?}");
            sides.check(first, Some(&lease));
            sides.give_back(one, first, &lease);
            sides.check(first, None);
            sides.check(second, Some(&other));
            let again = sides.take(two, first);
            sides.give_back(two, second, &other);
            sides.check(first, Some(&again));
            sides.check(second, None);
            sides.give_back(two, first, &again);
        }
    }
}
