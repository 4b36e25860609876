//! How an agent of the world dies and starts again.

use super::*;

impl World {
    /// The agent dies; of what it did not sync, any beginning survives. With a reboot its people
    /// are gone too, and the clock begins anew.
    pub(super) fn crash(&mut self, agent: usize, reboot: bool) {
        let downtime = self.dice.below(8 * SECOND);
        if self.tells {
            println!("{:.6} agent {agent} crashes, reboot: {reboot}", secs(self.now));
        }
        let known = &self.agents[agent];
        let safe = if reboot { known.durable } else { known.durable.max(known.written) };
        let open = (known.journal.len() - safe) as u64;
        let survives = safe as u64 + self.dice.below(open + 1);
        let offset = self.dice.below(1000) * SECOND;
        let now = self.now;
        let known = &mut self.agents[agent];
        known.journal.truncate(usize::try_from(survives).expect("small"));
        (known.durable, known.written) = (known.journal.len(), 0);
        known.table = None;
        known.life += 1;
        known.waiting.clear();
        known.wakes_at = None;
        // The sessions of a dead agent are gone, and what was asked through them.
        self.gone_sessions.extend(known.sessions.values().map(|(session, _)| *session));
        self.gone_sessions.extend(known.taken.iter().map(|(_, session, _)| *session));
        known.sessions.clear();
        known.shares.clear();
        known.waiting_for.clear();
        known.watching.clear();
        known.over.retain(|_, lost| *lost);
        if reboot {
            let takers = known.taken.iter().map(|(_, session, _)| session);
            let sharers = known.sharers.values().flatten().map(|(session, _)| session);
            self.gone_processes.extend(takers.chain(sharers).map(|session| process(*session)));
            known.beliefs.clear();
            known.lingering.clear();
            known.boot += 1;
            // The clock shows some small time after boot.
            known.offset = offset;
            known.missed = now;
        }
        let life = known.life;
        self.later(downtime, Happening::Start { agent, life });
    }

    pub(super) fn start(&mut self, agent: usize) {
        let law = if let Off::Core(law) = self.off { Some(law) } else { None };
        let seed = self.dice.next();
        let moment_ms = i64::try_from(self.moment(agent).as_nanos() / 1_000_000).expect("small");
        let wall_ms = i64::try_from(self.now / 1_000_000).expect("small");
        let known = &mut self.agents[agent];
        let boot = Record::Boot { id: [known.boot; 16], wall_at_boot: UnixMs(wall_ms - moment_ms) };
        known.journal.push(boot);
        known.durable = known.journal.len();
        let mut memory = Memory::default();
        for record in &known.journal {
            memory.apply(record.clone());
        }
        // What a start reads, it writes anew: the fold must say the same.
        let mut again = Memory::default();
        for record in memory.records() {
            again.apply(record);
        }
        assert_eq!(again, memory);
        known.journal = memory.records();
        known.durable = known.journal.len();
        // What the journal still knows of fences binds this life too.
        let fences = memory.leases.values().filter_map(|lease| Some((lease, lease.fence?)));
        known.fences.clear();
        for (lease, fence) in fences {
            let highest = known.fences.entry(lease.intent.claim.resource.clone()).or_insert(fence);
            *highest = fence.max(*highest);
        }
        known.table = Some(super::super::table(law, seed));
        self.tell(agent, Input::Recover(Box::new(memory)));
    }
}
