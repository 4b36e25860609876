//! The part of the suite about claims over a lease: what breaks, what does not, and what its victim
//! finds afterwards.

use std::time::Duration;

use stormlock_protocol::name::{Fence, LeaseId, Principal, Reason, Resource};

use super::{
    LONG, PATIENCE, RACES, Site, Telling, Watch, cancel, check_holder, check_not_holding,
    check_not_ours, check_ours, claim, contend, gone, granted, lease, mix, nonce, polled, proof,
    random, resource, ttl,
};
use crate::backend::{Attempt, Backend, Released, Standing};
use crate::clock;
use crate::lease::{Claim, Proof};

/// Breakers of one lease at once.
const BREAKERS: usize = 50;
/// Times that they try.
const ROUNDS: usize = 4;
/// How long breaks race with what becomes of their victims.
const RACING: Duration = Duration::from_secs(3);
/// Races there are even where each takes long.
const RACES_MIN: u64 = 20;
/// The ttl of a breaker: no other's here, so that it shows whose time is counted.
const LONGER: u64 = 900;
/// Renewals that race with the break of their lease.
const RENEWALS: usize = 24;

/// A claim over another's lease, of another person on another host.
fn breaking(on: &Resource, over: LeaseId) -> Claim {
    Claim {
        over: Some(over),
        principal: Principal::new("ben@bastion1").expect("a principal"),
        host: "bastion1".to_owned(),
        ..claim(on, LONGER)
    }
}

async fn holding(agent: &dyn Backend, on: &Resource) -> Option<LeaseId> {
    agent.holder(on).await.expect("a holder").map(|holder| holder.lease)
}

pub(crate) async fn a_break_takes_the_lease_that_was_seen_with_a_greater_fence(site: &dyn Site) {
    let (one, two) = (site.open(), site.open());
    let mut victim = claim(&resource("broken"), LONG);
    victim.reason = Some(Reason::new("schema change").unwrap());
    let mut last = granted(&*one, &victim).await;
    let mut reason = None;
    for _ in 0..3 {
        // Also one that was renewed, for another length.
        let renewed = one.renew(&proof(&victim), ttl(LONG - 1), victim.nonce).await;
        check_ours(&renewed.expect("a renewal"), LONG - 1);
        let breaker = Claim { reason, ..breaking(&victim.resource, victim.lease) };
        let grant = granted(&*two, &breaker).await;
        assert!(grant.fence > last.fence, "{grant:?} after {last:?}");
        let holder = one.holder(&victim.resource).await.expect("a holder").expect("somebody");
        check_holder(site, &holder, &breaker, grant);
        reason = match breaker.reason {
            None => Some(Reason::new("its host is gone").unwrap()),
            Some(_) => None,
        };
        (victim, last) = (breaker, grant);
    }
    // It is a lease like any other.
    let (next, known) = (nonce(), proof(&victim));
    check_ours(&one.verify(&known).await.expect("a read-back"), LONGER);
    check_ours(&one.renew(&known, ttl(LONG), next).await.expect("a renewal"), LONG);
    assert_eq!(granted(&*one, &Claim { ttl: ttl(LONG), ..victim.clone() }).await.fence, last.fence);
    let known = Proof { nonces: vec![next], ..known };
    check_ours(&two.verify(&known).await.expect("a read-back"), LONG);
    one.release(&known).await.expect("a release");
    assert_eq!(holding(&*two, &victim.resource).await, None);
    let after = granted(&*two, &claim(&victim.resource, LONG)).await;
    assert!(after.fence > last.fence, "{after:?} after {last:?}");
}

