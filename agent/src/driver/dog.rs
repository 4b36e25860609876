//! systemd's watchdog, as long as the driver's loop goes round.

use std::time::Duration;

use crate::clock::{self, Alarm};
use crate::systemd;

/// Feeds systemd's watchdog from the loop that renews, so that a loop that hangs is noticed.
pub(super) struct Dog {
    alarm: Alarm,
    every: Option<Duration>,
}

impl Dog {
    pub(super) fn new() -> std::io::Result<Dog> {
        let mut dog = Dog { alarm: Alarm::new()?, every: systemd::watchdog_every() };
        dog.feed();
        Ok(dog)
    }

    fn feed(&mut self) {
        self.alarm.set(self.every.map(|every| clock::now() + every));
    }

    pub(super) async fn barks(&mut self) {
        self.alarm.rings().await;
        systemd::watchdog();
        self.feed();
    }
}
