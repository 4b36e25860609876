//! A changed configuration is in force without a restart, a wrong one is refused in words, and no
//! lease is lost to either.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::process::Signal;
use stormlock_protocol::client::{Client, ClientError};
use stormlock_protocol::message::{Acquire, Code, Hold, LostReason, Release, State};

use super::{ok, on_redis, says};
use crate::agent::Agent;
use crate::dice::now_ms;
use crate::proxy::Proxy;
use crate::redis_server::{Answer, RedisServer};
use crate::{acquire, leases, local, locks, resource, ttl, until, until_right, wish};

/// A lease's ttl where its renewals are to be seen.
const SHORT_SECS: u64 = 3;

/// A file that says something else than the others is told apart by its ttl.
fn with_ttl(secs: u64) -> String {
    format!("default_ttl = \"{secs}s\"\n{}", local())
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a configuration can be written");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("and made private");
}

/// The ttl of a lease that asks for none.
fn default_ttl(client: &mut Client) -> u64 {
    let lease = acquire(client, Acquire { ttl: None, ..wish("probe", Hold::No) });
    client.release(Release::All).expect("given back");
    lease.ttl.as_secs().into()
}

fn until_default_ttl(client: &mut Client, secs: u64) {
    until_right("the new default is in force", || match default_ttl(client) {
        now if now == secs => Ok(()),
        now => Err(format!("{now} s")),
    });
}

#[test]
fn a_file_that_is_written_over_renamed_into_place_or_swapped_behind_a_link_is_in_force_by_itself() {
    let agent = Agent::start(&with_ttl(61));
    let (file, next) = (agent.file("stormlockd.toml"), agent.file("next"));
    let mut client = agent.client().expect("the agent answers");
    assert_eq!(default_ttl(&mut client), 61);

    agent.configure(&with_ttl(62));
    until_default_ttl(&mut client, 62);
    for secs in [63, 64] {
        write(&next, &with_ttl(secs));
        fs::rename(&next, &file).expect("renamed into place");
        until_default_ttl(&mut client, secs);
    }
    // As a mounted ConfigMap does it: the file is a link through a link that is swapped.
    for secs in [65, 66, 67] {
        let version = agent.file(&format!("v{secs}"));
        fs::create_dir(&version).expect("a folder");
        write(&version.join("stormlockd.toml"), &with_ttl(secs));
    }
    let swap = |secs: u64| {
        let _ = fs::remove_file(agent.file("..tmp"));
        symlink(format!("v{secs}"), agent.file("..tmp")).expect("a link");
        fs::rename(agent.file("..tmp"), agent.file("..data")).expect("swapped");
    };
    swap(65);
    symlink("..data/stormlockd.toml", &next).expect("a link");
    fs::rename(&next, &file).expect("renamed into place");
    for secs in [65, 66, 67] {
        swap(secs);
        until_default_ttl(&mut client, secs);
    }
}

#[test]
fn sighup_brings_a_new_rule_and_a_new_backend_into_force() {
    let store = RedisServer::start();
    let agent = Agent::start(&local());
    ok(agent.ctl(&["acquire", "prod/db"]));
    let uid = rustix::process::geteuid().as_raw();
    agent.configure(&format!(
        "host = \"alpha\"\ndefault_backend = \"main\"\n\
         [backend.main]\nkind = \"redis\"\nurl = \"{}\"\n\
         [backend.here]\nkind = \"local\"\n\
         [[resource]]\nnames = [\"prod/*\"]\nbackend = \"here\"\n\
         [[rule]]\nwho = [\"uid:{uid}\"]\nresources = [\"closed/*\"]\nmay = [\"read\"]\n\
         [[rule]]\nwho = [\"uid:{uid}\"]\nmay = [\"acquire\"]\nrequire_reason = true\n",
        store.url(),
    ));
    agent.signal(Signal::HUP);
    until("the rule is in force", || {
        (agent.ctl(&["acquire", "closed/x", "-m", "why"]).code == Some(77)).then_some(())
    });
    says(&agent.ctl(&["acquire", "open/x"]), 77, &["reason"]);
    ok(agent.ctl(&["acquire", "open/x", "-m", "why"]));
    assert_eq!(store.run("EXISTS open/x"), Answer::Int(1), "the new backend is not in use");
    assert!(ok(agent.ctl(&["status"])).contains("prod/db"), "the old lease is gone");
    ok(agent.ctl(&["release", "prod/db"]));
    ok(agent.ctl(&["release", "open/x"]));
    assert_eq!(store.run("EXISTS open/x"), Answer::Int(0));
}

