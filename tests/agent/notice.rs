//! What whoever took a lease reads on the terminal where they did.

use crate::agent::Agent;
use crate::redis_server::RedisServer;
use crate::run::terminal::{PROMPT, Shell};

#[test]
fn the_holder_reads_on_the_terminal_that_the_end_is_near_and_that_a_lease_is_lost() {
    let redis = RedisServer::start();
    let mut agent = Agent::on_redis("alpha", &redis.url());
    let mut shell = Shell::start(&agent);
    shell.types("chmod 620 $(tty); echo ta''kes\n");
    shell.sees("takes");
    shell.sees(PROMPT);
    shell.types("$CTL acquire prod/db --ttl 5s --for 10s\n");
    shell.sees("prod/db is yours until");
    shell.sees(PROMPT);
    shell.sees("stormlock: the hold on prod/db ends in ");
    shell.sees("to keep it: stormctl renew prod/db --for 1h");
    shell.types("\n$CTL acquire prod/web --ttl 5s --keep\n");
    shell.sees("prod/web is yours");
    // An upgrade in between costs nothing of it.
    agent.stop();
    agent.restart();
    redis.run("DEL prod/web");
    shell.sees("stormlock: prod/web is lost: the store no longer has it. Stop what relies on it.");
}

#[test]
fn nothing_is_said_to_whoever_asked_for_quiet() {
    let agent = Agent::start(&crate::local());
    let mut shell = Shell::start(&agent);
    shell.types(
        "chmod 620 $(tty); $CTL -q acquire prod/db --ttl 3s; $CTL acquire prod/web --ttl 3s\n",
    );
    shell.sees("stormlock: prod/web ends in ");
    assert!(!shell.has_seen("stormlock: prod/db"), "it was to be quiet");
}
