//! What the threads of a run tell each other: when to stop, and when a store was last in reach.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How far a run is. Pauses in it end early when it does.
#[derive(Default)]
pub(crate) struct Course {
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Working,
    /// Users give back what they have and leave; who watches goes on.
    Leaving,
    Over,
}

impl Course {
    /// The run is over when this is dropped, also by a panic: nobody waits for a dead one.
    pub(crate) fn ends_with_this(&self) -> impl Drop + use<'_> {
        struct Ends<'a>(&'a Course);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.set(Stage::Over);
            }
        }
        Ends(self)
    }

    pub(crate) fn users_stop(&self) {
        self.set(Stage::Leaving);
    }

    pub(crate) fn users_work(&self) -> bool {
        self.stage() == Stage::Working
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stage() == Stage::Over
    }

    /// Somebody takes their time; not beyond a change of stage.
    pub(crate) fn pause(&self, ms: usize) {
        let time = Duration::from_millis(u64::try_from(ms).expect("a short time"));
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let now = *stage;
        let _ = self.changed.wait_timeout_while(stage, time, |stage| *stage == now);
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.changed.notify_all();
    }
}

/// When a question to a store left that was answered.
#[derive(Default)]
pub(crate) struct Pulse {
    asked: Mutex<u64>,
    beats: Condvar,
}

impl Pulse {
    pub(crate) fn beat(&self, asked: u64) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        self.beats.notify_all();
    }

    /// Waits for an answer to a question that left after `us`; false when there is none in time.
    pub(crate) fn beats_after(&self, us: u64, limit: Duration) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.beats.wait_timeout_while(asked, limit, |asked| *asked <= us);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}