pub(crate) async fn a_break_ends_no_earlier_than_what_it_breaks(site: &dyn Site) {
    let agent = site.open();
    let (long, short) = (claim(&resource("long"), LONG), claim(&resource("short"), 2));
    granted(&*agent, &long).await;
    let breaker = Claim { ttl: ttl(1), ..breaking(&long.resource, long.lease) };
    let grant = granted(&*agent, &breaker).await;
    assert!(grant.remaining + PATIENCE >= Duration::from_secs(LONG), "{grant:?}");
    assert!(check_ours(&verified(&*agent, &breaker).await, LONGER) + PATIENCE >= grant.remaining);

    // Nor any later, if it asks for no more.
    let first = granted(&*agent, &short).await;
    let breaker = Claim { ttl: ttl(1), ..breaking(&short.resource, short.lease) };
    let grant = granted(&*agent, &breaker).await;
    assert!(grant.remaining >= Duration::from_millis(900), "{grant:?}");
    gone(&*agent, &short.resource).await;
    let after = granted(&*agent, &claim(&short.resource, LONG)).await;
    assert!(
        first.fence < grant.fence && grant.fence < after.fence,
        "{first:?} {grant:?} {after:?}"
    );
}

async fn verified(agent: &dyn Backend, claim: &Claim) -> Standing {
    agent.verify(&proof(claim)).await.expect("a read-back")
}

/// Whoever looked at the lease that is broken knows nothing of a renewal that comes then.
pub(crate) async fn a_break_ends_no_earlier_than_what_was_renewed_meanwhile(site: &dyn Site) {
    let seed = random();
    let (one, two) = (site.open(), site.open());
    let mut renewed = 0;
    for race in 0..RENEWALS {
        let victim = claim(&resource("renewed"), 30);
        granted(&*one, &victim).await;
        let breaker = Claim { ttl: ttl(1), ..breaking(&victim.resource, victim.lease) };
        let roll = mix(seed ^ u64::try_from(race).unwrap());
        let mut call = two.acquire(&breaker);
        let early = polled(&mut call, roll % 24).await;
        let known = proof(&victim);
        let renewal = one.renew(&known, ttl(LONG), nonce());
        let (standing, answer) = match early {
            Some(answer) => (renewal.await, answer),
            None => tokio::join!(renewal, call),
        };
        let answer = match answer.expect("an acquire") {
            Attempt::Moved => contend(&*two, &breaker).await,
            answer => answer,
        };
        let Attempt::Granted(grant) = answer else { panic!("{answer:?}, seed {seed}") };
        if let Standing::Ours { remaining } = standing.expect("a renewal") {
            renewed += 1;
            assert!(grant.remaining + PATIENCE >= remaining, "{grant:?} {remaining:?}: {seed}");
        }
        // What was told of it is what the store does.
        let stands = check_ours(&verified(&*two, &breaker).await, LONGER);
        assert!(stands + PATIENCE >= grant.remaining, "{grant:?} {stands:?}: {seed}");
    }
    println!("{RENEWALS} races, {renewed} renewed, seed {seed}");
}

pub(crate) async fn a_break_of_a_lease_that_is_not_there_does_nothing(site: &dyn Site) {
    let agent = site.open();
    let (never, given_back) = (claim(&resource("never"), LONG), claim(&resource("back"), LONG));
    let (cancelled, ended) = (claim(&resource("cancelled"), LONG), claim(&resource("ended"), 1));
    for claim in [&given_back, &cancelled, &ended] {
        granted(&*agent, claim).await;
    }
    agent.release(&proof(&given_back)).await.expect("a release");
    cancel(&*agent, &cancelled).await;
    gone(&*agent, &ended.resource).await;
    for victim in [&never, &given_back, &cancelled, &ended] {
        let breaker = breaking(&victim.resource, victim.lease);
        for _ in 0..2 {
            let answer = contend(&*agent, &breaker).await;
            assert_eq!(answer, Attempt::Gone, "{}", victim.resource);
            assert_eq!(holding(&*agent, &victim.resource).await, None);
        }
        granted(&*agent, &claim(&victim.resource, LONG)).await;
    }
}

