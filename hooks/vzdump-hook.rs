//! Called by vzdump as root, once per phase: `script:` in /etc/vzdump.conf.
//!
//! Its output goes into the job's task log. It never fails its caller but on purpose, see
//! [`stillpoint::hook::vzdump`]; a panic is a line in the log and exit status 0.

use std::process::ExitCode;

use stillpoint::sys::Root;
use stillpoint::{command, hook, report, sys, vzdump};

fn main() -> ExitCode {
    let done = std::panic::catch_unwind(|| {
        let arguments: Vec<String> =
            std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
        let root = Root::from_env();
        // Without systemd the hook starts itself again for what must outlive vzdump.
        if let Some(ended) = command::detached(&root, &arguments) {
            return ended;
        }
        let environment =
            |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
        let Some(call) = vzdump::Call::read(&arguments, environment) else { return 0 };
        if let Err(error) = sys::signal::watch() {
            report::lines::say(&format!("an interruption will not be noticed: {error}"));
        }
        hook::vzdump(&root, &call)
    });
    // 0 also after a panic, whose message the task log has.
    ExitCode::from(done.unwrap_or(0))
}
