//! What somebody sees who waits: on a terminal that can clear a line one that is drawn anew each
//! second, elsewhere one sentence for each change.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use stormlock_protocol::message::{Lock, Waiting};

use super::text::{cut, visible};
use super::{View, say, voice};
use crate::run::signals::thread_without;
use crate::time;

/// How often the line is drawn: it shows seconds.
const EVERY: Duration = Duration::from_secs(1);
/// The width of a terminal that does not tell its own.
const USUAL_COLUMNS: u16 = 80;
/// How long the line is waited for to be cleared: a terminal that was stopped (Ctrl-S) does that
/// later, and what was waited for is not let go for it.
const CLEAR_MAX: Duration = Duration::from_millis(500);
/// Goes to the beginning of the line and clears it.
const AGAIN: &str = "\r\x1b[K";

/// Shows a wait until it is dropped.
pub(crate) struct Progress {
    news: Option<Sender<Waiting>>,
    /// Closed when the line was cleared.
    drawing: Option<Receiver<()>>,
    is_quiet: bool,
    /// It is said already that nothing can be asked.
    is_away_told: Cell<bool>,
}

impl Progress {
    pub(crate) fn new(view: &View) -> Progress {
        let (sender, news) = channel();
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_drawn = !view.is_quiet && std::io::stderr().is_terminal() && !is_dumb;
        let (draws, drawing) = channel();
        let drawing = is_drawn.then_some(drawing).filter(|_| {
            let started = thread_without("progress", move || {
                draw(&news);
                drop::<Sender<()>>(draws);
            });
            started.is_ok()
        });
        let news = drawing.is_some().then_some(sender);
        Progress { news, drawing, is_quiet: view.is_quiet, is_away_told: Cell::new(false) }
    }

    pub(crate) fn show(&self, waiting: Waiting) {
        self.is_away_told.set(false);
        match &self.news {
            // A thread that cannot draw is no reason to stop waiting.
            Some(news) => drop(news.send(waiting)),
            None if self.is_quiet => {}
            None => say(&sentence(&waiting)),
        }
    }
}

impl Progress {
    /// Says, once until the wait is shown again, why nothing can be asked, and that it goes on.
    pub(crate) fn away(&self, why: &str) {
        if !self.is_quiet && !self.is_away_told.replace(true) {
            let clear = if self.news.is_some() { AGAIN } else { "" };
            let why = visible(why);
            voice::tell(format!("{clear}stormctl: {why}; the wait goes on, and asks again\n"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.news = None;
        if let Some(drawing) = self.drawing.take() {
            let _ = drawing.recv_timeout(CLEAR_MAX);
        }
    }
}

fn draw(news: &Receiver<Waiting>) {
    let mut shown: Option<(Waiting, jiff::Zoned)> = None;
    loop {
        match news.recv_timeout(EVERY) {
            Ok(waiting) => shown = Some((waiting, time::now())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some((waiting, since)) = &shown {
            let told = tcgetwinsize(std::io::stderr()).map(|size| size.ws_col);
            let columns = told.ok().filter(|columns| *columns > 0).unwrap_or(USUAL_COLUMNS);
            let text = cut(&visible(&line(waiting, since)), usize::from(columns.max(2)) - 1);
            put(&format!("{AGAIN}{text}"));
        }
    }
    if shown.is_some() {
        put(AGAIN);
    }
}

/// In one piece: others may write to the same terminal.
fn put(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The line now; what the agent said is `since` old.
fn line(waiting: &Waiting, since: &jiff::Zoned) -> String {
    let now = time::now();
    let passed = now.duration_since(since).as_millis();
    let passed = u64::try_from(passed).unwrap_or(0);
    let mut text = format!("waiting for {}", waiting.resource);
    if let Some(lock) = &waiting.holder {
        text += &format!(": {}", holder(lock));
        if let Some(left) = lock.left_ms {
            text += &format!(", {} left", time::short(left.saturating_sub(passed) / 1_000));
        }
    }
    text + &place(waiting)
}

/// The same for a log.
fn sentence(waiting: &Waiting) -> String {
    let held = waiting.holder.as_deref().map(|lock| format!(", {}", held(lock)));
    let held = held.unwrap_or_default();
    format!("waiting for {}{held}{}", waiting.resource, place(waiting))
}

/// Whoever waits for a lease of their own is told so: it may be another job of theirs, or the one
/// that only they can give back.
fn held(lock: &Lock) -> String {
    let on = &lock.resource;
    match lock.process {
        _ if lock.is_in_place_of_broken() => format!("whose lease {} broke", lock.principal),
        Some(process) if lock.mine => format!("yours until process {} has ended", process.pid),
        None if lock.mine => {
            format!("yours already (lease {}): `stormctl release {on}` gives it back", lock.lease)
        }
        _ => format!("held by {}", lock.principal),
    }
}

fn holder(lock: &Lock) -> String {
    if lock.mine || lock.is_in_place_of_broken() {
        return held(lock);
    }
    let why = lock.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{}{why}", lock.principal)
}

fn place(waiting: &Waiting) -> String {
    match (waiting.place, waiting.of) {
        (_, ..=1) => String::new(),
        (1, of) => format!(", you are next of {of}"),
        (place, of) => format!(", you are number {place} of {of}"),
    }
}
