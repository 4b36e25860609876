//! A command at work: what it and the agent do, and what is due, until nothing of it is left.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::process::Signal;

use super::deadline::{Deadline, Due, Kept, Why};
use super::events::{Events, Ready};
use super::group::{self, Group};
use super::outside::Sight;
use super::signals::{Came, Signals, stand_still};
use super::take::wait_for;
use super::terminal::Terminal;
use super::told::{go_on, late, not_begun, soon, warned, words};
use super::{Under, Work, catch_up, hear, nothing_relies_on, release};
use crate::clock::{Alarm, Moment};
use crate::exit::{Exit, Failure};
use crate::render::say;
use crate::time;

/// The signals by which a job is stopped that wants a terminal which it has not.
const WANTS_TERMINAL: [Signal; 2] = [Signal::TTIN, Signal::TTOU];

/// Said where nobody can know whether all that the command started has ended.
const UNSEEN: &str = "the command has ended, and its group; /proc does not show every process here \
                      (ProtectProc=, hidepid, few files to open): look by hand whether it started \
                      something that left the group";

/// What becomes of a command that has not begun.
pub(super) enum Begin {
    Go,
    /// It had to end before, or was ended.
    End,
    /// No renewal would be heard of.
    Unheard,
}

/// A command at work.
pub(super) struct Guard<'a> {
    work: &'a Work,
    pub(super) group: Group,
    deadline: Deadline,
    terminal: Option<Terminal>,
    signals: Signals,
    alarm: Alarm,
    events: Events,
    /// The command was let go.
    has_begun: bool,
    /// The command had to end.
    is_lost: bool,
    /// It has or had the terminal, and gets it again when it goes on.
    has_lent: bool,
    /// What could not be killed.
    left: Vec<String>,
}

