//! What the people of the world do, those with other tools, and fate.

use super::super::store::Row;
use super::*;

impl World {
    /// A person at one host does something.
    pub(super) fn person(&mut self, agent: usize) {
        let delay = self.dice.below(4 * SECOND);
        self.later(delay, Happening::Person { agent });
        let known = &self.agents[agent];
        if known.table.is_none() || known.asleep_until > self.now {
            return;
        }
        let leases: Vec<LeaseId> = known.beliefs.keys().copied().collect();
        let ticket = Ticket(self.fresh());
        match self.dice.below(12) {
            0..=4 => self.person_acquires(agent),
            5 if !leases.is_empty() => {
                let lease = *self.dice.pick(&leases);
                self.person_releases(agent, ticket, lease);
            }
            6 | 7 if !leases.is_empty() => {
                let lease = *self.dice.pick(&leases);
                let new = *self.dice.pick(&[1, 2, 5, 20, 60, 3600]);
                let ttl = self.dice.chance(500).then(|| ttl(new));
                let hold = self.dice.chance(300).then_some(Hold::Keep);
                self.tell(agent, Input::Renew { ticket, lease, ttl, hold });
            }
            8 => self.person_leaves(agent),
            9 => self.person_shares(agent),
            10 if self.dice.chance(300) => self.person_breaks(agent),
            _ => self.person_polls(agent),
        }
    }

    fn person_releases(&mut self, agent: usize, ticket: Ticket, lease: LeaseId) {
        let now = self.moment(agent);
        let known = &mut self.agents[agent];
        known.beliefs.remove(&lease);
        let view = known.table.as_ref().and_then(|table| table.view(now, lease));
        if let Some(view) = view
            && matches!(view.state, State::Held | State::AtRisk)
        {
            self.releasing.insert(ticket, (lease, view.deadline));
        }
        self.tell(agent, Input::Release { ticket, lease });
    }

    /// Whoever gives back what they believe in hears whether somebody took it away before; but that
    /// one of several tries found nothing there is no sign of it.
    pub(super) fn tells_the_truth(&mut self, agent: usize, ticket: Ticket, answer: &Answer) {
        let Some((lease, deadline)) = self.releasing.remove(&ticket) else { return };
        let is_lost = matches!(answer, Answer::No(No::Lost(loss)) if *loss != Loss::Expired);
        let was_lost = self.broken.contains_key(&lease);
        let is_sure = self.releases.get(&lease) == Some(&1) && self.moment(agent) < deadline;
        if was_lost && is_sure && *answer == Answer::Released {
            panic!("{lease} was taken away, and whoever gave it back hears nothing of that");
        }
        assert!(
            !is_lost || !self.given_back.contains(&lease),
            "{lease} was given back: {answer:?}"
        );
    }

    fn person_acquires(&mut self, agent: usize) {
        let secs = *self.dice.pick(&[1, 2, 5, 20, 60, 3600]);
        let mut claims = Vec::new();
        for name in NAMES {
            if self.dice.chance(400) {
                claims.push(self.fresh_claim(agent, name, secs));
            }
        }
        if claims.is_empty() {
            return;
        }
        let end = self.moment(agent) + Duration::from_nanos(self.dice.below(90 * SECOND));
        let hold = *self.dice.pick(&[Hold::No, Hold::Keep, Hold::Until(end)]);
        let attached = self.dice.below(12);
        let ask = self.ask(agent, claims, hold, attached);
        self.tell(agent, ask);
    }

    /// Somebody takes a resource away, with no more grace than the lease needs that was seen, or
    /// less: what it needs in the end the store knows.
    fn person_breaks(&mut self, agent: usize) {
        let name = *self.dice.pick::<&str>(&NAMES);
        let Some(row) = self.store.row(self.store_now(), &resource(name)) else { return };
        let (seen, its_reason) = (row.lease, row.reason.clone());
        let left = (row.expires - self.store_now()) / SECOND;
        let why = Reason::new("it is needed").expect("a reason");
        let secs = 1 + self.dice.below(left + 1);
        let mut claim = self.fresh_claim(agent, name, secs);
        (claim.over, claim.reason) = (Some(seen), epitaph(seen, its_reason.as_ref(), &why));
        let Input::Acquire(mut ask) = self.ask(agent, vec![claim], Hold::No, 0) else { return };
        (ask.owner, ask.until) = (Uid::NOBODY, None);
        self.agents[agent].waiting_for.remove(&ask.ticket);
        self.tell(agent, Input::Acquire(ask));
    }

