//! Whether the engine is known to start containers, from the record; doctor starts no container to
//! find out.

use crate::doctor::check::Check;
use crate::doctor::message::Values;
use crate::doctor::messages::{NO_START, STARTS, STARTS_UNKNOWN};
use crate::guest::Guest;
use crate::run::Started;
use crate::sys::Root;
use crate::vzdump::Vmid;

pub fn starts(root: &Root, vmid: Vmid, guest: &Guest) -> Check {
    let started = Started::load_of(root, vmid, &guest.boot);
    let about = format!("guest.{vmid}.try");
    if let Some(refusal) = started.refusal() {
        let values: Values<'_> = &[("reason", &refusal.reason), ("vmid", &vmid)];
        return NO_START.check(about, values);
    }
    let latest = started.seen.iter().rev().find_map(|seen| Some((seen, seen.started.as_ref()?)));
    match latest {
        Some((seen, time)) => STARTS.check(about, &[("versions", &seen.versions), ("time", time)]),
        None => STARTS_UNKNOWN.check(about, &[("vmid", &vmid)]),
    }
}
