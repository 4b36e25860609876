//! The questions that one run of the program was asked and did not answer yet.
//!
//! A caller may go at any point. A question that was not sent by then never is; one that was stays
//! here until its late answer came, so that an answer to nothing is told from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::super::asker;
use super::said::Said;
use super::trouble::Trouble;
use crate::clock;
use crate::lease::Moment;
use crate::turns::{Turn, Turns};

/// Most questions that are open at once: more than leases of one host are renewed in an attempt's
/// time, and a bound on what a mute program makes us keep.
const OPEN_MAX: usize = 1024;
/// Most of them that are none of a renewal: a program may answer one after the other, and a renewal
/// must not wait behind whatever all users of this host ask.
const OTHERS_MAX: usize = 4;
/// Most of these of one user. Who comes next waits for so many of each other user at most.
const OTHERS_EACH: usize = 2;
/// Most renewals of one user that are asked at once: more leases than a slow program can keep are
/// lost by whoever has them, not by everybody.
const RENEWALS_EACH: usize = 2;
/// Most answers that are lost: a program that owes so many forgets questions.
const LOST_MAX: usize = 256;
/// An answer that nobody waits for any more and that is so late is lost. A program that is slow is
/// none that forgets: it must have the time to answer everything that may be open at once, though
/// whoever asked went long ago, or it would be killed again and again and never get done.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// A program that says nothing for so long, with questions open, is taken for mute: twice the
/// longest attempt, for one may meet a disk that is busy.
const MUTE_AFTER: Duration = Duration::from_secs(10);

type Tell = oneshot::Sender<Result<Said, Trouble>>;

/// All questions of one run.
#[derive(Debug)]
pub(super) struct Open {
    table: Mutex<Table>,
    others: Arc<Semaphore>,
    others_of: Turns,
    renewals_of: Turns,
}

#[derive(Debug)]
struct Table {
    next: u64,
    asked: HashMap<u64, Asked>,
    owed: usize,
    heard: Moment,
    ended: Option<String>,
}

impl Table {
    /// A renewal whose answer may be lost keeps the next ones waiting no longer.
    fn forgive(&mut self, now: Moment) {
        for asked in self.asked.values_mut().filter(|asked| asked.tell.is_none()) {
            let is_late = asked.sent.is_some_and(|at| at.until(now) >= MUTE_AFTER);
            asked.place.take_if(|place| is_late && !place.is_other());
        }
    }

    /// Whether more answers are lost than a program may lose.
    fn forgets(&self, now: Moment) -> bool {
        let is_lost = |asked: &&Asked| {
            asked.tell.is_none() && asked.sent.is_some_and(|at| at.until(now) >= LOST_AFTER)
        };
        let lost = || self.asked.values().filter(is_lost);
        let is_other = |asked: &&Asked| asked.place.as_ref().is_some_and(Place::is_other);
        let others = || lost().filter(is_other).count();
        self.owed >= OTHERS_MAX && (others() >= OTHERS_MAX || lost().count() >= LOST_MAX)
    }
}

#[derive(Debug)]
struct Asked {
    sent: Option<Moment>,
    /// `None` when nobody waits any more.
    tell: Option<Tell>,
    /// A greeting has none.
    place: Option<Place>,
}

/// A place among the questions that are open, given up when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// `None` for a renewal.
    others: Option<OwnedSemaphorePermit>,
    /// `None` when nobody in particular asks.
    #[expect(dead_code, reason = "it is given up when dropped")]
    own: Option<Turn>,
}

impl Place {
    fn is_other(&self) -> bool {
        self.others.is_some()
    }
}

impl Open {
    pub(super) fn new() -> Open {
        let (asked, heard) = (HashMap::new(), clock::now());
        let table = Mutex::new(Table { next: 0, asked, owed: 0, heard, ended: None });
        let each = |at_once| Turns::new(at_once, Duration::ZERO);
        let (others_of, renewals_of) = (each(OTHERS_EACH), each(RENEWALS_EACH));
        Open { table, others: Arc::new(Semaphore::new(OTHERS_MAX)), others_of, renewals_of }
    }

