//! What the words of `release RESOURCE... [LEASE]` mean. Pure: what the caller holds is told to it.
//!
//! A resource may look like a lease id (`db1` and `a` are hex). Two mistakes must not happen: to
//! take a lease id for a resource, because then a lease that was taken since is given back in place
//! of the one that was named; and to take a resource for a lease id, because then it stays held.

use stormlock_protocol::message::{Lease, Target};
use stormlock_protocol::name::{LeaseId, Resource};

use crate::exit::Failure;

/// Hex words of up to this many digits are resources unless they are the lease held now. The
/// shortest ids are etcd's, of 63 random bits: one in 2^31 of them is this short.
const RESOURCE_DIGITS_MAX: usize = 8;

/// Whether it takes the caller's leases to read these words.
pub(super) fn are_ambiguous(words: &[Resource]) -> bool {
    match words {
        [] | [_] => false,
        [_, last] => as_lease(last).is_some(),
        [.., last] => is_long_id(last),
    }
}

/// Reads the words; `mine` are the caller's leases, and may be empty if they are not ambiguous.
pub(super) fn targets(words: &[Resource], mine: &[Lease]) -> Result<Vec<Target>, Failure> {
    let own = |resource: &Resource| Target { resource: resource.clone(), lease: None };
    let all = || Ok(words.iter().map(own).collect());
    let [first, .., last] = words else {
        return all();
    };
    let Some(lease) = as_lease(last) else {
        return all();
    };
    let is_resource = mine.iter().any(|held| held.resource == *last);
    if words.len() > 2 {
        if is_resource || !is_long_id(last) {
            return all();
        }
        let told = format!("{last} looks like a lease id, which goes with exactly one resource");
        return Err(Failure::usage(told).advise("release them one by one"));
    }
    let is_lease = mine.iter().any(|held| held.resource == *first && held.lease == lease);
    match (is_resource, is_lease) {
        (true, true) => Err(Failure::usage(format!(
            "{last} is a resource that you hold and also your lease on {first}"
        ))
        .advise("say which: `--lease ID` for the lease, one command per resource else")),
        (true, false) => all(),
        (false, false) if !is_long_id(last) => all(),
        (false, _) => Ok(vec![Target { resource: first.clone(), lease: Some(lease) }]),
    }
}

fn as_lease(word: &Resource) -> Option<LeaseId> {
    word.as_str().parse().ok()
}

fn is_long_id(word: &Resource) -> bool {
    word.as_str().len() > RESOURCE_DIGITS_MAX && as_lease(word).is_some()
}

#[cfg(test)]
mod tests {
    use stormlock_protocol::message::{Attach, Hold, State};
    use stormlock_protocol::name::{Principal, Ttl, UnixMs};

    use super::*;

    const WIDE: &str = "0af1c2d3e4f50617283940515263748f";
    const ETCD: &str = "70d5f3a1b2c3d4e5";

    fn held(resource: &str, lease: &str) -> Lease {
        Lease {
            resource: Resource::new(resource).unwrap(),
            lease: lease.parse().unwrap(),
            fence: None,
            backend: "main".into(),
            this_host_only: false,
            state: State::Held,
            principal: Principal::new("maria").unwrap(),
            reason: None,
            since: UnixMs(0),
            left_ms: 1,
            ttl: Ttl::from_secs(1).unwrap(),
            hold: Hold::No,
            attach: Attach::Detached,
            waiters: 0,
            ends_soon: false,
        }
    }

    /// The targets as `resource` or `resource=lease`; `None` when the words are refused.
    fn read(words: &[&str], mine: &[(&str, &str)]) -> Option<Vec<String>> {
        let words: Vec<Resource> = words.iter().map(|word| Resource::new(*word).unwrap()).collect();
        let mine: Vec<Lease> = mine.iter().map(|(name, lease)| held(name, lease)).collect();
        let mine = if are_ambiguous(&words) { mine } else { Vec::new() };
        let told = |target: Target| match target.lease {
            Some(lease) => format!("{}={lease}", target.resource),
            None => target.resource.to_string(),
        };
        Some(targets(&words, &mine).ok()?.into_iter().map(told).collect())
    }

    #[track_caller]
    fn check(words: &[&str], mine: &[(&str, &str)], expected: &[&str]) {
        assert_eq!(read(words, mine).expect("refused"), expected, "{words:?}");
    }

    #[test]
    fn plain_words_are_resources() {
        check(&["prod/db"], &[], &["prod/db"]);
        check(&["prod/db", "prod/cache"], &[], &["prod/db", "prod/cache"]);
        check(&["a"], &[], &["a"]);
        check(&[WIDE], &[], &[WIDE]);
    }

    #[test]
    fn a_lease_id_after_one_resource_is_compared_even_when_it_is_over() {
        for id in [WIDE, ETCD] {
            let exactly = format!("prod/db={id}");
            check(&["prod/db", id], &[("prod/db", id)], &[&exactly]);
            check(&["prod/db", id], &[("prod/db", "77")], &[&exactly]);
            check(&["prod/db", id], &[], &[&exactly]);
        }
        let dashed = "0af1c2d3-e4f5-0617-2839-40515263748f";
        check(&["prod/db", dashed], &[], &[&format!("prod/db={WIDE}")]);
    }

    #[test]
    fn hex_names_are_resources() {
        check(&["a", "b"], &[("a", "1"), ("b", "2")], &["a", "b"]);
        check(&["prod", "db1"], &[("prod", WIDE)], &["prod", "db1"]);
        check(&["prod", ETCD], &[("prod", WIDE), (ETCD, "1")], &["prod", ETCD]);
        check(&["x", "y", "db1"], &[], &["x", "y", "db1"]);
        check(&["x", "y", ETCD], &[(ETCD, "1")], &["x", "y", ETCD]);
        // Short, but it is the very lease.
        check(&["prod", "db1"], &[("prod", "db1")], &["prod=db1"]);
    }

    #[test]
    fn what_could_be_both_is_refused() {
        assert_eq!(read(&["prod", "db1"], &[("prod", "db1"), ("db1", WIDE)]), None);
        assert_eq!(read(&["x", "y", WIDE], &[]), None);
        assert_eq!(read(&["x", "y", ETCD], &[("x", "1")]), None);
    }
}
