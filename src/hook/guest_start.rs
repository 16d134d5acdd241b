use std::process::Command;
use std::time::Duration;

use crate::report::lines::say;
use crate::sys::{Root, detach, program, text};
use crate::vzdump::Vmid;

/// A guest's start waits no longer than this for its identity; normally it takes a tenth of a
/// second.
const IDENTITY_LIMIT: Duration = Duration::from_secs(5);

/// A call of the guest hookscript, `VMID PHASE`: before each start, a restored copy gets its own
/// identity; after it, the containers in the guest's note are started.
pub fn guest(root: &Root, arguments: &[String]) -> u8 {
    let [vmid, phase, ..] = arguments else { return 0 };
    let Ok(vmid) = vmid.parse::<Vmid>() else { return 0 };
    match phase.as_str() {
        "pre-start" => give_identity(vmid),
        "post-start" => {
            let unit = format!("stillpoint-settle-{vmid}-{}", text::token());
            if let Err(error) = detach::start(root, &unit, &["started", &vmid.to_string()]) {
                say(&format!("the containers that ran in guest {vmid} are not started: {error:#}"));
            }
        }
        _ => {}
    }
    0
}

/// In a separate process: if `/etc/pve` hangs, no signal ends it, and the guest must still start.
fn give_identity(vmid: Vmid) {
    let mut identity = Command::new("/proc/self/exe");
    identity.args(["identity", &vmid.to_string()]);
    match program::run_or_leave(&mut identity, IDENTITY_LIMIT) {
        Ok(lines) => lines.lines().for_each(say),
        Err(error) => {
            say(&format!(
                "guest {vmid} starts unchanged, because its identity could not be checked: \
                 {error:#}"
            ));
        }
    }
}
