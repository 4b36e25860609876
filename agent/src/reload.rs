//! A changed configuration: noticed in the file system or asked for by SIGHUP, taken if it is
//! valid, else refused in words while the old one stays. What follows from a new one is not decided
//! here.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::thread::Builder;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{self, Alarm};
use crate::config::{Config, ConfigError, Mode};
use crate::{Control, systemd};

/// How long a change is left to settle: an editor truncates, writes and renames within this, and a
/// person does not notice it.
const SETTLE: Duration = Duration::from_millis(250);
/// Most symbolic links on the way to a file, as the kernel has it.
const LINKS_MAX: usize = 40;

/// Watches one configuration file.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    mode: Mode,
    seen: Option<Stamp>,
}

impl Reloader {
    /// Remembers what stands at `path`, an absolute one. Call it before the configuration is loaded
    /// for the first time, so that no change falls between the two.
    #[must_use]
    pub fn new(path: PathBuf, mode: Mode) -> Reloader {
        let seen = Stamp::of(&path);
        Reloader { path, mode, seen }
    }

    /// Loads again for each SIGHUP that `hups` tells and after each change of the file, until
    /// nobody takes what it loads. A file that is gone is no configuration: the old one stays.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub async fn run(
        mut self,
        control: mpsc::Sender<Control>,
        mut hups: mpsc::Receiver<()>,
    ) -> io::Result<()> {
        let (told, mut changes) = mpsc::channel(1);
        let mut settled = Alarm::new()?;
        let mut settles = false;
        let mut asked = false;
        let (mut _watcher, _) = self.look(&told).await;
        // What changed before the watch began is found by the first look.
        let _ = told.try_send(());
        loop {
            tokio::select! {
                // Also after a SIGHUP the file is left to settle: whoever sent it may still write.
                Some(()) = hups.recv() => {
                    if !asked {
                        systemd::reloading();
                    }
                    asked = true;
                    settled.set(Some(clock::now() + SETTLE));
                    settles = true;
                }
                _ = changes.recv(), if !settles => {
                    settled.set(Some(clock::now() + SETTLE));
                    settles = true;
                }
                () = settled.rings() => {
                    settles = false;
                    // Watched anew before the look: directories and links may be others now.
                    let (watcher, now) = self.look(&told).await;
                    _watcher = watcher;
                    if asked || now != self.seen {
                        self.seen = now;
                        self.load(&control).await;
                    }
                    if std::mem::take(&mut asked) {
                        systemd::ready();
                    }
                }
                () = control.closed() => return Ok(()),
            }
        }
    }

    async fn load(&self, control: &mpsc::Sender<Control>) {
        let (path, mode) = (self.path.clone(), self.mode);
        let loaded = tokio::task::spawn_blocking(move || read(&path, mode)).await;
        match loaded {
            Ok(Ok(config)) => {
                tracing::info!(file = %self.path.display(), "the configuration is read again");
                let (taken, in_force) = oneshot::channel();
                let reload = Control::Reload { config: Box::new(config), taken };
                // Nobody takes it any more: the agent is stopping.
                if control.send(reload).await.is_ok() {
                    let _ = in_force.await;
                }
            }
            Ok(Err(why)) => {
                tracing::error!(
                    "the changed configuration is refused and the old one stays: {why}"
                );
            }
            Err(error) => tracing::error!(%error, "reading the configuration came to nothing"),
        }
    }

    /// Watches from now on, and what stands there then.
    async fn look(&self, told: &mpsc::Sender<()>) -> (Option<RecommendedWatcher>, Option<Stamp>) {
        let (path, told) = (self.path.clone(), told.clone());
        // A file system can be slow, and leases are renewed on this thread.
        let looked = tokio::task::spawn_blocking(move || {
            let watched = watch(entries(&path), told).map_err(|error| error.to_string());
            (watched, Stamp::of(&path))
        });
        let (watched, now) = match looked.await {
            Ok(looked) => looked,
            Err(error) => (Err(error.to_string()), self.seen.clone()),
        };
        let told = |error: &String| {
            let file = self.path.display();
            tracing::warn!(%file, error, "changes are not noticed; send SIGHUP after one");
        };
        (watched.inspect_err(told).ok(), now)
    }
}

