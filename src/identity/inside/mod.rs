//! Replaces what a restored copy must not share inside: the machine-id and the SSH host keys.

mod host_keys;
mod machine_id;
mod services;
mod shared;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::services::{Kind, Services};
use super::copies::{self, Copy};
use crate::guest::{Guest, State};
use crate::journal::{Journal, Record, Renewed};
use crate::pve::{Config, Place};
use crate::report::{log, mail};
use crate::sys::{Root, failpoint, lock, text};
use crate::vzdump::Vmid;

/// Another process that does this needs less time.
const LOCK_LIMIT: Duration = Duration::from_secs(300);

/// Does what is still due inside a running copy, according to [`copies`]. A step that fails is
/// reported and journalled, tried again at the copy's next start, and does not stop the others.
///
/// Nothing from the guest is run on the node, and files are written only with the rights of the
/// guest's own root.
pub fn renew(root: &Root, vmid: Vmid) -> Result<()> {
    if copies::find(root, vmid)?.is_none() {
        return Ok(());
    }
    let path = root.path(&format!("/run/stillpoint/renew-{vmid}.lock"));
    let _lock = lock::take(&path, Instant::now() + LOCK_LIMIT)?;
    // The process that held the lock has done it.
    let Some(copy) = copies::find(root, vmid)? else { return Ok(()) };
    let config = match Place::of(root, vmid) {
        Ok(Place::Here(config)) => Some(config),
        Ok(Place::Elsewhere(_) | Place::Gone) | Err(_) => None,
    };
    if config.as_ref().is_some_and(|config| !copy.is_of(config)) {
        log::notice(vmid, "it is no longer the copy that was to get a machine-id and host keys");
        return copies::forget(root, vmid);
    }
    let guest = match State::of(root, vmid)? {
        State::Running(guest) if guest.is_frozen() => bail!("it is frozen"),
        State::Running(guest) => guest,
        State::Stopped => bail!("it is not running"),
    };
    if copy.if_shared {
        match shared::with_original(root, &copy, &guest)? {
            Some(true) => {}
            Some(false) => return copies::forget(root, vmid),
            // It may be known at its next start.
            None => return Ok(()),
        }
    }
    let began = Instant::now();
    let mut renewing = Renewing { root, guest, copy, done: Vec::new(), failed: Vec::new() };
    renewing.all(&config.unwrap_or_default());
    renewing.tell(began.elapsed())
}

struct Renewing<'a> {
    root: &'a Root,
    guest: Guest,
    /// What is still due.
    copy: Copy,
    done: Vec<String>,
    failed: Vec<String>,
}

impl Renewing<'_> {
    fn all(&mut self, config: &Config) {
        let mut restart = Vec::new();
        if self.copy.machine_id {
            let renewed = machine_id::renew(&self.guest);
            // A DHCP client that identifies itself by the old machine-id has to ask again.
            if matches!(renewed, Ok(true)) && uses_dhcp(config) {
                restart.push(Kind::Network);
            }
            self.copy.machine_id = self.is_due_after("machine-id", renewed);
            failpoint::reach(self.root, "machine-id");
        }
        if self.copy.ssh_host_keys {
            let hostname = config.hostname.as_deref().unwrap_or("localhost");
            let renewed = host_keys::renew(self.root, self.copy.vmid, &self.guest, hostname);
            if matches!(renewed, Ok(true)) {
                restart.push(Kind::Ssh);
            }
            self.copy.ssh_host_keys = self.is_due_after("ssh-host-keys", renewed);
            failpoint::reach(self.root, "host-keys");
        }
        if !restart.is_empty() {
            let services = Services { root: self.root, vmid: self.copy.vmid, guest: &self.guest };
            if let Err(error) = services.restart(&restart) {
                self.failed.push(format!(
                    "services in it go by the old ones until they are started again: {error:#}"
                ));
            }
        }
    }

    /// Records the result of a step, and returns whether it is still due.
    fn is_due_after(&mut self, step: &str, renewed: Result<bool>) -> bool {
        match renewed {
            Ok(true) => self.done.push(step.to_string()),
            // The guest has none to replace.
            Ok(false) => {}
            Err(error) => {
                self.failed.push(format!("{step}: {error:#}"));
                return true;
            }
        }
        false
    }

    /// Writes the result to the journal and, after a failure, to the system's log and a mail; and
    /// records what is still due. The same failure is reported once.
    fn tell(self, took: Duration) -> Result<()> {
        let Renewing { root, mut copy, done, failed, .. } = self;
        let failure = (!failed.is_empty()).then(|| text::printable(&failed.join("; "), 1000));
        let known = failure.is_some() && done.is_empty() && failure == copy.told;
        copy.told = failure.clone();
        let again = if copy.machine_id || copy.ssh_host_keys {
            copies::leave(root, &copy)?;
            " Each start tries again; this is reported once."
        } else {
            copies::forget(root, copy.vmid)?;
            ""
        };
        if known {
            return Ok(());
        }
        if let Some(failure) = failure {
            let message = format!(
                "not everything of a restored copy could be made new inside it: {failure}.{again}"
            );
            log::warning(copy.vmid, &message);
            let subject = format!(
                "Stillpoint: guest {} still has its original's machine-id or host keys",
                copy.vmid
            );
            if let Err(error) = mail::about(root, copy.vmid, &subject, &message) {
                log::warning(copy.vmid, &format!("{error:#}"));
            }
        }
        Journal::of(root).append(&Record::Renewed(Renewed {
            vmid: copy.vmid,
            original: copy.original,
            copied: copy.time,
            done,
            failed,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }))
    }
}

fn uses_dhcp(config: &Config) -> bool {
    let mut options = config.nets.iter().flat_map(|(_, net)| net.split(','));
    options.any(|option| matches!(option.trim(), "ip=dhcp" | "ip6=dhcp" | "ip6=auto"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_by_dhcp_is_seen() {
        let config = |net: &str| Config { nets: vec![(0, net.to_string())], ..Config::default() };
        assert!(uses_dhcp(&config("name=eth0,ip=dhcp,type=veth")));
        assert!(uses_dhcp(&config("name=eth0,ip=10.0.0.2/24,ip6=auto")));
        assert!(!uses_dhcp(&config("name=eth0,ip=10.0.0.2/24")));
    }
}
