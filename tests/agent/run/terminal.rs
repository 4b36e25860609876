//! Under a real terminal and a real shell: job control is the command's.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::agent::{Agent, program};
use crate::dice::now_ms;
use crate::{acquire, leases, local, until, wish};

/// What the shell says when it has the terminal.
pub(crate) const PROMPT: &str = "what next> ";

/// A bash at a terminal of its own.
pub(crate) struct Shell {
    child: Child,
    terminal: File,
    seen: String,
}

impl Shell {
    pub(crate) fn start(agent: &Agent) -> Shell {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("ours");
        unlockpt(&master).expect("ours");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let side = || {
            let file = File::options().read(true).write(true).open(name.to_str().expect("a path"));
            Stdio::from(file.expect("the terminal"))
        };
        // A session of its own, controlled by that terminal.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", "bash", "--norc", "--noprofile", "-i"]);
        command.env("CTL", program("stormctl")).env("STORMLOCK_SOCKET", agent.socket());
        command.env("PS1", PROMPT).env("TERM", "dumb").env_remove("PROMPT_COMMAND");
        command.env("HISTFILE", "").current_dir(agent.file(""));
        command.stdin(side()).stdout(side()).stderr(side());
        let child = command.spawn().expect("setsid and bash are there");
        let mut shell = Shell { child, terminal: master.into(), seen: String::new() };
        shell.sees(PROMPT);
        shell
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("it is read");
    }

    /// Waits until the terminal shows this, after all that was waited for before.
    pub(crate) fn sees(&mut self, what: &str) {
        let began = now_ms();
        while !self.seen.contains(what) {
            assert!(now_ms() - began < crate::GIVE_UP_MS, "no {what:?} in {:?}", self.seen);
            let mut ready = [PollFd::new(&self.terminal, PollFlags::IN)];
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            if poll(&mut ready, Some(&second)).expect("it can be polled") == 0 {
                continue;
            }
            let mut bytes = [0; 4096];
            let length = rustix::io::read(&self.terminal, &mut bytes).expect("the shell is there");
            self.seen += &String::from_utf8_lossy(&bytes[..length]);
        }
        let at = self.seen.find(what).expect("it is there") + what.len();
        self.seen = self.seen.split_off(at);
    }

    /// A `cat` that has the terminal reads a line, and says it again.
    pub(crate) fn reads(&mut self, line: &str) {
        self.types(&format!("{line}\n"));
        // What was typed, and what cat says of it.
        self.sees(line);
        self.sees(line);
    }

    /// True if this stands in what was seen since.
    pub(crate) fn has_seen(&self, what: &str) -> bool {
        self.seen.contains(what)
    }

