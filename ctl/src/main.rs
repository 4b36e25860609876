//! stormctl: the client of stormlockd.

fn main() {}
