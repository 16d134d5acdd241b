//! FUSE in a guest: who reads from such a file system can't be frozen while the program behind it already is.

use std::time::Duration;

use super::lines;
use crate::doctor::check::Check;
use crate::doctor::message::Names;
use crate::doctor::messages::{FUSE_ALLOWED, FUSE_MOUNTED};
use crate::guest::{Config, Guest};
use crate::sys::bounded;
use crate::vzdump::Vmid;

/// A look-up in the guest's file system takes microseconds, unless the guest makes it hang.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// Some thousand mounts.
const MOUNTS_LIMIT: u64 = 4 << 20;

pub fn fuse(vmid: Vmid, text: &str, config: &Config, guest: &Guest) -> Option<Check> {
    let about = format!("guest.{vmid}.fuse");
    let mounts = mounts(guest);
    let paths = mounted(&mounts);
    if !paths.is_empty() {
        let paths = Names(paths);
        return Some(FUSE_MOUNTED.check(about, &[("paths", &paths), ("vmid", &vmid)]));
    }
    if !config.features.iter().any(|feature| feature == "fuse") {
        return None;
    }
    let fix = match without_fuse(text) {
        Some(features) => format!("pct set {vmid} --features {features}"),
        None => format!("pct set {vmid} --delete features"),
    };
    Some(FUSE_ALLOWED.check(about, &[]).fix(fix))
}

/// What the guest's init sees mounted; nothing where that can't be told.
fn mounts(guest: &Guest) -> String {
    let Ok(tree) = guest.tree.try_clone() else { return String::new() };
    let read = bounded::within(LOOKUP_LIMIT, move || tree.read("/proc/1/mountinfo", MOUNTS_LIMIT));
    match read {
        Ok(Ok(Some(bytes))) => String::from_utf8_lossy(&bytes).into_owned(),
        _ => String::new(),
    }
}

/// Where FUSE file systems are mounted; lxcfs is the node's own, and not frozen with the guest.
fn mounted(mounts: &str) -> Vec<&str> {
    let of_fuse = |line: &str| {
        let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next());
        kind.is_some_and(|kind| {
            matches!(kind, "fuse" | "fuseblk") || kind.starts_with("fuse.") && kind != "fuse.lxcfs"
        })
    };
    mounts.lines().filter(|line| of_fuse(line)).filter_map(|line| line.split(' ').nth(4)).collect()
}

/// `features:` without FUSE; `None` where nothing is left.
fn without_fuse(text: &str) -> Option<String> {
    let (_, value) = lines(text).find(|(key, _)| *key == "features")?;
    let left: Vec<&str> = value.split(',').filter(|part| *part != "fuse=1").collect();
    (!left.is_empty()).then(|| crate::doctor::message::quoted(&left.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuse_of_the_node_does_not_count() {
        let mounts = "100 99 0:50 / /proc/cpuinfo rw,nosuid - fuse.lxcfs lxcfs rw\n\
            101 99 0:51 / /mnt/remote rw,nosuid shared:1 - fuse.sshfs host: rw\n\
            102 99 0:52 / /sys/fs/fuse/connections rw - fusectl none rw\n\
            103 99 0:53 / /mnt/usb rw - fuseblk /dev/sda1 rw\nodd\n";
        assert_eq!(mounted(mounts), ["/mnt/remote", "/mnt/usb"]);
    }

    #[test]
    fn the_other_features_stay() {
        assert_eq!(
            without_fuse("features: fuse=1,mount=nfs;cifs,nesting=1\n").unwrap(),
            "'mount=nfs;cifs,nesting=1'"
        );
        assert_eq!(without_fuse("features: fuse=1\n"), None);
    }
}
