//! The binary: flags, configuration, logging, then the daemon. (Not wired yet.)

fn main() {}