/// What tells one version of a file from the next without reading it: there may be a password in
/// it.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let found = fs::metadata(path).ok()?;
        Some(Stamp {
            device: found.dev(),
            inode: found.ino(),
            len: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Tells when something becomes of one of these entries, or of a directory that has one. What else
/// changes in a directory, and be it all the time, is nothing to tell.
fn watch(entries: BTreeSet<PathBuf>, told: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let directories: BTreeSet<_> =
        entries.iter().filter_map(|entry| entry.parent()).map(Path::to_owned).collect();
    let here = directories.clone();
    // The library does not look whether it gets its thread, and where it gets none it panics later,
    // and once more on the way out, which ends the process.
    let _ = Builder::new().spawn(|| ())?.join();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| is_reading(event.kind) || !is_about(&event, &here, &entries)) {
            return;
        }
        // Full means that a look is due anyway.
        let _ = told.try_send(());
    })?;
    for directory in &directories {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Also true of an event that names nothing: there were more than the kernel kept.
fn is_about(event: &Event, directories: &BTreeSet<PathBuf>, entries: &BTreeSet<PathBuf>) -> bool {
    let is_ours = |path: &PathBuf| entries.contains(path) || directories.contains(path);
    event.paths.is_empty() || event.paths.iter().any(is_ours)
}

fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access != AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => false,
    }
}

/// What can give `path` another content: the file, and each symbolic link on the way (Kubernetes
/// swaps one); of what is missing, the first that is.
fn entries(path: &Path) -> BTreeSet<PathBuf> {
    let mut watched = BTreeSet::new();
    let mut at = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = parts(path).collect();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == OsStr::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match fs::read_link(&next) {
            Ok(target) => {
                watched.insert(next);
                links += 1;
                if links > LINKS_MAX {
                    return watched;
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                    ahead.push_front(part);
                }
            }
            Err(_) if ahead.is_empty() || !next.is_dir() => {
                watched.insert(next);
                return watched;
            }
            Err(_) => at = next,
        }
    }
    watched
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Reads a changed file. An empty one would be valid, and mean that nothing is configured: it is
/// what somebody leaves for a moment who writes the file in place, or for good on a full disk.
fn read(path: &Path, mode: Mode) -> Result<Config, String> {
    let before = Stamp::of(path);
    if before.as_ref().is_some_and(|stamp| stamp.len == 0) {
        let file = path.display();
        return Err(format!(
            "{file} is empty; to run without one, remove it and restart the agent"
        ));
    }
    let config = Config::load(path, mode).map_err(|error| in_full(&error))?;
    if Stamp::of(path) == before {
        Ok(config)
    } else {
        Err(format!("{} changed while it was read; it is read again", path.display()))
    }
}

