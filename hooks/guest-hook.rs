//! Called by Proxmox VE as root on guest start and stop: `hookscript: local:snippets/stillpoint`.
//!
//! A failure in pre-start would keep the guest from starting, so every phase ends with 0.
//! post-start leaves its work to a separate process and returns at once.

use std::process::ExitCode;

use stillpoint::hook;

fn main() -> ExitCode {
    hook::run(hook::guest)
}
