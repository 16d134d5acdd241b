//! Called by vzdump as root, once per phase: `script:` in /etc/vzdump.conf.
//!
//! Its output goes into the job's task log. It fails its caller only on purpose, see
//! [`stillpoint::hook::vzdump`]; after a panic the exit status is 0, with a line in the log.

use std::process::ExitCode;

use stillpoint::hook;

fn main() -> ExitCode {
    hook::run(hook::vzdump)
}