pub(crate) async fn a_break_of_another_s_lease_does_nothing(site: &dyn Site) {
    let (one, two) = (site.open(), site.open());
    let (earlier, ours) = (claim(&resource("other"), LONG), claim(&resource("other"), LONG));
    let ours = Claim { resource: earlier.resource.clone(), ..ours };
    granted(&*one, &earlier).await;
    one.release(&proof(&earlier)).await.expect("a release");
    let grant = granted(&*one, &ours).await;
    for over in [earlier.lease, lease()] {
        let breaker = breaking(&ours.resource, over);
        for _ in 0..2 {
            let answer = two.acquire(&breaker).await.expect("an acquire");
            let Attempt::Held(Some(holder)) = answer else { panic!("{answer:?}") };
            check_holder(site, &holder, &ours, grant);
        }
        check_ours(&one.verify(&proof(&ours)).await.expect("a read-back"), LONG);
    }
    let renewed = one.renew(&proof(&ours), ttl(LONG), ours.nonce).await.expect("a renewal");
    check_ours(&renewed, LONG);
    assert_eq!(granted(&*one, &ours).await.fence, grant.fence);
    // That very one, it takes.
    granted(&*two, &breaking(&ours.resource, ours.lease)).await;
}

pub(crate) async fn the_same_break_again_is_the_same_grant(site: &dyn Site) {
    let (one, two) = (site.open(), site.open());
    let victim = claim(&resource("again"), LONG);
    granted(&*one, &victim).await;
    let breaker = breaking(&victim.resource, victim.lease);
    let first = granted(&*two, &breaker).await;
    for agent in [&one, &two] {
        let again = granted(&**agent, &breaker).await;
        assert_eq!(again.fence, first.fence);
        assert!(again.remaining <= first.remaining, "{again:?} after {first:?}");
    }
    two.release(&proof(&breaker)).await.expect("a release");
    assert_eq!(contend(&*two, &breaker).await, Attempt::Gone, "it is not taken twice");
}

pub(crate) async fn the_victim_of_a_break_finds_another_s_lease(site: &dyn Site) {
    let (one, two) = (site.open(), site.open());
    let victim = claim(&resource("victim"), LONG);
    granted(&*one, &victim).await;
    let breaker = breaking(&victim.resource, victim.lease);
    let grant = granted(&*two, &breaker).await;
    for known in [proof(&victim), Proof { nonces: Vec::new(), ..proof(&victim) }] {
        let renewed = one.renew(&known, ttl(LONG), nonce()).await.expect("a renewal");
        check_not_ours(&renewed, &breaker);
        check_not_ours(&one.verify(&known).await.expect("a read-back"), &breaker);
        assert_eq!(one.release(&known).await.expect("a release"), Released::NotThere);
        cancel(&*one, &victim).await;
    }
    let again = one.acquire(&victim).await.expect("an acquire");
    let Attempt::Held(Some(holder)) = again else { panic!("{again:?}") };
    check_holder(site, &holder, &breaker, grant);
    check_ours(&two.verify(&proof(&breaker)).await.expect("a read-back"), LONGER);
    assert_eq!(granted(&*two, &breaker).await.fence, grant.fence);
}

pub(crate) async fn of_fifty_breakers_of_one_lease_one_wins_each_round(site: &dyn Site) {
    let agents: Vec<_> = (0..5).map(|_| site.open()).collect();
    let first = claim(&resource("wanted"), LONG);
    let (mut victim, mut last) = (first.lease, granted(&*agents[0], &first).await.fence);
    for round in 0..ROUNDS {
        let breakers: Vec<_> = (0..BREAKERS).map(|_| breaking(&first.resource, victim)).collect();
        let tasks: Vec<_> = breakers
            .iter()
            .cloned()
            .zip(agents.iter().cloned().cycle())
            .map(|(claim, agent)| tokio::spawn(async move { contend(&*agent, &claim).await }))
            .collect();
        let (mut winners, mut losers) = (Vec::new(), Vec::new());
        for (task, breaker) in tasks.into_iter().zip(&breakers) {
            match task.await.expect("a breaker") {
                Attempt::Granted(grant) => winners.push((breaker.lease, grant.fence)),
                Attempt::Held(Some(holder)) => losers.push(holder.lease),
                other => panic!("round {round}: {other:?}"),
            }
        }
        let [(winner, fence)] = winners[..] else { panic!("round {round}: {winners:?}") };
        assert!(fence > last, "round {round}: {fence:?} after {last:?}");
        assert!(losers.iter().all(|holder| *holder == winner), "round {round}: {losers:?}");
        (victim, last) = (winner, fence);
    }
}