    /// Waits for a place for this call's question: first behind what the same user asks.
    pub(super) async fn place(&self, is_renewal: bool) -> Place {
        self.table().forgive(clock::now());
        let turns = if is_renewal { &self.renewals_of } else { &self.others_of };
        asker::waits(async {
            let own = match asker::user() {
                Some(user) => Some(turns.of(user).await),
                None => None,
            };
            let others = match is_renewal {
                true => None,
                // It is never closed.
                false => Arc::clone(&self.others).acquire_owned().await.ok(),
            };
            Place { others, own }
        })
        .await
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a question, whose answer goes to `tell`.
    pub(super) fn add(&self, tell: Tell, place: Option<Place>) -> Result<u64, Trouble> {
        let mut table = self.table();
        if let Some(why) = &table.ended {
            return Err(Trouble::unreachable(why.as_str()));
        }
        if table.asked.len() >= OPEN_MAX {
            let why = format!("the program has {OPEN_MAX} questions to answer already");
            return Err(Trouble::unreachable(why));
        }
        let id = table.next;
        table.next += 1;
        table.asked.insert(id, Asked { sent: None, tell: Some(tell), place });
        Ok(id)
    }

    /// A question is about to be written; false if nobody waits for its answer any more.
    pub(super) fn leaves(&self, id: u64) -> bool {
        let mut table = self.table();
        let Some(asked) = table.asked.get_mut(&id) else { return false };
        asked.sent = Some(clock::now());
        true
    }

    /// Nobody waits for this answer any more.
    pub(super) fn abandon(&self, id: u64) {
        let mut table = self.table();
        let Some(asked) = table.asked.get_mut(&id) else { return };
        if asked.sent.is_none() {
            table.asked.remove(&id);
        } else if asked.tell.take().is_some() {
            table.owed += 1;
        }
    }

    /// An answer came; in words, what is wrong with it if no such question is open.
    pub(super) fn settle(&self, id: u64, said: Said) -> Result<(), String> {
        let mut table = self.table();
        table.heard = clock::now();
        match table.asked.remove(&id) {
            Some(Asked { sent: Some(_), tell: Some(tell), .. }) => {
                // Its caller may go in this very moment.
                let _ = tell.send(Ok(said));
                Ok(())
            }
            Some(Asked { sent: Some(_), tell: None, .. }) => {
                table.owed -= 1;
                Ok(())
            }
            Some(Asked { sent: None, .. }) | None => {
                Err(format!("it answered question {id}, which is not open"))
            }
        }
    }

    /// The run is over: what was sent may have happened, the rest never does.
    pub(super) fn end(&self, why: &str) {
        let mut table = self.table();
        if table.ended.is_none() {
            table.ended = Some(why.to_owned());
        }
        table.owed = 0;
        for (_, asked) in table.asked.drain() {
            let trouble = match asked.sent {
                Some(_) => Trouble::silence(why),
                None => Trouble::unreachable(why),
            };
            if let Some(tell) = asked.tell {
                let _ = tell.send(Err(trouble));
            }
        }
    }

    /// Why no further question should go there, if that is so.
    pub(super) fn fault(&self, now: Moment) -> Option<String> {
        let table = self.table();
        if let Some(why) = &table.ended {
            return Some(why.clone());
        }
        if table.forgets(now) {
            let (owed, secs) = (table.owed, LOST_AFTER.as_secs());
            return Some(format!("it owes {owed} answers, most for {secs} s, and was killed"));
        }
        if table.heard.until(now) < MUTE_AFTER {
            return None;
        }
        let oldest = table.asked.values().filter_map(|asked| asked.sent).min()?;
        let is_mute = oldest.until(now) >= MUTE_AFTER;
        is_mute.then(|| {
            let secs = MUTE_AFTER.as_secs();
            format!("it said nothing for {secs} s, with questions to answer, and was killed")
        })
    }
}
