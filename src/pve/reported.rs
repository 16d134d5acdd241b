use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::sys::{Root, clock, file};
use crate::vzdump::Vmid;

/// The status reports of every node's `pvestatd` about its guests, every ten seconds; an entry
/// stays for five minutes.
const REPORTS: &str = "/etc/pve/.rrd";

/// About 200 bytes for each guest.
const LIMIT: u64 = 16 << 20;

/// An older report, in seconds, says nothing about the present.
const FRESH: i64 = 60;

/// Which guests of the cluster were just reported as running (`true`) or stopped (`false`); the
/// state of others is unknown.
pub fn reported(root: &Root) -> Result<BTreeMap<Vmid, bool>> {
    let text = file::read_text(&root.path(REPORTS), LIMIT).context(REPORTS)?;
    Ok(parse(&text.unwrap_or_default(), clock::now().timestamp()))
}

/// `pve-vm-9.0/VMID:UPTIME:NAME:STATUS:TEMPLATE:TIME:...`; during an upgrade a cluster also has
/// `pve2.3-vm/`.
fn parse(text: &str, now: i64) -> BTreeMap<Vmid, bool> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [key, _, _, status, _, time, ..] = fields.as_slice() else { continue };
        let Some((kind, Ok(vmid))) = key.split_once('/').map(|(kind, vmid)| (kind, vmid.parse()))
        else {
            continue;
        };
        let fresh = time.parse::<i64>().is_ok_and(|time| now.abs_diff(time) <= FRESH as u64);
        if !fresh || !(kind.starts_with("pve-vm-") || kind == "pve2.3-vm") {
            continue;
        }
        match *status {
            "running" => found.insert(vmid, true),
            "stopped" => found.insert(vmid, false),
            _ => None,
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fresh_reports_of_guests_count() {
        let text = "pve-node-9.0/one:1:2:3:4:1000:6\npve-vm-9.0/100:77:web:running:0:1000:2:0.1\n\
            pve-vm-9.0/101:0:db:stopped:0:990:2:U\npve2.3-vm/102:9:old:running:0:1030:2\n\
            pve-vm-9.0/103:9:stale:running:0:900:2\npve-vm-9.0/104:9:odd:paused:0:1000\n\
            pve-vm-9.0/x:9:a:running:0:1000\npve-vm-9.0/105:9\n\0";
        let found: Vec<_> = parse(text, 1000).into_iter().map(|(vmid, up)| (vmid.0, up)).collect();
        assert_eq!(found, [(100, true), (101, false), (102, true)]);
    }
}
