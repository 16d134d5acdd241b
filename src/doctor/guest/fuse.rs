//! FUSE in a guest: who reads from such a file system can't be frozen while the program behind it already is.

use super::lines;
use crate::doctor::check::Check;
use crate::doctor::message::Names;
use crate::doctor::messages::{FUSE_ALLOWED, FUSE_MOUNTED};
use crate::guest::Mounts;
use crate::pve::Config;
use crate::vzdump::Vmid;

pub fn fuse(vmid: Vmid, text: &str, config: &Config, mounts: &Mounts) -> Option<Check> {
    let about = format!("guest.{vmid}.fuse");
    let paths = mounts.of_fuse();
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
    fn the_other_features_stay() {
        assert_eq!(
            without_fuse("features: fuse=1,mount=nfs;cifs,nesting=1\n").unwrap(),
            "'mount=nfs;cifs,nesting=1'"
        );
        assert_eq!(without_fuse("features: fuse=1\n"), None);
    }
}
