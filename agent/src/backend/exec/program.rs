//! One run of the program: questions go in as lines, answers come out as lines, in any order.
//!
//! A run ends when the program ends, says what is no answer, or is let go; its process and all
//! that it started are killed then. No retries here, and no timers but the bound on its greeting.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{FusedFuture, FutureExt};
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use super::super::tame;
use super::Options;
use super::asked::{Asking, PROTOCOL, Question};
use super::life::{Life, Pipes};
use super::mask::Mask;
use super::open::Open;
use super::said::{Answer, Ready, Said};
use super::tail::Tail;
use super::trouble::Trouble;
use crate::clock;

/// Longest answer, in bytes: a page of locks with the longest texts, twice.
const LINE_MAX: usize = 1024 * 1024;
/// Longest time to greet: an interpreter on a busy host takes seconds to start. A caller's patience
/// is shorter, and does not end it.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// How long a program that closed its output may take to end, and what it wrote to arrive.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Characters of a line that is no answer that are told.
const STRANGE_MAX: usize = 120;

type Line = (u64, Zeroizing<Vec<u8>>);

/// A run that was greeted. The last one to let go of it ends it.
pub(super) struct Program {
    open: Arc<Open>,
    tail: Arc<Tail>,
    mask: Mask,
    // As many at most as questions may be open.
    lines: mpsc::UnboundedSender<Line>,
    keeper: AbortHandle,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Drops the process, which kills it.
        self.keeper.abort();
    }
}

impl Program {
    /// Starts it and lets it introduce itself.
    pub(super) async fn start(options: &Options) -> Result<(Program, Ready), Trouble> {
        let (life, pipes) = Life::start(options).await?;
        let mask = Mask::new(options.password.as_ref());
        let (open, tail) = (Arc::new(Open::new()), Arc::new(Tail::new(mask.clone())));
        let (lines, asked) = mpsc::unbounded_channel();
        let keeper =
            tokio::spawn(keep(life, pipes, asked, open.clone(), tail.clone(), mask.clone()));
        let program = Program { open, tail, mask, lines, keeper: keeper.abort_handle() };
        let hello = Question::Hello {
            protocol: PROTOCOL,
            agent: env!("CARGO_PKG_VERSION"),
            password: options.password.as_ref().map(ExposeSecret::expose_secret),
        };
        let secs = HELLO_MAX.as_secs();
        let said = tokio::time::timeout(HELLO_MAX, program.ask(&hello)).await;
        let said = said.unwrap_or_else(|_| {
            let why = format!("it did not greet within {secs} s{}", program.complaint());
            Err(Trouble::unreachable(why))
        })?;
        match said {
            Said::Ready(ready) if ready.protocol == PROTOCOL => Ok((program, ready)),
            Said::Ready(ready) => {
                let its = ready.protocol;
                let why = format!("it speaks protocol {its}, this agent {PROTOCOL}: update one");
                Err(Trouble::unreachable(why))
            }
            said => Err(said.no()),
        }
    }

    /// Asks and waits for the answer.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Said, Trouble> {
        let place = match question {
            Question::Hello { .. } => None,
            Question::Renew { .. } => Some(self.open.place(true).await),
            _ => Some(self.open.place(false).await),
        };
        let (tell, answer) = oneshot::channel();
        let id = self.open.add(tell, place)?;
        let _waiting = Waiting { open: &self.open, id };
        let line = serde_json::to_vec(&Asking { id, question });
        let mut line = Zeroizing::new(line.map_err(|error| {
            // None of our types can do this; nothing was sent.
            Trouble::unreachable(format!("writing the question: {error}"))
        })?);
        line.push(b'\n');
        // A run that ended has answered for all its questions.
        let _ = self.lines.send((id, line));
        let stopping = || Err(Trouble::silence("the agent is stopping"));
        let said = answer.await.unwrap_or_else(|_| stopping())?;
        Ok(said.masked(&self.mask))
    }

    /// Why no further question should go there, if that is so; then it is over with it.
    pub(super) fn fault(&self) -> Option<String> {
        let why = self.open.fault(clock::now())?;
        self.open.end(&format!("the program is gone: {why}"));
        self.keeper.abort();
        Some(why)
    }

    /// The end of what it wrote to stderr.
    pub(super) fn last_words(&self) -> Option<String> {
        self.tail.text()
    }

    fn complaint(&self) -> String {
        complaint(&self.tail)
    }
}

/// A caller that waits for an answer; it may go at any point.
struct Waiting<'a> {
    open: &'a Open,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.open.abandon(self.id);
    }
}

/// Why a run ended.
enum Ended {
    /// It said or did what the protocol does not allow.
    Wrong(String),
    /// It reads or writes no more, or is gone.
    Silent,
}

/// Keeps one run until it ends.
async fn keep(
    mut life: Life,
    pipes: Pipes,
    asked: mpsc::UnboundedReceiver<Line>,
    open: Arc<Open>,
    tail: Arc<Tail>,
    mask: Mask,
) {
    let mut reading = pin!(tail.read(pipes.stderr).fuse());
    let ended = tokio::select! {
        // What it answered before it ended counts.
        biased;
        ended = hear(pipes.stdout, &open, &mask) => ended,
        ended = speak(pipes.stdin, asked, &open) => ended,
        () = life.ends() => Ended::Silent,
        () = async { (&mut reading).await; std::future::pending().await } => Ended::Silent,
    };
    if let Ended::Silent = ended {
        let _ = tokio::time::timeout(LAST_WORDS, life.ends()).await;
    }
    let status = life.finish().await;
    if !reading.is_terminated() {
        let _ = tokio::time::timeout(LAST_WORDS, reading).await;
    }
    let why = match (ended, status) {
        (Ended::Wrong(why), _) => why,
        (Ended::Silent, Some(status)) => format!("it ended ({status})"),
        (Ended::Silent, None) => "it closed its input or output, or was killed".to_owned(),
    };
    open.end(&format!("the program is gone: {why}{}", complaint(&tail)));
}

fn complaint(tail: &Tail) -> String {
    tail.text().map(|text| format!("; it wrote: {text}")).unwrap_or_default()
}

async fn hear(stdout: ChildStdout, open: &Open, mask: &Mask) -> Ended {
    let mut lines = FramedRead::new(stdout, LinesCodec::new_with_max_length(LINE_MAX));
    loop {
        let line = match lines.next().await {
            Some(Ok(line)) => line,
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                return Ended::Wrong(format!("it wrote a line of more than {LINE_MAX} bytes"));
            }
            Some(Err(LinesCodecError::Io(error))) if !is_no_text(&error) => return Ended::Silent,
            Some(Err(error)) => return Ended::Wrong(format!("it wrote what is no text: {error}")),
            None => return Ended::Silent,
        };
        let settled = match serde_json::from_str::<Answer>(&line) {
            Ok(Answer { id, said }) => open.settle(id, said),
            Err(error) => Err(format!(
                "it wrote what is no answer: {} ({})",
                tame(&mask.hide(&line), STRANGE_MAX),
                tame(&mask.hide(&error.to_string()), STRANGE_MAX)
            )),
        };
        if let Err(why) = settled {
            return Ended::Wrong(why);
        }
    }
}

/// Bytes that are no UTF-8 come as an error of this kind.
fn is_no_text(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::InvalidData
}

async fn speak(
    mut stdin: ChildStdin,
    mut asked: mpsc::UnboundedReceiver<Line>,
    open: &Open,
) -> Ended {
    while let Some((id, line)) = asked.recv().await {
        if open.leaves(id) && stdin.write_all(&line).await.is_err() {
            break;
        }
    }
    Ended::Silent
}
