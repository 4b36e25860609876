//! The audit's thread: nobody but it waits for the file.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use stormlock_protocol::cause::plain;
use tokio::sync::oneshot;

use super::file::{AuditFile, FileError, Weight};
use super::line::{self, Line};
use crate::clock;

/// What the agent tells the thread.
#[derive(Debug)]
pub(super) enum Message {
    /// Write this line.
    Line(String),
    /// Write this line, bring it to disk, and say so.
    Durable(String, oneshot::Sender<Result<(), FileError>>),
    /// Say when all that came before is written, or is not going to be.
    Flush(oneshot::Sender<()>),
    /// Another file from now on, and another name of this host.
    Move(PathBuf, line::Writer),
}

/// How the file is, for everybody to see.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Lines that were not written since the agent started.
    pub(super) lost: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Health {
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what changed, each once.
    fn set(&self, error: Option<&FileError>, file: &AuditFile) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let file = file.path().display();
        match (trouble.is_some(), error) {
            (false, Some(why)) => {
                let why = in_words(why);
                tracing::error!(%file, %why, "the audit file cannot be written: events get lost");
                *trouble = Some(why);
            }
            (true, Some(why)) => *trouble = Some(in_words(why)),
            (true, None) => {
                tracing::info!(%file, "the audit file can be written again");
                *trouble = None;
            }
            (false, None) => {}
        }
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    file: AuditFile,
    names: line::Writer,
    health: Arc<Health>,
    /// How many of the lost lines the file tells of.
    told: u64,
}

impl Writer {
    pub(super) fn new(path: PathBuf, names: line::Writer, health: Arc<Health>) -> Writer {
        Writer { file: AuditFile::new(path), names, health, told: 0 }
    }

    /// Serves until nobody is left who could tell it something.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        self.look();
        while let Ok(message) = messages.recv() {
            match message {
                Message::Line(line) => {
                    if self.write(&line, Weight::Usual).is_err() {
                        self.health.lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Message::Durable(line, answer) => {
                    let written = self.write(&line, Weight::Durable);
                    let synced = written.and_then(|()| self.file.sync());
                    self.health.set(synced.as_ref().err(), &self.file);
                    // Whoever asked has lost patience; the line stands there all the same.
                    let _ = answer.send(synced);
                }
                Message::Flush(answer) => {
                    self.look();
                    let _ = answer.send(());
                }
                Message::Move(path, names) => {
                    if path != self.file.path() {
                        self.file = AuditFile::new(path);
                    }
                    self.names = names;
                    self.look();
                }
            }
        }
    }

    /// Finds out whether it can be written now, and tells of what is missing.
    fn look(&mut self) {
        let looked = self.file.look().and_then(|()| self.tell_gap());
        self.health.set(looked.as_ref().err(), &self.file);
    }

    fn write(&mut self, line: &str, weight: Weight) -> Result<(), FileError> {
        // What matters is not held up by what was lost before.
        let told = match (self.tell_gap(), weight) {
            (Err(error), Weight::Usual) => Err(error),
            (_, Weight::Durable) | (Ok(()), _) => Ok(()),
        };
        let written = told.and_then(|()| self.file.append(line, weight));
        self.health.set(written.as_ref().err(), &self.file);
        written
    }

    fn tell_gap(&mut self) -> Result<(), FileError> {
        let lost = self.health.lost.load(Ordering::Relaxed);
        if lost > self.told {
            let gap = Line::gap(lost - self.told, clock::wall(), &self.names);
            self.file.append(&gap.encode(), Weight::Usual)?;
            self.told = lost;
        }
        Ok(())
    }
}

/// An error with its cause.
fn in_words(error: &FileError) -> String {
    match error.source() {
        Some(cause) => plain(&format!("{error}: {cause}")),
        None => error.to_string(),
    }
}
