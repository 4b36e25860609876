//! A network of a test's own: a namespace with nothing but a loopback, which can go dark. A program
//! starts inside, a listener of the test is made inside, and whatever passes between them is lost
//! without a word while it is dark. Needs root.

#![allow(dead_code, reason = "each test binary uses its own part of the support")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::program::run;

/// How long one change of the network may take.
const CHANGE_MAX: Duration = Duration::from_secs(30);

/// The namespace. It ends with this value, or with the test's process, however that ends.
pub(crate) struct Namespace {
    /// Keeps it: a program that does nothing until its input ends.
    keeper: Child,
    link: String,
}

impl Namespace {
    pub(crate) fn new() -> Namespace {
        let mut keeper = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (Debian: apt-get install util-linux)");
        let link = format!("/proc/{}/ns/net", keeper.id());
        // It answers once it is inside.
        let input = keeper.stdin.as_mut().expect("its input");
        let _ = input.write_all(b"inside\n");
        let mut line = String::new();
        let output = keeper.stdout.as_mut().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("it answers");
        let ours = fs::read_link("/proc/self/ns/net").expect("our own network");
        let is_inside = line == "inside\n" && fs::read_link(&link).is_ok_and(|it| it != ours);
        assert!(is_inside, "no network namespace: this test has to run as root");
        let namespace = Namespace { keeper, link };
        namespace.inside(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// What to put before a program that shall run inside; it becomes that program by exec.
    pub(crate) fn words(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net={}", self.link)]
    }

    /// A listener inside, on a free port.
    pub(crate) fn listen(&self) -> TcpListener {
        let link = File::open(&self.link).expect("the namespace");
        // A socket stays where it was made; only the thread that makes it has to be inside.
        let made = std::thread::spawn(move || {
            move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("this test has to run as root");
            TcpListener::bind("127.0.0.1:0").expect("a port")
        });
        made.join().expect("a listener")
    }

    /// From now on every packet is lost, in both directions, and nobody is told.
    pub(crate) fn darken(&self) {
        self.inside(&["tc", "qdisc", "add", "dev", "lo", "root", "blackhole"]);
    }

    /// Packets pass again.
    pub(crate) fn lighten(&self) {
        self.inside(&["tc", "qdisc", "del", "dev", "lo", "root"]);
    }

    fn inside(&self, words: &[&str]) {
        let ran = run(Command::new("nsenter").args(&self.words()[1..]).args(words), CHANGE_MAX);
        assert_eq!(ran.code, Some(0), "{words:?}: {ran:?}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