#[test]
fn a_wrong_file_is_refused_with_its_line_and_key_and_the_old_one_stays_in_force() {
    let agent = Agent::start(&with_ttl(61));
    let mut client = agent.client().expect("the agent answers");
    let wrong = [
        ("default_ttl = \"62s\"\nhost = \"alpha\"\ndefault_tll = \"1m\"\n", ":3:", "default_tll"),
        (
            "default_ttl = \"62s\"\n\n[backend.main]\nkind = \"reddis\"\n",
            ":4:",
            "backend.main.kind",
        ),
        ("default_ttl = \"62s\"\nhost = [broken\n", ":2:", "not TOML"),
        ("[[rule]]\nwho = [\"nobody-known\"]\nmay = [\"read\"]\n", ":2:", "who"),
    ];
    for (text, line, key) in wrong {
        let before = agent.log().len();
        agent.configure(text);
        agent.signal(Signal::HUP);
        let line = format!("stormlockd.toml{line}");
        until_right("it is refused", || {
            let said = agent.log()[before..].to_owned();
            let refusal = said.lines().find(|it| it.contains("refused") && it.contains("ERROR"));
            match refusal {
                Some(refusal) if refusal.contains(&line) && refusal.contains(key) => Ok(()),
                _ => Err(said),
            }
        });
        assert_eq!(default_ttl(&mut client), 61);
    }
    fs::remove_file(agent.file("stormlockd.toml")).expect("it is there");
    agent.signal(Signal::HUP);
    until("a missing file is said", || agent.log().contains("No such file").then_some(()));
    assert_eq!(default_ttl(&mut client), 61);
    agent.configure(&with_ttl(63));
    until_default_ttl(&mut client, 63);
}

/// A lease that is held for longer than its ttl, so that it lived on renewals.
fn lives_on_renewals(client: &mut Client, name: &str) {
    let began = now_ms();
    until_right("it lives longer than its ttl", || {
        let all = leases(client);
        let lease = all.iter().find(|it| it.resource.as_str() == name);
        let lost = lease.is_none_or(|it| matches!(it.state, State::Lost(_)));
        assert!(!lost, "{all:?}");
        if now_ms() - began > 2000 * SHORT_SECS { Ok(()) } else { Err(String::new()) }
    });
}

#[test]
fn a_lease_survives_that_its_backend_moves_and_that_it_is_taken_out_of_the_file() {
    let store = RedisServer::start();
    let (old, new) = (Proxy::start(store.port()), Proxy::start(store.port()));
    let agent = Agent::start(&on_redis(old.port()));
    let mut client = agent.client().expect("the agent answers");
    let short = Acquire { ttl: Some(ttl(SHORT_SECS)), ..wish("prod/db", Hold::Keep) };
    let lease = acquire(&mut client, short);

    agent.configure(&on_redis(new.port()));
    until("the new address is used", || (new.connections() > 0).then_some(()));
    old.refuse(true);
    old.cut();
    lives_on_renewals(&mut client, "prod/db");

    agent.configure(&local());
    until("its store is listed no more", || locks(&mut client).is_empty().then_some(()));
    lives_on_renewals(&mut client, "prod/db");
    assert_eq!(store.run("EXISTS prod/db"), Answer::Int(1));
    assert_eq!(leases(&mut client)[0].fence, lease.fence);
    ok(agent.ctl(&["release", "prod/db", &lease.lease.to_string()]));
    assert_eq!(store.run("EXISTS prod/db"), Answer::Int(0));
    // The resource belongs to the new default now.
    acquire(&mut client, wish("prod/db", Hold::No));
    assert_eq!(store.run("EXISTS prod/db"), Answer::Int(0));
}

