//! `--daemonize`: into the background, for hosts without systemd. The parent stays until the socket
//! answers or the child says why it never will. There must be no thread and no runtime before it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use daemonize::{Daemonize, Outcome};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use super::exit::{self, Failure};
use super::paths;
use super::process::NO_PROCESSES;

/// For the pidfile, which others may read; the agent itself makes private files.
const UMASK: u32 = 0o022;
const PIDFILE_MODE: u32 = 0o644;

const LOCKED: &str = "if it is locked, another stormlockd runs: its number stands in the file";

/// On which side of the fork this process is.
#[derive(Debug)]
pub(crate) enum Side {
    /// The one that was started; the daemon answers, or said why not.
    Parent(Result<(), Failure>),
    /// The daemon.
    Child(Notice),
}

/// How the daemon tells the waiting parent what came of it: an exit code, then words. Whichever of
/// its copies speaks first is heard; a daemon that dies silently closes it.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    pipe: Arc<Mutex<Option<File>>>,
    pidfile: Option<PathBuf>,
}

impl Notice {
    pub(crate) fn ready(&self) {
        self.tell(exit::OK, "");
    }

    pub(crate) fn failed(&self, failure: &Failure) {
        self.tell(failure.code, &failure.text());
    }

    /// Takes the pidfile away, while its lock is still held.
    pub(crate) fn gone(&self) {
        if let Some(path) = &self.pidfile {
            let _ = std::fs::remove_file(path);
        }
    }

    fn tell(&self, code: u8, text: &str) {
        let pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut pipe) = pipe {
            // The parent may have been killed; the daemon lives on.
            let _ = pipe.write_all(&[&[code], text.as_bytes()].concat());
        }
    }
}

pub(crate) fn detach(pidfile: Option<PathBuf>) -> Result<Side, Failure> {
    if let Some(path) = &pidfile {
        make_pidfile(path)?;
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)
        .context("making a pipe to the daemon")
        .map_err(Failure::unavailable)?;
    let mut daemonize = Daemonize::new().working_directory("/").umask(UMASK);
    if let Some(path) = &pidfile {
        daemonize = daemonize.pid_file(path);
    }
    match daemonize.execute() {
        Outcome::Parent(forked) => {
            forked.map_err(|error| cannot_detach(&error, pidfile.as_deref()))?;
            drop(writer);
            Ok(Side::Parent(hear(File::from(reader))))
        }
        Outcome::Child(started) => {
            drop(reader);
            let pipe = Arc::new(Mutex::new(Some(File::from(writer))));
            if let Err(error) = started {
                let notice = Notice { pipe, pidfile: None };
                let failure = cannot_detach(&error, pidfile.as_deref());
                notice.failed(&failure);
                // Its stderr is still the parent's.
                return Err(failure.silent());
            }
            Ok(Side::Child(Notice { pipe, pidfile }))
        }
    }
}

/// Makes sure that the pidfile is a file of this user's, before anything is written through its
/// name: in `/tmp` somebody else may have put a link there, or a pipe that nobody reads.
fn make_pidfile(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    paths::not_replaceable(path)?;
    let safe = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PIDFILE_MODE)
        .custom_flags(i32::try_from(safe.bits()).unwrap_or(0))
        .open(path)
        .with_context(|| format!("opening the pidfile {shown}"))
        .map_err(Failure::unavailable)?;
    let found = file.metadata().context("looking at the pidfile").map_err(Failure::unavailable)?;
    let own = rustix::process::geteuid().as_raw();
    if !found.is_file() || found.uid() != own || found.nlink() > 1 {
        return Err(Failure::unavailable(anyhow!(
            "will not write into {shown}: it is no file of uid {own} with one name; remove it, or \
             give another --pidfile"
        )));
    }
    Ok(())
}

fn cannot_detach(error: &daemonize::Error, pidfile: Option<&Path>) -> Failure {
    let error = error.to_string();
    // Only its words say what it is about.
    let (with, advice) = match pidfile {
        _ if error.contains("fork") => (String::new(), Some(NO_PROCESSES)),
        None => (String::new(), None),
        Some(path) => (format!(" with pidfile {}", path.display()), Some(LOCKED)),
    };
    Failure::unavailable(anyhow!("going into the background{with}: {error}")).advise(advice)
}

fn hear(mut daemon: impl Read) -> Result<(), Failure> {
    let mut said = Vec::new();
    daemon
        .read_to_end(&mut said)
        .context("waiting for the daemon")
        .map_err(Failure::unavailable)?;
    match said.split_first() {
        Some((&exit::OK, _)) => Ok(()),
        Some((&code, text)) => Err(Failure::told(code, String::from_utf8_lossy(text).into_owned())),
        None => Err(Failure::new(
            exit::SOFTWARE,
            anyhow!("the daemon died before its socket answered: see its log"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice() -> (Notice, File) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let pipe = Arc::new(Mutex::new(Some(File::from(writer))));
        (Notice { pipe, pidfile: None }, File::from(reader))
    }

    #[test]
    fn the_parent_hears_what_came_of_it_first() {
        let (daemon, parent) = notice();
        daemon.ready();
        daemon.failed(&Failure::usage("too late"));
        assert!(hear(parent).is_ok());

        let (daemon, parent) = notice();
        daemon.failed(&Failure::config(anyhow!("line 3: no such key")));
        let heard = hear(parent).unwrap_err();
        assert_eq!((heard.code, heard.text().as_str()), (exit::CONFIG, "line 3: no such key"));
    }

    #[test]
    fn a_daemon_that_dies_silently_is_no_success() {
        let (daemon, parent) = notice();
        drop(daemon);
        assert_eq!(hear(parent).unwrap_err().code, exit::SOFTWARE);
    }
}
