//! How many processes may be kept by files that never close: half of what this user, its unit or
//! the host lets begin. The rest is the agent's own, and that of its next start; each end of an
//! agent to which such files come takes one more.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Resource, geteuid, getrlimit};

/// The part of the processes that may be kept: one in so many.
const PART: u64 = 2;

const PROC: &str = "/proc";
const CGROUPS: &str = "/sys/fs/cgroup";

/// Refuses another process `name` where so many of them are on the host already, of those before
/// this agent or of its own (which may have no name yet), that there might soon be no room for
/// anything else.
pub(super) fn for_another(name: &str, own: usize) -> io::Result<()> {
    let most = limit() / PART;
    match kept(name)?.max(u64::try_from(own).unwrap_or(u64::MAX)) {
        kept if kept < most => Ok(()),
        kept => Err(io::Error::other(format!(
            "{kept} such processes are left already, which is half of what may begin: end the \
             programs of whoever sent the files, or allow more (LimitNPROC=, TasksMax=)"
        ))),
    }
}

/// The processes of this user that are called so.
fn kept(name: &str) -> io::Result<u64> {
    let own = geteuid().as_raw();
    let is_kept = |process: &fs::DirEntry| {
        // What ends meanwhile is not kept.
        process.metadata().is_ok_and(|process| process.uid() == own)
            && fs::read_to_string(process.path().join("status"))
                .is_ok_and(|status| is_closer(&status, name, own))
    };
    let kept = fs::read_dir(PROC)?.flatten().filter(is_kept).count();
    Ok(u64::try_from(kept).unwrap_or(u64::MAX))
}

/// By a status as in `/proc/PID/status`. Somebody else's program that is this user for a while
/// (`su` at its question) can be called anything; its real user is not this one.
fn is_closer(status: &str, name: &str, own: u32) -> bool {
    let field = |wanted: &str| {
        status.lines().find_map(|line| line.strip_prefix(wanted)).unwrap_or_default()
    };
    let own = own.to_string();
    let mut users = field("Uid:").split_whitespace().peekable();
    field("Name:").trim() == name && users.peek().is_some() && users.all(|user| user == own)
}

/// How many processes and threads there may be, by the tightest limit.
fn limit() -> u64 {
    let proc = Path::new(PROC);
    let of_user = getrlimit(Resource::Nproc).current;
    let of_host = number(&proc.join("sys/kernel/pid_max"));
    let groups = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let of_groups = of_groups(&groups, Path::new(CGROUPS));
    [of_user, of_host, of_groups].into_iter().flatten().min().unwrap_or(u64::MAX)
}

/// The same of the control groups of a process (cgroups(7), `/proc/PID/cgroup`): systemd's
/// `TasksMax=` of the unit, and of the slices above it.
fn of_groups(groups: &str, root: &Path) -> Option<u64> {
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let root = match controllers {
            "" => root.to_owned(),
            _ => root.join(controllers.split(',').find(|controller| *controller == "pids")?),
        };
        let above = Path::new(path.strip_prefix('/')?).ancestors();
        above.filter_map(|group| number(&root.join(group).join("pids.max"))).min()
    };
    groups.lines().filter_map(of_line).min()
}

/// `None` where there is no such limit: no such file, or `max` in it.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(groups: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let root = tempfile::tempdir().unwrap();
        for (folder, most) in files {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join("pids.max"), most).unwrap();
        }
        assert_eq!(of_groups(groups, root.path()), expected, "{groups:?} {files:?}");
    }

    #[test]
    fn the_tightest_limit_of_a_group_and_those_above_it_counts() {
        let unit = "0::/system.slice/stormlockd.service\n";
        let (slice, service) = ("system.slice", "system.slice/stormlockd.service");
        check(unit, &[(slice, "max\n"), (service, "4915\n")], Some(4915));
        check(unit, &[(slice, "300\n"), (service, "4915\n")], Some(300));
        check(unit, &[("system.slice/other.service", "7\n"), (service, "max\n")], None);
        check(unit, &[], None);
        check("0::/\n", &[("", "99\n")], Some(99));
        check("", &[("", "99\n")], None);
    }

    #[test]
    fn groups_of_the_first_kind_have_a_tree_for_processes() {
        let groups = "9:name=systemd:/a\n8:cpu,pids:/a/b\n1:cpu:/c\n0::/a\n";
        check(groups, &[("pids/a/b", "12\n"), ("cpu/c", "5\n"), ("a", "20\n")], Some(12));
        check(groups, &[("cpu/c", "5\n")], None);
    }

    #[test]
    fn a_process_is_counted_by_what_it_is_called() {
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        assert!(kept(own.trim_end()).unwrap() >= 1);
        assert_eq!(kept("nothing has this").unwrap(), 0);
    }

    #[test]
    fn a_program_that_somebody_else_called_so_is_none() {
        let status =
            |name: &str, uids: &str| format!("Name:\t{name}\nUmask:\t0022\nUid:\t{uids}\n");
        assert!(is_closer(&status("close-files", "0\t0\t0\t0"), "close-files", 0));
        assert!(!is_closer(&status("close-files", "1000\t0\t0\t0"), "close-files", 0));
        assert!(!is_closer(&status("su", "0\t0\t0\t0"), "close-files", 0));
        assert!(!is_closer("", "", 0));
    }

    #[test]
    fn a_limit_is_known_on_every_host() {
        assert!((1..u64::MAX).contains(&limit()), "{}", limit());
    }
}
