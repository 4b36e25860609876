//! stormlockd: arguments, configuration, log and exit code of the agent.

fn main() {}