pub(crate) async fn a_cancel_ends_a_break_for_good(site: &dyn Site) {
    let seed = random();
    let (one, two) = (site.open(), site.open());
    let (mut cut, mut broken) = (0, 0);
    let resources: Vec<_> = (0..4).map(|n| resource(&format!("race{n}"))).collect();
    let mut victims: Vec<Option<LeaseId>> = vec![None; resources.len()];
    for race in 0..RACES {
        let at = usize::try_from(race).unwrap() % resources.len();
        let on = &resources[at];
        let victim = match victims[at] {
            Some(victim) => victim,
            None => {
                let victim = claim(on, LONG);
                granted(&*two, &victim).await;
                victim.lease
            }
        };
        let breaker = breaking(on, victim);
        let roll = mix(seed ^ race);
        if race % 8 == 0 {
            granted(&*one, &breaker).await;
        }
        let mut call = one.acquire(&breaker);
        cut += u64::from(polled(&mut call, roll % 24).await.is_none());
        // The driver drops it before; what is on its way may go on all the same.
        let dropped_first = roll >> 32 & 1 == 0;
        let still = if dropped_first {
            drop(call);
            None
        } else {
            Some(call)
        };
        cancel(&*two, &breaker).await;
        drop(still);
        victims[at] = holding(&*two, on).await;
        broken += u64::from(victims[at].is_none());
        let is_victim = victims[at].is_none_or(|holder| holder == victim);
        assert!(is_victim, "race {race} of seed {seed}: {victims:?}");
    }
    // Whatever an abandoned call had sent has arrived by the time that a whole call has.
    granted(&*one, &claim(&resource("after"), LONG)).await;
    for (on, victim) in resources.iter().zip(victims) {
        assert_eq!(holding(&*two, on).await, victim, "an orphan, seed {seed}");
    }
    println!("{RACES} races, {cut} breaks cut short, {broken} done and cancelled, seed {seed}");
}

pub(crate) async fn a_break_never_takes_the_lease_that_came_after(site: &dyn Site) {
    let seed = random();
    let (one, two) = (site.open(), site.open());
    let on = resource("heirs");
    let until = clock::now() + RACING;
    let (mut races, mut broken, mut last) = (0, 0, Fence(0));
    while races < RACES_MIN || clock::now() < until {
        let victim = claim(&on, LONG);
        last = last.max(granted(&*one, &victim).await.fence);
        let (breaker, heir) = (breaking(&on, victim.lease), claim(&on, LONG));
        let roll = mix(seed ^ races);
        let (known, heirs) = (proof(&victim), two.clone());
        let succession = async {
            heirs.release(&known).await.expect("a release");
            contend(&*heirs, &heir).await
        };
        let (of_breaker, of_heir) = if roll >> 32 & 1 == 0 {
            let mut call = one.acquire(&breaker);
            let early = polled(&mut call, roll % 24).await;
            let of_heir = succession.await;
            let answer = match early {
                Some(answer) => answer,
                None => call.await,
            };
            (answer.expect("an acquire"), of_heir)
        } else {
            tokio::join!(contend(&*one, &breaker), succession)
        };
        let of_breaker = match of_breaker {
            Attempt::Moved | Attempt::Held(None) => contend(&*one, &breaker).await,
            answer => answer,
        };
        let (winner, grant) = match (&of_breaker, &of_heir) {
            (Attempt::Granted(grant), Attempt::Held(Some(holder)))
                if holder.lease == breaker.lease =>
            {
                broken += 1;
                (&breaker, grant)
            }
            (Attempt::Gone, Attempt::Granted(grant)) => (&heir, grant),
            (Attempt::Held(Some(holder)), Attempt::Granted(grant))
                if holder.lease == heir.lease =>
            {
                (&heir, grant)
            }
            both => panic!("race {races} of seed {seed}: {both:?}, victim {victim:?}"),
        };
        assert!(grant.fence > last, "race {races} of seed {seed}: {grant:?} after {last:?}");
        last = grant.fence;
        let holder = holding(&*two, &on).await;
        assert_eq!(holder, Some(winner.lease), "race {races} of seed {seed}");
        one.release(&proof(winner)).await.expect("a release");
        races += 1;
    }
    println!("{races} races, {broken} broken, seed {seed}");
}

