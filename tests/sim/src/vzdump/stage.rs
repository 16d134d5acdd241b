//! Builds the node that a recording was made on, as far as the recording shows it.

use super::log;
use super::placing::runs;
use super::trace::{Call, Scenario};
use crate::hooks::Binaries;
use crate::node::{GuestSpec, Kind, Node};
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::Path;

/// Changes a guest before it is made.
pub type Adjust<'a> = &'a dyn Fn(&mut GuestSpec);

/// Builds the node: its storages, its guests with a stack each, and locks left by others.
///
/// # Errors
/// If the node cannot be built.
pub fn stage(
    scenario: &Scenario,
    root: Option<&Path>,
    binaries: &Binaries,
    adjust: Adjust,
) -> Result<Node> {
    let mut node = Node::new(root, binaries)?;
    add_storages(scenario, &mut node)?;
    for vmid in scenario.vmids() {
        let calls =
            scenario.calls.iter().filter(|call| call.vmid() == Some(vmid)).collect::<Vec<_>>();
        let part = log::part(&scenario.task_log, vmid);
        let qemu = calls.iter().any(|call| call.is_qemu())
            || part.first().is_some_and(|line| line.contains("(qemu)"));
        let mut spec = if qemu { GuestSpec::qemu(vmid) } else { GuestSpec::lxc(vmid) };
        spec.running = runs(scenario, vmid);
        if let Some(name) = calls.iter().find_map(|call| call.env.get("HOSTNAME")) {
            spec.hostname.clone_from(name);
        }
        let volumes = part.iter().filter(|line| {
            line.starts_with("INFO: including mount point") && line.ends_with("in backup")
        });
        spec.volumes = u32::try_from(volumes.count()).unwrap_or(1).max(1);
        adjust(&mut spec);
        let guest = node.add_guest(spec)?;
        let found = scenario.task_log.iter().find_map(|line| locked(line, vmid, guest.kind));
        if let Some(lock) = found {
            guest.set_lock(Some(&lock))?;
        }
    }
    Ok(node)
}

/// `ERROR: Backup of VM 9001 failed - CT is locked (backup)`
fn locked(line: &str, vmid: u32, kind: Kind) -> Option<String> {
    let rest = line.strip_prefix(&format!("ERROR: Backup of VM {vmid} failed - "))?;
    let word = if kind == Kind::Lxc { "CT" } else { "VM" };
    let rest = rest.split_once(&format!("{word} is locked ("))?.1;
    Some(rest.split_once(')')?.0.to_owned())
}

fn add_storages(scenario: &Scenario, node: &mut Node) -> Result<()> {
    let missing = |what: &str, name: &str| {
        let text = format!("{what} '{name}' does not exist");
        scenario.task_log.iter().any(|line| line.contains(&text))
    };
    let ids = scenario.calls.iter().filter_map(|call| call.env.get("STOREID"));
    for id in ids.collect::<BTreeSet<_>>() {
        let on_it = |call: &&Call| call.env.get("STOREID") == Some(id);
        if missing("storage", id) {
            continue;
        }
        if scenario.calls.iter().filter(on_it).any(|call| call.pbs_target().is_some()) {
            node.add_backup_server(id, namespace(scenario))?;
        } else {
            node.add_storage(
                "dir",
                id,
                &[("path", "/var/lib/vz"), ("content", "backup,iso,snippets")],
            )?;
        }
    }
    let dirs = scenario.calls.iter().filter_map(|call| call.env.get("DUMPDIR"));
    for dir in dirs.collect::<BTreeSet<_>>() {
        if !missing("dumpdir", dir) {
            let dir = node.path(dir.trim_start_matches('/'));
            std::fs::create_dir_all(&dir)?;
        }
    }
    Ok(())
}

/// The namespace that was given to the client, from the log.
fn namespace(scenario: &Scenario) -> Option<&str> {
    let run = scenario.task_log.iter().find(|line| line.contains("proxmox-backup-client"))?;
    let mut words = run.split_whitespace().skip_while(|word| *word != "--ns");
    words.nth(1)
}