#[test]
fn a_lease_that_the_new_store_of_its_backend_does_not_have_is_lost_at_once() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let agent = Agent::start(&on_redis(old.port()));
    let mut client = agent.client().expect("the agent answers");
    acquire(&mut client, wish("prod/db", Hold::Keep));
    let began = now_ms();
    agent.configure(&on_redis(new.port()));
    let lost = State::Lost(LostReason::StoreLostIt);
    until("it is asked for", || (leases(&mut client)[0].state == lost).then_some(()));
    assert!(now_ms() - began < 5000, "it was believed until its next read-back");
    assert_eq!(new.run("EXISTS prod/db"), Answer::Int(0));
}

#[test]
fn what_is_held_where_a_resource_belonged_before_is_given_to_nobody_where_it_belongs_now() {
    let (one, two) = (RedisServer::start(), RedisServer::start());
    let with_default = |name: &str| {
        let uid = rustix::process::geteuid().as_raw();
        format!(
            "host = \"alpha\"\ndefault_backend = \"{name}\"\n\
             [backend.one]\nkind = \"redis\"\nurl = \"{}\"\n\
             [backend.two]\nkind = \"redis\"\nurl = \"{}\"\n\
             [[rule]]\nwho = [\"uid:{uid}\"]\nmay = [\"acquire\"]\n",
            one.url(),
            two.url()
        )
    };
    let agent = Agent::start(&with_default("one"));
    let mut client = agent.client().expect("the agent answers");
    let held = acquire(&mut client, wish("prod/db", Hold::Keep));
    agent.configure(&with_default("two"));
    let free = || client.current(resource("prod/db")).expect("an answer").is_none().then_some(());
    until("the new default is in force", free);
    let refused = client.acquire(wish("prod/db", Hold::No)).expect_err("it is held");
    let ClientError::Refused(no) = refused else { panic!("{refused:?}") };
    let lock = no.holder.expect("who has it");
    assert_eq!((no.code, lock.lease, lock.mine), (Code::Held, held.lease, true));
    assert_eq!(lock.backend, "one");
    ok(agent.ctl(&["release", "prod/db"]));
    assert_eq!(acquire(&mut client, wish("prod/db", Hold::No)).backend, "two");
}

#[test]
fn a_backend_that_becomes_another_kind_takes_and_gives_back_as_that_one() {
    let store = RedisServer::start();
    let local = local().replace("[backend.here]", "[backend.main]");
    let agent = Agent::start(&local);
    let mut client = agent.client().expect("the agent answers");
    for config in [on_redis(store.port()), local] {
        let before = acquire(&mut client, wish("prod/db", Hold::Keep));
        agent.configure(&config);
        let lost = State::Lost(LostReason::StoreLostIt);
        until("the other kind is in force", || {
            let all = leases(&mut client);
            let old = all.iter().find(|it| it.lease == before.lease)?;
            (old.state == lost).then_some(())
        });
        let after = acquire(&mut client, wish("prod/db", Hold::Keep));
        assert_ne!(after.this_host_only, before.this_host_only);
        assert!(after.fence > before.fence, "{before:?} {after:?}");
        client.release(Release::All).expect("given back");
    }
}

#[test]
fn a_file_that_others_may_write_is_refused_and_nothing_is_taken_from_it() {
    let agent = Agent::start(&with_ttl(61));
    let mut client = agent.client().expect("the agent answers");
    let file = agent.file("stormlockd.toml");
    fs::set_permissions(&file, Permissions::from_mode(0o602)).expect("its mode");
    agent.signal(Signal::HUP);
    until("it is refused", || agent.log().contains("chmod o-w").then_some(()));
    assert_eq!(default_ttl(&mut client), 61);
}
