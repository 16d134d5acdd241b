//! FUSE in a guest: a process that reads from such a file system cannot be frozen if the program
//! that serves it is frozen first.

use crate::doctor::check::Check;
use crate::doctor::message::{Names, quoted};
use crate::doctor::messages::{FUSE_ALLOWED, FUSE_MOUNTED};
use crate::guest::Mounts;
use crate::pve::Config;
use crate::vzdump::Vmid;

pub fn fuse(vmid: Vmid, config: &Config, mounts: &Mounts) -> Option<Check> {
    let about = format!("guest.{vmid}.fuse");
    let paths = mounts.of_fuse();
    if !paths.is_empty() {
        let paths = Names(paths);
        return Some(FUSE_MOUNTED.check(about, &[("paths", &paths), ("vmid", &vmid)]));
    }
    if !config.has_feature("fuse") {
        return None;
    }
    let fix = match config.features_without("fuse") {
        Some(features) => format!("pct set {vmid} --features {}", quoted(&features)),
        None => format!("pct set {vmid} --delete features"),
    };
    Some(FUSE_ALLOWED.check(about, &[]).fix(fix))
}
