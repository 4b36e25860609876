//! What the program writes to stderr: the last of it is kept, for the reason of an error and for
//! `doctor`. It goes nowhere else, so a program that complains without end fills no log.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{MissedTickBehavior, interval};

use super::said::tame;

/// Lines that are kept: enough for the end of a backtrace.
const LINES_MAX: usize = 4;
/// Characters of each line that are kept.
const LINE_MAX: usize = 160;
/// Bytes of a line that are looked at.
const RAW_MAX: usize = 1024;
/// What is read in [`PACE`]; whoever writes more waits.
const BURST: usize = 64 * 1024;
const PACE: Duration = Duration::from_secs(1);

/// The last lines of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<VecDeque<String>>);

impl Tail {
    /// Reads until the stream ends.
    pub(super) async fn read(&self, mut stream: impl AsyncRead + Unpin) {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut line, mut bytes) = (Vec::new(), [0; 4096]);
        loop {
            pace.tick().await;
            let mut burst = 0;
            while burst < BURST {
                let read = match stream.read(&mut bytes).await {
                    Ok(0) | Err(_) => return self.keep(&mut line),
                    Ok(read) => read,
                };
                burst += read;
                for byte in bytes.iter().take(read) {
                    match byte {
                        b'\n' => self.keep(&mut line),
                        _ if line.len() < RAW_MAX => line.push(*byte),
                        _ => {}
                    }
                }
            }
        }
    }

    fn keep(&self, line: &mut Vec<u8>) {
        let text = tame(&String::from_utf8_lossy(line), LINE_MAX);
        line.clear();
        if text.is_empty() {
            return;
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(text);
    }

    /// The last lines in one; `None` if there was none.
    pub(super) fn text(&self) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        (!lines.is_empty()).then(|| lines.join(" | "))
    }
}
