//! What the program writes to stderr: the last of it is kept, for the reason of an error and for
//! `doctor`. It goes nowhere else, so a program that complains without end fills no log.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::super::tame;
use super::mask::Mask;

/// Lines that are kept: enough for the end of a backtrace.
const LINES_MAX: usize = 4;
/// Characters of each line that are kept.
const LINE_MAX: usize = 160;
/// Bytes of a line that are looked at.
const RAW_MAX: usize = 1024;
/// Bytes that are read before a pause of [`PAUSE`]: whoever writes more waits, and the agent has
/// better to do.
const BURST: usize = 64 * 1024;
const PAUSE: Duration = Duration::from_secs(1);

/// The last lines of a stream.
#[derive(Debug)]
pub(super) struct Tail {
    lines: Mutex<VecDeque<String>>,
    mask: Mask,
}

impl Tail {
    pub(super) fn new(mask: Mask) -> Tail {
        Tail { lines: Mutex::default(), mask }
    }

    /// Reads until the stream ends.
    pub(super) async fn read(&self, mut stream: impl AsyncRead + Unpin) {
        let (mut line, mut bytes, mut burst) = (Vec::new(), [0; 4096], 0);
        loop {
            let read = match stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return self.keep(&mut line),
                Ok(read) => read,
            };
            for byte in bytes.iter().take(read) {
                match byte {
                    b'\n' => self.keep(&mut line),
                    _ if line.len() < RAW_MAX => line.push(*byte),
                    _ => {}
                }
            }
            burst += read;
            if burst >= BURST {
                burst = 0;
                let _ = timeout(PAUSE, std::future::pending::<()>()).await;
            }
        }
    }

    fn keep(&self, line: &mut Vec<u8>) {
        let mut text = self.mask.hide(&String::from_utf8_lossy(line));
        if line.len() == RAW_MAX {
            text = self.mask.hide_end(text);
        }
        let text = tame(&text, LINE_MAX);
        line.clear();
        if text.is_empty() {
            return;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(text);
    }

    /// The last lines in one; `None` if there was none.
    pub(super) fn text(&self) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        (!lines.is_empty()).then(|| lines.join(" | "))
    }
}
