//! How a process of this host is named so that no later one is taken for it.

use std::fs;
use std::io;

use crate::message::Process;
use crate::name::Terminal;

/// Where in `/proc/PID/stat`, after the name in parentheses, the start stands: field 22, and the
/// first of them is field 3.
const STARTED_AT: usize = 22 - 3;
/// The device of its terminal: field 7.
const TERMINAL_AT: usize = 7 - 3;

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

    /// True while this very process is there, alive or not yet waited for; `None` where `/proc`
    /// shows nobody of its number: it is gone, or hidden (`hidepid`, `ProtectProc=`).
    #[must_use]
    pub fn is_there(&self) -> Option<bool> {
        Process::look(self.pid, self.group).ok().map(|now| now == *self)
    }
}

impl Terminal {
    /// The terminal that controls this process, if one does and `/proc` tells.
    #[must_use]
    pub fn of_this_process() -> Option<Terminal> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // A signed number to the kernel, whose bits are those of the device.
        let number = field(&text, TERMINAL_AT)?.parse::<i32>().ok()?.cast_unsigned();
        (number != 0).then_some(Terminal(number))
    }
}

fn started(stat: &str) -> Option<u64> {
    field(stat, STARTED_AT)?.parse().ok()
}

/// The name may hold anything, also parentheses and white space; nothing after it does.
fn field(stat: &str, at: usize) -> Option<&str> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(at)
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
        assert_eq!(me.is_there(), Some(true));
        let another = Process { started: me.started + 1, ..me };
        assert_eq!(another.is_there(), Some(false));
    }
}
