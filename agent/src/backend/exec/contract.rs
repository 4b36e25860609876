//! The suite of every store against a program: the one that `$STORMLOCK_EXEC` names, as a JSON list
//! of its path and arguments, or the example. What the program's store holds already stays as it
//! is; resources have names of their own.

use std::sync::Arc;

use super::super::contract::{self, Others, Site};
use super::server::ExecStore;
use super::{Backend, Exec, Options};

/// Names the program to run the suite against.
const OWN: &str = "STORMLOCK_EXEC";

struct Own {
    command: Vec<String>,
    _store: Option<ExecStore>,
}

impl Own {
    fn start() -> Own {
        if let Ok(command) = std::env::var(OWN) {
            let command = serde_json::from_str(&command);
            let command = command.expect("$STORMLOCK_EXEC is a list, as in [\"/path/prog\"]");
            return Own { command, _store: None };
        }
        let store = ExecStore::start();
        Own { command: store.command(), _store: Some(store) }
    }
}

impl Site for Own {
    fn open(&self) -> Arc<dyn Backend> {
        let command = self.command.clone();
        Arc::new(Exec::new(&Options { command, ..Options::default() }).expect("a program"))
    }

    fn others(&self) -> Option<&dyn Others> {
        None
    }
}

contract::contract!(Own::start());