    /// The job ended with this code, and the shell has the terminal again.
    pub(crate) fn code(&mut self, code: u8) {
        self.sees(PROMPT);
        self.types("echo co''de=$?.\n");
        self.sees(&format!("code={code}."));
        self.sees(PROMPT);
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.terminal.write_all(b"\nexit\n");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_command_reads_the_terminal_and_ctrl_c_is_its_own() {
    let agent = Agent::start(&local());
    let mut shell = Shell::start(&agent);
    shell.types("$CTL run -q prod/db -c 'echo as''king; read x; echo got:$x'\n");
    shell.sees("asking");
    shell.types("hello\n");
    shell.sees("got:hello");
    shell.code(0);
    shell.types("$CTL run -q prod/db -c 'echo be''gun; exec cat'\n");
    shell.sees("begun");
    shell.types("\x03");
    shell.code(130);
    assert!(leases(&mut agent.client().expect("it answers")).is_empty());
    // One that takes Ctrl-C for something else goes on.
    let line = "trap \"echo in''ted\" INT; echo be''gun; until [ \"$x\" = end ]; do read x; done";
    shell.types(&format!("$CTL run -q prod/db -c '{line}'\n"));
    shell.sees("begun");
    shell.types("\x03");
    shell.sees("inted");
    shell.types("end\n");
    shell.code(0);
}

#[test]
fn ctrl_z_stops_the_job_and_fg_continues_it_with_its_terminal() {
    let agent = Agent::start(&local());
    let mut shell = Shell::start(&agent);
    shell.types("$CTL run -q prod/db -c 'echo be''gun; exec cat'\n");
    shell.sees("begun");
    for _ in 0..10 {
        shell.reads("one");
        shell.types("\x1a");
        shell.sees("Stopped");
        shell.sees(PROMPT);
        shell.types("echo sh''ell has it\n");
        shell.sees("shell has it");
        shell.sees(PROMPT);
        assert_eq!(agent.ctl(&["is-held", "prod/db", "--by", "me"]).code, Some(0));
        shell.types("fg\n");
        shell.sees("exec cat");
    }
    // Whatever is typed before it has the terminal again is the shell's.
    shell.reads("one");
    // In the background it wants the terminal, and is stopped for it.
    shell.types("\x1a");
    shell.sees("Stopped");
    shell.sees(PROMPT);
    shell.types("bg\n");
    shell.sees("exec cat' &");
    shell.sees(PROMPT);
    shell.types("until jobs -s | grep -q Stopped; do :; done; echo stop''ped again\n");
    shell.sees("stopped again");
    shell.sees(PROMPT);
    shell.types("fg\n");
    shell.sees("exec cat");
    shell.reads("two");
    shell.types("\x04");
    shell.code(0);
    assert!(leases(&mut agent.client().expect("it answers")).is_empty());
}

/// It is the shell's own job, with nothing in between.
#[test]
fn with_exec_the_terminal_and_its_keys_are_the_commands_as_without_stormctl() {
    let agent = Agent::start(&local());
    let mut shell = Shell::start(&agent);
    shell.types("$CTL run -q --exec prod/db -c 'echo be''gun; exec cat'\n");
    shell.sees("begun");
    for _ in 0..3 {
        shell.reads("one");
        shell.types("\x1a");
        shell.sees("Stopped");
        shell.sees(PROMPT);
        assert_eq!(agent.ctl(&["is-held", "prod/db", "--by", "me"]).code, Some(0));
        shell.types("fg\n");
        shell.sees("exec cat");
    }
    // Whatever is typed before it has the terminal again is the shell's.
    shell.reads("one");
    shell.types("\x03");
    shell.code(130);
    crate::run::all_is_free(&agent);
    // A command that has to end is no job that stands still any more.
    shell.types("$CTL run -q --exec prod/db --for 20s -c 'echo be''gun; exec cat'\n");
    shell.sees("begun");
    shell.types("\x1a");
    shell.sees("Stopped");
    shell.sees("the hold on prod/db is at its end");
    shell.types("wait; jobs; echo no''thing\n");
    shell.sees("nothing");
    crate::run::all_is_free(&agent);
}

/// The agent renews meanwhile, and the command stands still as long as its wrapper does.
#[test]
fn a_job_that_was_stopped_for_longer_than_the_ttl_goes_on() {
    let agent = Agent::start(&local());
    let mut shell = Shell::start(&agent);
    shell.types("$CTL run -q prod/db --ttl 5s -c 'echo be''gun; exec cat'\n");
    shell.sees("begun");
    let mut holder = Shell::start(&agent);
    holder.types("$CTL hold -q prod/app --ttl 5s\n");
    until("it holds", || {
        (agent.ctl(&["is-held", "prod/app", "--by", "me"]).code == Some(0)).then_some(())
    });
    for _ in 0..2 {
        for shell in [&mut shell, &mut holder] {
            shell.types("\x1a");
            shell.sees("Stopped");
            shell.sees(PROMPT);
        }
        let began = now_ms();
        until("the ttl is over", || (now_ms() - began > 6_000).then_some(()));
        for name in ["prod/db", "prod/app"] {
            assert_eq!(agent.ctl(&["is-held", name, "--by", "me"]).code, Some(0), "{name}");
        }
        shell.types("fg\n");
        shell.sees("exec cat");
        shell.reads("one");
        holder.types("fg\n");
        holder.sees("--ttl 5s");
    }
    shell.types("\x04");
    shell.code(0);
    holder.types("\x03");
    holder.code(0);
    assert!(leases(&mut agent.client().expect("it answers")).is_empty());
}

#[test]
fn beside_others_in_a_pipe_it_gets_the_terminal_when_it_asks() {
    let agent = Agent::start(&local());
    let mut shell = Shell::start(&agent);
    shell.types("$CTL run -q prod/db -c 'echo be''gun; exec cat' | sed -u s/x/:got:/\n");
    shell.sees("begun");
    shell.types("axb\n");
    shell.sees("a:got:b");
    shell.types("\x04");
    shell.code(0);
    // The other side of a pipe may read it meanwhile.
    shell.types(
        "$CTL run -q prod/db -c 'echo from''run; read x < /dev/null' | { cat; read y </dev/tty; \
                 echo other:$y; }\n",
    );
    shell.sees("fromrun");
    shell.types("typed\n");
    shell.sees("other:typed");
    shell.code(0);
}

#[test]
fn a_shell_in_it_has_jobs_of_its_own() {
    let agent = Agent::start(&local());
    // A bash that reads nobody's settings.
    let inner = agent.file("inner");
    std::fs::write(&inner, "#!/bin/sh\nexec bash --norc --noprofile -i\n").expect("a file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&inner, mode).expect("our own file");
    let mut shell = Shell::start(&agent);
    shell.types("SHELL=./inner $CTL run prod/db\n");
    shell.sees("is yours until you leave this shell");
    shell.sees(PROMPT);
    shell.types("sh -c 'echo be''gun; exec cat'\n");
    shell.sees("begun");
    shell.types("typed\n");
    shell.sees("typed");
    shell.sees("typed");
    shell.types("\x1a");
    shell.sees("Stopped");
    shell.sees(PROMPT);
    shell.types("kill -9 %1; until [ -z \"$(jobs -s)\" ]; do :; done; echo ga''thered\n");
    shell.sees("gathered");
    shell.sees(PROMPT);
    shell.types("exit 3\n");
    shell.sees("exit 3");
    shell.code(3);
    assert!(leases(&mut agent.client().expect("it answers")).is_empty());
}

#[test]
fn a_terminal_that_was_stopped_does_not_keep_a_command_alive() {
    let agent = Agent::start(&local());
    let mut shell = Shell::start(&agent);
    let line = "echo $$ >pid.new; mv pid.new pid; exec >/dev/null 2>&1; exec sleep 600";
    shell.types(&format!("$CTL run prod/db --for 8s -c '{line}'\n"));
    let pid = until("it runs", || std::fs::read_to_string(agent.file("pid")).ok());
    let pid: i32 = pid.trim().parse().expect("a number");
    let pid = rustix::process::Pid::from_raw(pid).expect("a number");
    // Ctrl-S
    shell.types("\x13");
    until("the hold is over", || leases(&mut agent.client().ok()?).is_empty().then_some(()));
    let is_there = rustix::process::test_kill_process(pid).is_ok();
    // Ctrl-Q
    shell.types("\x11");
    assert!(!is_there, "the command goes on without its lock");
    shell.code(79);
}

/// This one says that it has no columns, as some do.
#[test]
fn a_wait_is_drawn_where_a_line_can_be_cleared_and_told_elsewhere() {
    let agent = Agent::start(&local());
    acquire(&mut agent.client().expect("it answers"), wish("prod/db", crate::Hold::Keep));
    let mut shell = Shell::start(&agent);
    shell.types("TERM=xterm $CTL wait prod/db\n");
    shell.sees("\r\x1b[Kwaiting for prod/db: ");
    shell.types("\x03");
    shell.sees(PROMPT);
    shell.types("TERM=dumb $CTL wait prod/db\n");
    shell.sees("stormctl: waiting for prod/db, yours already ");
    shell.types("\x03");
    shell.sees(PROMPT);
    shell.types("echo do''ne\n");
    shell.sees("done");
}