pub(crate) async fn what_others_hold_can_be_broken(site: &dyn Site) {
    let others = site.others().expect("a store with other writers");
    let agent = site.open();
    for ttl in [Some(ttl(LONG)), None] {
        let (before, python) = (claim(&resource("python"), LONG), lease());
        let on = &before.resource;
        let first = granted(&*agent, &before).await;
        agent.release(&proof(&before)).await.expect("a release");
        // Also under a name where none of ours was before.
        for on in [on, &resource("theirs")] {
            others.lock(on, python, ttl).await.expect("a lock");
            let dump = others.dump(on).await.expect("a dump");
            let wrong = breaking(on, before.lease);
            let answer = agent.acquire(&wrong).await.expect("an acquire");
            let Attempt::Held(Some(holder)) = answer else { panic!("{answer:?}") };
            assert_eq!(holder.lease, python);
            assert_eq!(others.dump(on).await.expect("a dump"), dump);

            let breaker = breaking(on, python);
            let grant = granted(&*agent, &breaker).await;
            assert!(grant.fence > first.fence, "{grant:?} after {first:?}");
            let holder = agent.holder(on).await.expect("a holder").expect("somebody");
            check_holder(site, &holder, &breaker, grant);
            let dump = others.dump(on).await.expect("a dump");
            let theirs = Claim { lease: python, ..claim(on, LONG) };
            check_not_holding(&*agent, &theirs, breaker.lease).await;
            assert_eq!(others.dump(on).await.expect("a dump"), dump);
            agent.release(&proof(&breaker)).await.expect("a release");
            assert_eq!(holding(&*agent, on).await, None);
        }
    }
}

/// For stores whose ids are not narrow: the suite's others are.
pub(crate) async fn a_break_compares_all_128_bits(site: &dyn Site) {
    let agent = site.open();
    let id = u128::from(random()) << 64 | u128::from(random());
    let wide = |id: u128| LeaseId::from_bytes(id.to_be_bytes());
    let victim = Claim { lease: wide(id), ..claim(&resource("wide"), LONG) };
    granted(&*agent, &victim).await;
    for near in [id ^ 1, id ^ (1 << 63), id ^ (1 << 64), id ^ (1 << 127)] {
        let answer = agent.acquire(&breaking(&victim.resource, wide(near))).await;
        let answer = answer.expect("an acquire");
        assert!(matches!(answer, Attempt::Held(Some(_))), "{answer:?}");
        assert_eq!(holding(&*agent, &victim.resource).await, Some(victim.lease));
    }
    granted(&*agent, &breaking(&victim.resource, victim.lease)).await;
}

pub(crate) async fn a_watch_tells_of_a_break(site: &dyn Telling) {
    let (store, other) = (site.open(), site.open());
    let victim = claim(&resource("broken"), LONG);
    granted(&*other, &victim).await;
    let mut watch = Watch::start(&store, &victim.resource);
    watch.heard("that it works").await;
    granted(&*other, &breaking(&victim.resource, victim.lease)).await;
    watch.heard("of a break").await;
}