impl<'a> Guard<'a> {
    /// Nothing of it has begun. `signals` block in every thread that is started from here on.
    pub(super) fn new(
        work: &'a Work,
        group: Group,
        signals: Signals,
        under: &Under,
    ) -> io::Result<Guard<'a>> {
        let kept: Vec<Kept> = under.kept().map(|(_, kept)| kept).collect();
        let ids = kept.iter().map(|kept| kept.lease).collect();
        let terminal = if group.is_child() { Terminal::find() } else { None };
        Ok(Guard {
            work,
            group,
            deadline: Deadline::new(kept, work.grace),
            terminal,
            signals,
            alarm: Alarm::new()?,
            events: Events::listen(under.socket.clone(), ids)?,
            has_begun: false,
            is_lost: false,
            has_lent: false,
            left: Vec::new(),
        })
    }

    /// The agent tells of the leases from here on. If it hangs that is no reason not to begin; if
    /// it has no session to spare the command would be ended for nothing.
    pub(super) fn begin(&mut self) -> io::Result<Begin> {
        let began = Moment::now();
        catch_up(&mut self.deadline, &self.events, &self.alarm)?;
        loop {
            let is_over = self.look()?;
            if !is_over && !self.deadline.lets_run() {
                self.is_lost = true;
                self.left = self.group.kill();
            }
            if is_over || self.is_lost {
                return Ok(Begin::End);
            }
            match self.events.ready(began) {
                Ready::Yes => {
                    self.has_begun = true;
                    return Ok(Begin::Go);
                }
                Ready::No => return Ok(Begin::Unheard),
                Ready::Until(until) => self.rest(until, None)?,
            }
        }
    }

    /// From now on the command may be told to end.
    pub(super) fn lets_go(&mut self) {
        self.group.is_let_go();
    }

    /// Asks the command to end for whose deadline nothing can be done any more.
    pub(super) fn gives_up(&mut self) {
        self.group.signal_all(Signal::TERM);
    }

    /// Until nothing of the group is left.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        while !self.look()? {
            let pause = self.group.look_every();
            self.rest(Moment::NEVER, pause)?;
        }
        Ok(())
    }

    /// Does whatever is to be done by now. True when nothing is left that is waited for.
    fn look(&mut self) -> io::Result<bool> {
        loop {
            // First of all: this process may have stood still, or the host slept.
            self.judge();
            while let Some(came) = self.signals.next() {
                self.pass_on(came);
            }
            match self.group.reap() {
                Some(signal) => self.stopped(signal)?,
                None => return Ok(self.is_over()),
            }
        }
    }

    fn rest(&self, until: Moment, at_most: Option<Duration>) -> io::Result<()> {
        self.alarm.set(until.min(self.deadline.next()))?;
        let mut files: Vec<&dyn AsFd> = vec![&self.signals, &self.alarm, &self.events];
        files.extend(self.group.file().map(|file| file as &dyn AsFd));
        wait_for(&files, at_most);
        Ok(())
    }

    /// Nothing is left that is waited for. What left the group is no part of the command, unless
    /// that had to end.
    fn is_over(&mut self) -> bool {
        let is_gone = self.group.is_gone() && (!self.is_lost || self.group.is_alone());
        is_gone || !self.left.is_empty()
    }

    /// Hears what the agent said, and does what is due.
    fn judge(&mut self) {
        for news in self.events.take() {
            hear(news, &mut self.deadline);
        }
        loop {
            match self.deadline.due(Moment::now()) {
                Due::Nothing => return,
                Due::Late(on) => say(&late(&on, &self.deadline)),
                Due::EndsSoon(what) => {
                    let left = Moment::now().until(self.deadline.asks_at()).as_secs();
                    let left = time::words(left);
                    say(&format!("{}: the command has {left} left", soon(&what)));
                }
                // The agent looks by itself whether the group is gone, and gives back then: it may
                // have seen that first.
                Due::Ask(_) | Due::Kill(_) if !self.is_lost && self.group.is_found_gone() => return,
                Due::Ask(why) => self.ask(&why),
                Due::Kill(why) => self.kill(&why),
            }
        }
    }

    fn ask(&mut self, why: &Why) {
        let Some(signal) = self.work.on_lost else {
            return say(&warned(why));
        };
        let why = words(why);
        self.is_lost = true;
        let left = self.deadline.grace_left(Moment::now());
        // Less than a second is as good as one to whoever reads it.
        let grace = time::words(left.as_secs().max(1));
        self.group.signal_all(signal);
        // One that stands still would not hear it.
        self.group.signal_all(Signal::CONT);
        say(&format!("{why}: the command has to end, or is killed in {grace}"));
    }

    fn kill(&mut self, why: &Why) {
        if self.work.on_lost.is_none() {
            return;
        }
        say(&if self.is_lost {
            "the command has not ended in time: it is killed".to_owned()
        } else {
            format!("{}: the command is killed", words(why))
        });
        self.is_lost = true;
        self.left = self.group.kill();
    }

    fn pass_on(&mut self, came: Came) {
        if !self.group.is_child() {
            // Whoever means the command tells that.
            return;
        }
        match came {
            Came::Forward(signal) => self.group.signal(signal),
            Came::Stop => self.group.signal(Signal::TSTP),
            Came::Continue => {
                if self.has_lent {
                    self.lend();
                }
                self.group.signal(Signal::CONT);
            }
            Came::Other => {}
        }
    }

    /// Takes every signal that came. Whether this job is to stand still or to go on is told, if it
    /// is either: the kernel forgets the one when the other comes.
    fn spend(&mut self) -> Option<Came> {
        let mut job = None;
        while let Some(came) = self.signals.next() {
            match came {
                Came::Stop | Came::Continue => job = Some(came),
                Came::Forward(_) | Came::Other => self.pass_on(came),
            }
        }
        job
    }

    pub(super) fn lend(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.lend(self.group.leader());
            self.has_lent = true;
        }
    }

    /// The command was stopped: so is the job that its user sees, which is this process.
    fn stopped(&mut self, signal: i32) -> io::Result<()> {
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        let wants_it = WANTS_TERMINAL.iter().any(|one| one.as_raw() == signal);
        if wants_it && terminal.is_ours() {
            self.lend();
            self.group.signal(Signal::CONT);
            return Ok(());
        }
        terminal.take_back(self.group.leader());
        // Nobody keeps the deadline of what goes on while this process stands still.
        let frozen = self.group.freeze();
        // Spent here: passed on once more it could undo the next Ctrl-Z.
        let is_continued = loop {
            stand_still()?;
            match self.spend() {
                Some(Came::Stop) => {}
                came => break came == Some(Came::Continue),
            }
        };
        catch_up(&mut self.deadline, &self.events, &self.alarm)?;
        self.judge();
        let is_ours = self.terminal.as_ref().is_some_and(Terminal::is_ours);
        if wants_it && !is_ours && !is_continued {
            // It would only stop again, and nobody stopped this process that could continue it.
            self.group.thaw(&frozen);
            return Ok(());
        }
        if self.has_lent {
            self.lend();
        }
        // Those first whose parents look whether they go on.
        self.group.thaw(&frozen);
        self.group.signal(Signal::CONT);
        Ok(())
    }

    /// The group is gone: puts everything away and says with what code.
    pub(super) fn end(mut self, under: &Under) -> Result<u8, Failure> {
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back(self.group.leader());
            if self.is_lost {
                terminal.mend();
            }
        }
        if self.is_lost {
            let sight = self.group.sight();
            if !self.left.is_empty() {
                say(&format!("could not kill {}: end them by hand", self.left.join(", ")));
            } else if sight != Sight::All {
                say(UNSEEN);
            }
            // Where nothing was looked for the lock stays until it would end by itself.
            if self.left.is_empty() && sight != Sight::Nothing {
                nothing_relies_on(&under.own.leases, &under.socket);
            }
            // The agent gives back what is left, for the group is gone.
            return if self.has_begun { Ok(Exit::Lost.code()) } else { Err(not_begun(self.work)) };
        }
        let given_back = release(&under.own.leases, &under.socket);
        if let Some(told) = go_on(&self.group.that_go_on(), &given_back.leases) {
            say(&told);
        }
        // Whoever wants no more than a warning has had it, and asks for the command's own code.
        if given_back.is_lost && self.work.on_lost.is_some() {
            return Ok(Exit::Lost.code());
        }
        Ok(self.group.ended().map_or(Exit::Software.code(), group::code))
    }
}
