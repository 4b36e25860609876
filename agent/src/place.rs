//! Where this process runs: the facts about host and boot that the journal opens with. It decides
//! nothing about them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use stormlock_protocol::name::UnixMs;

use crate::clock;
use crate::journal::Place;

/// The environment variable that names another file to read the boot id from: for tests of a reboot
/// in a container, whose kernel is its host's.
pub const BOOT_ID_VARIABLE: &str = "STORMLOCK_BOOT_ID_FILE";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MACHINE_ID: &str = "/etc/machine-id";
/// A machine id is 128 bits in hexadecimal (machine-id(5)).
const MACHINE_ID_LEN: usize = 32;

/// Why it cannot be told where this process runs.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The boot id cannot be read.
    #[error("reading this boot's id from {}, which tells a restart from a reboot", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The boot id is none.
    #[error("{} holds no boot id: expected a uuid as the kernel writes it", .0.display())]
    NotAnId(PathBuf),
}

/// This host, this boot.
///
/// # Errors
/// [`PlaceError`] without a boot id: an agent that took a reboot for a restart would believe leases
/// of commands that are gone.
pub fn here() -> Result<Place, PlaceError> {
    let boot = std::env::var_os(BOOT_ID_VARIABLE).map_or_else(|| BOOT_ID.into(), PathBuf::from);
    read(Path::new(MACHINE_ID), &boot)
}

fn read(machine: &Path, boot: &Path) -> Result<Place, PlaceError> {
    let text = fs::read_to_string(boot)
        .map_err(|source| PlaceError::Unread { path: boot.to_owned(), source })?;
    let boot = parse_uuid(text.trim()).ok_or_else(|| PlaceError::NotAnId(boot.to_owned()))?;
    Ok(Place { machine: machine_id(machine), boot, wall_at_boot: wall_at_boot() })
}

/// `None` too for an image that has not had its first boot ("uninitialized") and for a file that
/// cannot be read: no machine id is better than one that many hosts share.
fn machine_id(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let id = text.trim();
    let is_id = id.len() == MACHINE_ID_LEN && id.bytes().all(|b| b.is_ascii_hexdigit());
    let is_set = id.bytes().any(|b| b != b'0');
    (is_id && is_set).then(|| id.to_ascii_lowercase())
}

fn wall_at_boot() -> UnixMs {
    let since_boot = i64::try_from(clock::now().as_nanos() / 1_000_000).unwrap_or(i64::MAX);
    UnixMs(clock::wall().0.saturating_sub(since_boot))
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let hex: String = text.split('-').collect();
    let is_hex = hex.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u128::from_str_radix(&hex, 16).ok()?;
    (is_hex && hex.len() == 32).then(|| number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0b4b0f2e-8c6c-4f7e-9d7b-00aa11bb22cc\n";
    const MACHINE: &str = "4f3C2b1a00112233445566778899aabb\n";

    fn place(machine: Option<&str>, boot: &str) -> Result<Place, PlaceError> {
        let dir = tempfile::tempdir().unwrap();
        let (machine_file, boot_file) = (dir.path().join("machine"), dir.path().join("boot"));
        if let Some(text) = machine {
            fs::write(&machine_file, text).unwrap();
        }
        fs::write(&boot_file, boot).unwrap();
        read(&machine_file, &boot_file)
    }

    #[test]
    fn machine_and_boot_are_read_as_the_system_writes_them() {
        let place = place(Some(MACHINE), UUID).unwrap();
        assert_eq!(place.machine.as_deref(), Some("4f3c2b1a00112233445566778899aabb"));
        assert_eq!(place.boot[..4], [0x0b, 0x4b, 0x0f, 0x2e]);
        assert_eq!(place.boot[12..], [0x11, 0xbb, 0x22, 0xcc]);
    }

    #[test]
    fn a_machine_without_an_id_of_its_own_has_none() {
        let zeros = "0".repeat(MACHINE_ID_LEN);
        for text in [None, Some(""), Some("uninitialized\n"), Some(zeros.as_str()), Some("x1")] {
            assert_eq!(place(text, UUID).unwrap().machine, None, "{text:?}");
        }
    }

    #[test]
    fn a_boot_without_an_id_is_an_error_that_names_the_file() {
        for text in ["", "none", "+b4b0f2e-8c6c-4f7e-9d7b-00aa11bb22cc", "0b4b0f2e"] {
            let error = place(None, text).unwrap_err().to_string();
            assert!(error.contains("boot"), "{text:?}: {error}");
        }
        let missing = read(Path::new("/nowhere"), Path::new("/nowhere/boot")).unwrap_err();
        assert!(matches!(missing, PlaceError::Unread { .. }));
    }

    #[test]
    fn this_host_has_a_boot_that_began_in_the_past() {
        let place = here().unwrap();
        assert_ne!(place.boot, [0; 16]);
        assert!(place.wall_at_boot <= clock::wall());
    }
}
