//! How a process of this host is named so that no later one is taken for it.

use std::fs;
use std::io;

use crate::message::Process;

/// Where in `/proc/PID/stat`, after the name in parentheses, the start stands: field 22, and the
/// first of them is field 3.
const STARTED_AT: usize = 22 - 3;

impl Process {
    /// The process that has this number now. With `group`, its end is that of the last process in
    /// the group that it leads.
    ///
    /// # Errors
    /// When there is none, or it may not be looked at.
    pub fn look(pid: u32, group: bool) -> io::Result<Process> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let strange =
            || io::Error::new(io::ErrorKind::InvalidData, "its /proc entry is unreadable");
        Ok(Process { pid, started: started(&text).ok_or_else(strange)?, group })
    }

    /// True while this very process is there, alive or not yet waited for.
    #[must_use]
    pub fn is_there(&self) -> bool {
        Process::look(self.pid, self.group).is_ok_and(|now| now == *self)
    }
}

/// The name may hold anything, also parentheses and white space; nothing after it does.
fn started(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(STARTED_AT)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_read_whatever_the_process_is_called() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        for name in ["sh", "a b", "x) R 9 9 (", ")"] {
            assert_eq!(started(&format!("42 ({name}) {fields}")), Some(4711), "{name}");
        }
        assert_eq!(started("42 (sh) S 1 2"), None);
        assert_eq!(started(""), None);
    }

    #[test]
    fn this_process_is_there_and_one_of_another_start_is_not() {
        let me = Process::look(std::process::id(), false).unwrap();
        assert!(me.is_there());
        let another = Process { started: me.started + 1, ..me };
        assert!(!another.is_there());
    }
}
