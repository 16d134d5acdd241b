use crate::report::lines::say;
use crate::sys::{Root, detach, text};
use crate::vzdump::Vmid;

/// Does what is due in a call of the guest hookscript, `VMID PHASE`: after each start, what the guest says was
/// running when it was backed up is brought up.
pub fn guest(root: &Root, arguments: &[String]) -> u8 {
    let [vmid, phase, ..] = arguments else { return 0 };
    let (Ok(vmid), "post-start") = (vmid.parse::<Vmid>(), phase.as_str()) else { return 0 };
    let unit = format!("stillpoint-settle-{vmid}-{}", text::token());
    if let Err(error) = detach::start(root, &unit, &["settle", &vmid.to_string()]) {
        say(&format!("what was running in guest {vmid} is not brought up: {error:#}"));
    }
    0
}
