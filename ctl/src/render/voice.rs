//! What is said to people, by a thread of its own where something is held meanwhile: a terminal
//! that was stopped (Ctrl-S) or a pipe that nobody reads holds up whoever writes into it, and the
//! deadline of a lease waits for nobody.
//!
//! Not here: what is said.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use crate::run::signals::thread_without;

/// How much may wait to be read. What comes after that is dropped: a reader that is so far behind
/// reads nothing, and none of it is worth a deadline.
const QUEUE_MAX: usize = 64;
/// How long the last words are waited for: well below the second before the deadline that is left
/// for everything, and longer than any reader takes that reads at all.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

/// The thread, once there is one. There is one stderr, and nothing that writes to it may forget.
static VOICE: OnceLock<SyncSender<Said>> = OnceLock::new();

enum Said {
    Text(String),
    /// Tells when everything before it was written.
    Last(Sender<()>),
}

/// From now on nothing that is said holds up whoever says it.
pub(crate) fn of_its_own() -> io::Result<()> {
    let (queue, said) = sync_channel(QUEUE_MAX);
    thread_without("voice", move || speak(&said))?;
    let _ = VOICE.set(queue);
    Ok(())
}

/// Says whole lines. Whether anybody reads them is not our business.
pub(crate) fn tell(text: String) {
    match VOICE.get() {
        Some(queue) => drop(queue.try_send(Said::Text(text))),
        None => write(&text),
    }
}

/// Gives what was said last a moment to be written.
pub(crate) fn finish() {
    let Some(queue) = VOICE.get() else { return };
    let (told, written) = channel();
    if queue.try_send(Said::Last(told)).is_ok() {
        let _ = written.recv_timeout(LAST_WORDS_MAX);
    }
}

fn speak(said: &Receiver<Said>) {
    for one in said {
        match one {
            Said::Text(text) => write(&text),
            Said::Last(told) => drop(told.send(())),
        }
    }
}

/// In one piece: others may write to the same place.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