    /// Somebody's connection ends, perhaps while an answer is out.
    fn person_leaves(&mut self, agent: usize) {
        let asking = self.agents[agent].sessions.values().map(|(session, _)| *session);
        let holding = self.agents[agent].taken.iter().map(|(_, session, _)| *session);
        let sharing = self.agents[agent].sharers.values().flatten().map(|(session, _)| *session);
        let sessions: Vec<SessionId> = asking.chain(holding).chain(sharing).collect();
        if sessions.is_empty() {
            return;
        }
        let gone = *self.dice.pick(&sessions);
        if self.dice.chance(500) {
            return self.process_ends(agent, gone);
        }
        self.gone_sessions.insert(gone);
        let known = &mut self.agents[agent];
        let tickets = known.sessions.extract_if(.., |_, (session, _)| *session == gone);
        self.gone_tickets.extend(tickets.map(|(ticket, _)| ticket));
        let taken = known.taken.iter().filter(|(_, session, _)| *session == gone);
        for (lease, _, attach) in taken {
            if matches!(attach, Attach::Session(_)) {
                known.beliefs.remove(lease);
            }
        }
        known.waiting_for.retain(|ticket, _| known.sessions.contains_key(ticket));
        self.tell(agent, Input::Gone(gone));
    }

    /// The process ends that whoever has this session would have its leases follow.
    fn process_ends(&mut self, agent: usize, of: SessionId) {
        let process = process(of);
        self.gone_processes.insert(process);
        let known = &self.agents[agent];
        let attached = known.taken.iter().filter(|(.., attach)| is_to_a_process(*attach));
        let over =
            attached.filter(|(lease, _, attach)| !self.goes_on(known, *lease, *attach, true));
        let over: Vec<LeaseId> = over.map(|(lease, ..)| *lease).collect();
        for lease in over {
            self.lingers(agent, lease);
        }
        self.tell(agent, Input::Ended(process));
    }

    /// Nobody believes in it any more; but those whom its holder held it for hear of that only now.
    fn lingers(&mut self, agent: usize, lease: LeaseId) {
        let now = self.moment(agent);
        let known = &mut self.agents[agent];
        let Some((on, until)) = known.beliefs.remove(&lease) else { return };
        let taken = known.taken.iter().find(|(it, ..)| *it == lease);
        let table = known.table.as_ref().expect("it runs");
        let Some((.., attach)) = taken else { return };
        let Some(view) = table.view(now, lease) else { return };
        let part = Duration::from_secs(view.claim.ttl.as_secs().into()) / 3;
        let until = until.min(now + attach.grace().min(part));
        known.lingering.insert(lease, (on, until));
    }

    /// Another command of somebody's counts on what ends with the first.
    fn person_shares(&mut self, agent: usize) {
        let known = &self.agents[agent];
        let attached = known.taken.iter().filter(|(lease, _, attach)| {
            is_to_a_process(*attach) && known.beliefs.contains_key(lease)
        });
        let leases: Vec<LeaseId> = attached.map(|(lease, ..)| *lease).collect();
        if leases.is_empty() {
            return;
        }
        let lease = *self.dice.pick(&leases);
        let others = known.sharers.values().flatten().map(|(session, _)| *session);
        let others: Vec<SessionId> =
            others.filter(|other| !self.gone_processes.contains(&process(*other))).collect();
        let ticket = Ticket(self.fresh());
        // One that shares another lease already, or this one.
        let by = match others.is_empty() || self.dice.chance(700) {
            true => SessionId(self.fresh()),
            false => *self.dice.pick(&others),
        };
        let known = &mut self.agents[agent];
        known.shares.insert(ticket, (lease, by));
        known.sharers.entry(lease).or_default().push((by, false));
        self.tell(agent, Input::Share { ticket, lease, process: process(by) });
    }

    /// Whoever asked to share a lease counts on it from now on.
    pub(super) fn shared(&mut self, agent: usize, ticket: Ticket) {
        let known = &mut self.agents[agent];
        let Some((lease, by)) = known.shares.remove(&ticket) else { return };
        let mut sharers = known.sharers.get_mut(&lease).expect("it was asked for").iter_mut();
        let (_, is_sure) = sharers.find(|(session, _)| *session == by).expect("it was asked for");
        *is_sure = true;
    }