fn in_full(error: &ConfigError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;
    use tokio::sync::mpsc::Receiver;

    use super::*;

    fn write(path: &Path, host: &str) {
        fs::write(path, format!("host = \"{host}\"\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Runs `test` beside a reloader of `agent.toml` in a fresh directory that `prepare` filled.
    fn with_reloader<T>(
        prepare: impl FnOnce(&Path),
        test: impl AsyncFnOnce(&Path, &mut Reloads) -> T,
    ) {
        let dir = TempDir::new().unwrap();
        // inotify knows directories by their real names.
        let base = dir.path().canonicalize().unwrap();
        prepare(&base);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (control, taken) = mpsc::channel(4);
            let (hup, hups) = mpsc::channel(1);
            let reloader = Reloader::new(base.join("agent.toml"), Mode::Dev);
            let running = tokio::spawn(reloader.run(control, hups));
            test(&base, &mut Reloads { taken, hup }).await;
            running.abort();
        });
    }

    struct Reloads {
        taken: Receiver<Control>,
        hup: mpsc::Sender<()>,
    }

    impl Reloads {
        async fn next_host(&mut self) -> String {
            match self.taken.recv().await {
                Some(Control::Reload { config, .. }) => config.host,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_edited_file_is_taken() {
        with_reloader(
            |base| write(&base.join("agent.toml"), "one"),
            async |base, reloads| {
                write(&base.join("agent.toml"), "two");
                assert_eq!(reloads.next_host().await, "two");
            },
        );
    }

    #[test]
    fn a_file_that_an_editor_renamed_into_place_is_taken() {
        with_reloader(
            |base| write(&base.join("agent.toml"), "one"),
            async |base, reloads| {
                for host in ["two", "three"] {
                    write(&base.join(".agent.toml.swp"), host);
                    fs::rename(base.join(".agent.toml.swp"), base.join("agent.toml")).unwrap();
                    assert_eq!(reloads.next_host().await, host);
                }
            },
        );
    }

    #[test]
    fn what_is_invalid_empty_or_gone_is_refused() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("agent.toml");
        write(&path, "one");
        assert_eq!(read(&path, Mode::Dev).map(|config| config.host), Ok("one".to_owned()));
        for (text, word) in [("host = [broken", "agent.toml:1"), ("", "empty")] {
            fs::write(&path, text).unwrap();
            let refused = read(&path, Mode::Dev).expect_err("it is refused");
            assert!(refused.contains(word), "{refused}");
        }
        fs::remove_file(&path).unwrap();
        assert!(read(&path, Mode::Dev).is_err());
    }

    #[test]
    fn after_a_file_that_was_refused_the_next_valid_one_is_taken() {
        with_reloader(
            |base| fs::write(base.join("agent.toml"), "host = [broken").unwrap(),
            async |base, reloads| {
                reloads.hup.send(()).await.unwrap();
                write(&base.join("agent.toml"), "two");
                assert_eq!(reloads.next_host().await, "two");
            },
        );
    }

    #[test]
    fn a_hangup_reads_the_file_again_though_it_did_not_change() {
        with_reloader(
            |base| write(&base.join("agent.toml"), "one"),
            async |_, reloads| {
                reloads.hup.send(()).await.unwrap();
                assert_eq!(reloads.next_host().await, "one");
            },
        );
    }

    #[test]
    fn a_swapped_directory_behind_two_links_is_noticed() {
        with_reloader(
            |base| {
                for host in ["v1", "v2"] {
                    fs::create_dir(base.join(host)).unwrap();
                    write(&base.join(host).join("agent.toml"), host);
                }
                symlink("v1", base.join("..data")).unwrap();
                symlink("..data/agent.toml", base.join("agent.toml")).unwrap();
            },
            async |base, reloads| {
                symlink("v2", base.join("..tmp")).unwrap();
                fs::rename(base.join("..tmp"), base.join("..data")).unwrap();
                assert_eq!(reloads.next_host().await, "v2");
                write(&base.join("v2/agent.toml"), "v3");
                assert_eq!(reloads.next_host().await, "v3");
            },
        );
    }

    #[test]
    fn a_file_that_comes_with_its_directory_is_noticed() {
        with_reloader(
            |base| symlink("not/yet/agent.toml", base.join("agent.toml")).unwrap(),
            async |base, reloads| {
                fs::create_dir_all(base.join("not/yet")).unwrap();
                write(&base.join("not/yet/agent.toml"), "late");
                assert_eq!(reloads.next_host().await, "late");
            },
        );
    }

    #[test]
    fn each_step_on_the_way_that_can_change_the_file_is_watched() {
        let dir = TempDir::new().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir(base.join("real")).unwrap();
        symlink("../loop", base.join("real/loop")).unwrap();
        symlink(base.join("real"), base.join("link")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        let watched = |path: &str| entries(&base.join(path));
        let set = |steps: &[&str]| steps.iter().map(|at| base.join(at)).collect::<BTreeSet<_>>();
        assert_eq!(watched("real/file"), set(&["real/file"]));
        assert_eq!(watched("link/file"), set(&["link", "real/file"]));
        assert_eq!(watched("link/no/file"), set(&["link", "real/no"]));
        assert_eq!(watched("real/loop"), set(&["loop", "real/loop"]));
    }

    #[test]
    fn what_else_changes_beside_the_file_is_nothing_to_look_at() {
        let (entries, here) = (entries(Path::new("/etc")), BTreeSet::from([PathBuf::from("/")]));
        let is_told = |path: Option<&str>| {
            let event =
                Event { paths: path.map(PathBuf::from).into_iter().collect(), ..Event::default() };
            is_about(&event, &here, &entries)
        };
        assert!(is_told(Some("/etc")) && is_told(Some("/")) && is_told(None));
        assert!(!is_told(Some("/tmp")));
    }
}
