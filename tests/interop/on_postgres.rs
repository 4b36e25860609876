//! Our agents and the Python tool on a PostgreSQL: what each sees of the other there, and a table
//! of that tool's instructions in the hour that comes twice.

use std::process::Command;
use std::time::Duration;

use crate::agent::{Agent, program};
use crate::postgres_server::PostgresServer;
use crate::program::{Ran, run};
use crate::python::Said;
use crate::stores::{TABLES, plain, postgres, postgres_tool, with_tables};

#[test]
fn agent_and_python_tool_see_renew_and_release_each_other_s_locks_on_postgres() {
    for table in TABLES {
        let store = postgres(table);
        let agent = Agent::on_postgres("alpha", &store.url());
        let mut python = postgres_tool(&store).peer();
        let ours = agent.ctl(&["acquire", "prod/db", "-m", "ours"]).stdout.trim().to_owned();
        let Said::Held { lease, principal } = python.acquire("prod/db", 60) else {
            panic!("taken")
        };
        assert_eq!(plain(&lease), ours);
        assert!(principal.ends_with("@alpha"), "{principal}");
        assert_eq!(python.renew("prod/db", &ours, 60), Said::Done);
        assert_eq!(agent.ctl(&["release", "prod/db"]).code, Some(0));
        assert_eq!(python.current("prod/db"), Said::Free);

        let Said::Granted(theirs) = python.acquire("prod/db", 60) else { panic!("not free") };
        let refused = agent.ctl(&["acquire", "prod/db"]);
        assert_eq!(refused.code, Some(75), "{refused:?}");
        assert!(refused.stderr.contains("peer@elsewhere"), "{refused:?}");
        let shown = agent.ctl(&["current", "--id-only", "prod/db"]);
        assert_eq!(shown.stdout.trim(), plain(&theirs));
        assert_eq!(python.renew("prod/db", &theirs, 60), Said::Done);
        assert_eq!(python.release("prod/db", &theirs), Said::Done);
        // Python frees one of ours by its id: the agent's holder hears that it is lost.
        let ours = agent.ctl(&["acquire", "prod/db"]).stdout.trim().to_owned();
        assert_eq!(python.release("prod/db", &ours), Said::Done);
        assert_eq!(python.current("prod/db"), Said::Free);
        assert_eq!(agent.ctl(&["renew", "prod/db", &ours]).code, Some(79), "it is lost");
    }
}

/// A zone in which summer ends in five minutes, as POSIX writes one: every time of then comes again
/// an hour later, as in Berlin in October.
const AUTUMN: &str = "SELECT 'STD0DST-1,' || (day + 183) % 365 || '/0,' || day || '/' \
    || hour + 1 || to_char(ends, '\":\"MI\":\"SS') FROM \
    (SELECT ends, extract(doy FROM ends)::int - 1 AS day, extract(hour FROM ends)::int AS hour \
     FROM (SELECT now() AT TIME ZONE 'UTC' + interval '5 min' AS ends) later) parts";
/// A lease that ends after that.
const OVER_THE_CHANGE_SECS: u32 = 1800;

fn setup(agent: &Agent, args: &[&str]) -> Ran {
    let mut command = Command::new(program("stormlockd"));
    command.arg("setup").args(args).arg("--config").arg(agent.file("stormlockd.toml"));
    run(&mut command, Duration::from_secs(60))
}

/// Takes it for longer than until the change; the lease.
fn take(agent: &Agent, on: &str) -> Result<String, Ran> {
    let ran = agent.ctl(&["acquire", on, "--ttl", &format!("{OVER_THE_CHANGE_SECS}s")]);
    if ran.code == Some(0) { Ok(ran.stdout.trim().to_owned()) } else { Err(ran) }
}

#[track_caller]
fn check_refused(agent: &Agent, on: &str, holder: &str) {
    let refused = take(agent, on).expect_err("it was given twice");
    assert_eq!(refused.code, Some(75), "{refused:?}");
    assert!(refused.stderr.contains(holder), "{refused:?}");
}

#[test]
fn in_the_hour_that_comes_twice_only_the_python_tool_gives_twice_and_migrate_cures_it() {
    let server = PostgresServer::start();
    with_tables(&server, TABLES[1]);
    let zone = server.sql(AUTUMN);
    server.sql(&format!("ALTER DATABASE locks SET timezone = '{zone}'"));
    let hours = "SELECT extract(timezone FROM now()), extract(timezone FROM now() + '1 h')";
    assert_eq!(server.sql(hours), "3600|0", "{zone}");
    let (alpha, beta) =
        (Agent::on_postgres("alpha", &server.url()), Agent::on_postgres("beta", &server.url()));
    let mut python = [postgres_tool(&server).peer(), postgres_tool(&server).peer()];
    let secs = OVER_THE_CHANGE_SECS;

    // The tool compares clock faces: a lock that ends after the change seems to have ended.
    let given = [0, 1].map(|at| python[at].acquire("python", secs));
    let is_granted = |said: &Said| matches!(said, Said::Granted(_));
    assert!(given.iter().all(is_granted), "it does not give twice any more: {given:?}");
    // Ours compare moments: among themselves, and with what the tool holds.
    check_refused(&alpha, "python", "peer@elsewhere");
    let ours = take(&alpha, "ours").expect("it is free");
    check_refused(&beta, "ours", "@alpha");
    assert!(matches!(python[0].current("ours"), Said::Held { .. }));
    // What the tool takes from us all the same is lost, and not taken back.
    assert!(is_granted(&python[0].acquire("ours", secs)));
    let lost = alpha.ctl(&["renew", "ours", &ours]);
    assert_eq!(lost.code, Some(79), "{lost:?}");
    check_refused(&alpha, "ours", "peer@elsewhere");

    let told = alpha.ctl(&["doctor"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stdout.contains("has summer time"), "{told:?}");
    assert!(told.stdout.contains("setup BACKEND --migrate"), "{told:?}");
    let cured = setup(&alpha, &["main", "--migrate"]);
    assert_eq!(cured.code, Some(0), "{cured:?}");
    assert!(cured.stdout.contains("converted created and expires"), "{cured:?}");
    let told = alpha.ctl(&["doctor"]);
    assert!(told.stdout.contains("its times have a time zone"), "{told:?}");

    // Nothing that was held is free by it, and nothing is given twice any more.
    check_refused(&beta, "python", "peer@elsewhere");
    check_refused(&beta, "ours", "peer@elsewhere");
    for at in [0, 1] {
        assert!(matches!(python[at].acquire("python", secs), Said::Held { .. }));
    }
    assert!(is_granted(&python[0].acquire("later", secs)));
    assert!(matches!(python[1].acquire("later", secs), Said::Held { .. }));
    check_refused(&alpha, "later", "peer@elsewhere");
    take(&alpha, "ours/later").expect("it is free");
    assert!(matches!(python[1].acquire("ours/later", secs), Said::Held { .. }));
}