    /// True while one of the processes is there that a lease ends with; of those that share it, the
    /// sure ones only, or all that may.
    pub(super) fn goes_on(
        &self,
        agent: &Agent,
        lease: LeaseId,
        attach: Attach,
        surely: bool,
    ) -> bool {
        let is_there = |process: &ProcessId| !self.gone_processes.contains(process);
        let sharers = agent.sharers.get(&lease).into_iter().flatten();
        let mut sharers = sharers.filter(|(_, is_sure)| *is_sure || !surely);
        attach.process().is_some_and(|process| is_there(&process))
            || sharers.any(|(session, _)| is_there(&process(*session)))
    }

    /// What nobody gave back ends with the last of its processes, whatever its hold says.
    pub(super) fn ends_with_its_processes(&self, agent: usize, view: &View) {
        let (known, lease) = (&self.agents[agent], view.claim.lease);
        let is_given_back = matches!(view.state, State::Releasing | State::Released);
        if !is_given_back || !known.beliefs.contains_key(&lease) {
            return;
        }
        let taken = known.taken.iter().find(|(it, ..)| *it == lease);
        let goes_on = taken.is_some_and(|(.., attach)| {
            is_to_a_process(*attach) && self.goes_on(known, lease, *attach, true)
        });
        assert!(!goes_on, "it ended before those who count on it: {view:?}");
    }

    fn person_polls(&mut self, agent: usize) {
        let moment = self.moment(agent);
        let table = self.agents[agent].table.as_ref().expect("it runs");
        for view in table.owned(moment, Uid(1000), None) {
            self.holds_now(agent, &view);
        }
    }

    pub(super) fn python(&mut self) {
        let delay = self.dice.below(3 * SECOND);
        self.later(delay, Happening::Python);
        let now = self.store_now();
        let on = resource(self.dice.pick::<&str>(&NAMES));
        let lease = LeaseId::from_bytes([u8::try_from(self.dice.below(256)).expect("small"); 16]);
        if self.dice.chance(500) {
            let ttl = Duration::from_secs(1 + self.dice.below(8));
            self.store.python_acquire(now, &on, lease, ttl);
            self.python.push((on, lease));
        } else if let Some((on, lease)) = self.python.pop() {
            let proof = Proof { resource: on, lease, nonces: Vec::new() };
            self.store.does(now, &Call::Release(proof));
        }
    }

    /// Somebody deletes a lock by hand, or restores the store from a backup.
    pub(super) fn admin(&mut self) {
        let delay = 30 * SECOND + self.dice.below(120 * SECOND);
        self.later(delay, Happening::Admin);
        let now = self.store_now();
        if self.dice.chance(300) {
            let lost = self.store.rows(now).flat_map(|(_, row)| row.of().collect::<Vec<_>>());
            self.broken.extend(lost.map(|lease| (lease, self.now)));
            let by_us = self.dice.below(600 * 1_000_000);
            self.store.restore(by_us);
        } else {
            let on = resource(self.dice.pick::<&str>(&NAMES));
            let lost = self.store.row(now, &on).into_iter().flat_map(Row::of);
            self.broken.extend(lost.map(|lease| (lease, self.now)));
            self.store.delete(&on);
        }
    }

    pub(super) fn fate(&mut self, agent: usize) {
        let delay = self.dice.below(30 * SECOND);
        self.later(delay, Happening::Fate { agent });
        match self.dice.below(6) {
            0 => self.crash(agent, false),
            1 => self.crash(agent, true),
            2 => self.outage[agent] = self.now + self.dice.below(20 * SECOND),
            3 | 4 => {
                let asleep = self.dice.below(30 * SECOND);
                self.agents[agent].asleep_until = self.now + asleep;
                match self.off == Off::BootClock {
                    true => self.agents[agent].missed += asleep,
                    false => {
                        let (life, input) = (self.agents[agent].life, Input::ClockJumped);
                        self.later(asleep, Happening::Tell { agent, life, input });
                    }
                }
            }
            _ => {
                let works = self.agents[agent].journal_breaks;
                self.agents[agent].journal_breaks = !works;
                if self.agents[agent].asleep_until <= self.now {
                    self.tell(agent, Input::Journal { works });
                }
            }
        }
    }
}

fn is_to_a_process(attach: Attach) -> bool {
    attach.process().is_some()
}
