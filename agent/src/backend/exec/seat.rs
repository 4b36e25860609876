//! Where the one program of a backend sits: started by the first question, and anew by a later one
//! after it ended, at a bounded pace.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Options;
use super::asked::Question;
use super::program::Program;
use super::said::{Ready, Said};
use super::trouble::Trouble;
use crate::clock;
use crate::lease::Moment;

/// A program that ends at once is started no more often than this: each start is a process.
const START_EVERY: Duration = Duration::from_secs(1);

/// The place of the program.
#[derive(Debug)]
pub(super) struct Seat(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Options,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    slot: Slot,
    started: Option<Moment>,
    /// How the last start failed, or the last run ended.
    why: String,
    ready: Option<Ready>,
}

#[derive(Debug)]
enum Slot {
    Empty,
    Starting(watch::Receiver<Option<Started>>),
    Taken(Arc<Program>),
}

type Started = Result<Arc<Program>, Trouble>;

/// What a question finds.
enum Found {
    Program(Arc<Program>),
    Starting(watch::Receiver<Option<Started>>),
    TooSoon(Trouble),
}

impl Seat {
    pub(super) fn new(options: Options) -> Seat {
        let state = State { slot: Slot::Empty, started: None, why: String::new(), ready: None };
        Seat(Arc::new(Shared { options, state: Mutex::new(state) }))
    }

    /// How the program last introduced itself.
    pub(super) fn ready(&self) -> Option<Ready> {
        self.0.state().ready.clone()
    }

    /// The end of what the running program wrote to stderr.
    pub(super) fn last_words(&self) -> Option<String> {
        match &self.0.state().slot {
            Slot::Taken(program) => program.last_words(),
            Slot::Empty | Slot::Starting(_) => None,
        }
    }

    /// Asks the program, which is started first where it must be.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Said, Trouble> {
        self.program().await?.ask(question).await
    }

    async fn program(&self) -> Result<Arc<Program>, Trouble> {
        let mut starting = match self.0.find() {
            Found::Program(program) => return Ok(program),
            Found::TooSoon(trouble) => return Err(trouble),
            Found::Starting(starting) => starting,
        };
        let started = match starting.wait_for(Option::is_some).await {
            Ok(started) => started.clone(),
            Err(_) => None,
        };
        started.unwrap_or_else(|| Err(Trouble::unreachable("the agent is stopping")))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task that starts a program belongs to no question, so a caller with little patience does
    /// not spoil it for the others.
    fn find(self: &Arc<Shared>) -> Found {
        let mut state = self.state();
        let fault = match &state.slot {
            Slot::Taken(program) => match program.fault() {
                None => return Found::Program(program.clone()),
                Some(why) => Some(why),
            },
            // A task that died with its runtime has closed the channel.
            Slot::Starting(waits) if waits.has_changed().is_ok() => {
                return Found::Starting(waits.clone());
            }
            Slot::Empty | Slot::Starting(_) => None,
        };
        if let Some(why) = fault {
            (state.slot, state.why) = (Slot::Empty, why);
        }
        let now = clock::now();
        if state.started.is_some_and(|at| at.until(now) < START_EVERY) {
            let why = format!("{}; it is started again in a second", state.why);
            return Found::TooSoon(Trouble::unreachable(why));
        }
        state.started = Some(now);
        let (done, waits) = watch::channel(None);
        state.slot = Slot::Starting(waits.clone());
        let shared = self.clone();
        tokio::spawn(async move {
            let started = shared.start().await;
            let _ = done.send(Some(started));
        });
        Found::Starting(waits)
    }

    async fn start(&self) -> Started {
        let started = Program::start(&self.options).await;
        let mut state = self.state();
        match started {
            Ok((program, ready)) => {
                let program = Arc::new(program);
                state.slot = Slot::Taken(program.clone());
                state.ready = Some(ready);
                Ok(program)
            }
            Err(trouble) => {
                let path = self.options.command.first().map_or("", String::as_str);
                let trouble = trouble.of_reading().while_doing(&format!("starting {path}"));
                state.slot = Slot::Empty;
                state.why = trouble.why().to_owned();
                Err(trouble)
            }
        }
    }
}
