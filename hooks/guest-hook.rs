//! Called by Proxmox VE as root on guest start and stop: `hookscript: local:snippets/stillpoint`.
//!
//! A failure in pre-start would keep the guest from starting, so every phase ends with 0, and post-start leaves
//! its work to a process of its own and returns at once.

use std::process::ExitCode;

use stillpoint::sys::Root;
use stillpoint::{command, hook};

fn main() -> ExitCode {
    let done = std::panic::catch_unwind(|| {
        let arguments: Vec<String> =
            std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
        let root = Root::from_env();
        if let Some(ended) = command::detached(&root, &arguments) {
            return ended;
        }
        hook::guest(&root, &arguments);
        0
    });
    ExitCode::from(done.unwrap_or(0))
}
