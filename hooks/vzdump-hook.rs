//! Called by vzdump as root, once per phase: `script:` in /etc/vzdump.conf.
//!
//! Its output goes into the job's task log. It never fails its caller but on purpose, see
//! [`stillpoint::hook::vzdump`]; a panic is a line in the log and exit status 0.

use std::process::ExitCode;

use stillpoint::hook;

fn main() -> ExitCode {
    hook::run(hook::vzdump)
}
