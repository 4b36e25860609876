//! What a long hold lives through, in a world where nothing else goes wrong.

use super::*;

const HOUR: u64 = 3600 * SECOND;
/// Longer than an agent is away, and its store asked again.
const BACK: u64 = 10 * SECOND;
/// By how much a clock here can be wrong after eight hours: 900 parts of a million.
const DRIFT: u64 = 30 * SECOND;

#[test]
fn a_hold_of_eight_hours_survives_ten_restarts_and_ends_when_it_was_to() {
    for seed in 0..20 {
        let mut world = World::new(seed, Off::Nothing);
        world.storm = false;
        let began = world.now;
        let end = world.moment(0) + Duration::from_nanos(8 * HOUR);
        let lease = world.takes("infra", 900, Hold::Until(end));
        world.play_until(began + BACK);
        for restart in 1..=10 {
            world.play_until(began + restart * HOUR * 3 / 4);
            match restart {
                5 => world.crash(0, true),
                // `systemctl restart`: it is told before.
                _ if restart % 2 == 0 => {
                    world.tell(0, Input::Stop);
                    world.play_until(world.now + SECOND);
                    world.crash(0, false);
                }
                _ => world.crash(0, false),
            }
            world.play_until(world.now + BACK);
            assert!(world.holds(lease), "seed {seed}: restart {restart} cost the lease");
        }
        world.play_until(began + 8 * HOUR - DRIFT);
        assert!(world.holds(lease), "seed {seed}: it ended before its time");
        world.play_until(began + 8 * HOUR + DRIFT);
        let row = world.store.row(world.store_now(), &resource("infra"));
        assert!(row.is_none(), "seed {seed}: it goes on after its end: {row:?}");
    }
}

impl World {
    /// True when the store has this lease and its agent says so.
    fn holds(&self, lease: LeaseId) -> bool {
        let row = self.store.row(self.store_now(), &resource("infra"));
        let table = self.agents[0].table.as_ref().expect("it runs");
        let view = table.view(self.moment(0), lease);
        row.is_some_and(|row| row.lease == lease)
            && view.is_some_and(|view| view.state == State::Held)
    }
}
