//! Data that is not in the backup: on a mount point without `backup=1`, on a directory or device of
//! the node, or on something else that is mounted in the guest.

use std::collections::BTreeMap;
use std::path::Path;

use super::Stacks;
use crate::doctor::check::Check;
use crate::doctor::message::{Message, Names, Values, quoted};
use crate::doctor::messages::{
    BIND_MOUNT, ENGINE_BIND_MOUNT, ENGINE_LEFT_OUT, ENGINE_MOUNTED, LEFT_OUT, MOUNTED,
};
use crate::engine::Info;
use crate::guest::LeftOut;
use crate::pve::Config;
use crate::quiesce::engine_left_out;

/// A mount point of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MountPoint<'a> {
    /// Such as `mp0`.
    key: &'a str,
    value: &'a str,
    path: &'a str,
}

pub fn data(stacks: &Stacks<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut engine = Vec::new();
    let of_engine = |(_, info): &'_ (_, Info)| engine_left_out(info, &stacks.volumes);
    for (_, left_out) in stacks.engines.iter().flat_map(of_engine) {
        if !engine.contains(&left_out) {
            engine.push(left_out);
            checks.extend(check(stacks, &left_out, None));
        }
    }
    let mut users: BTreeMap<LeftOut<'_>, Vec<&str>> = BTreeMap::new();
    for step in &stacks.plan.steps {
        for path in &step.not_in_backup {
            let real = stacks.volumes.real(path);
            let Some(left_out) = stacks.volumes.left_out(real) else { continue };
            let names = users.entry(left_out).or_default();
            if !engine.contains(&left_out) && names.last() != Some(&step.name.as_str()) {
                names.push(&step.name);
            }
        }
    }
    for (left_out, names) in users.into_iter().filter(|(_, names)| !names.is_empty()) {
        checks.extend(check(stacks, &left_out, Some(Names(names))));
    }
    checks
}

/// The check for data of these containers, or of all containers if the engine's own directory is
/// there.
fn check(stacks: &Stacks<'_>, left_out: &LeftOut<'_>, names: Option<Names<'_>>) -> Option<Check> {
    let all = names.is_none();
    let names = names.unwrap_or(Names(Vec::new()));
    let (path, mounted) = match left_out {
        LeftOut::MountPoint(path) => match mount_point(stacks.config, path) {
            Some(point) => {
                let messages =
                    if all { (ENGINE_LEFT_OUT, ENGINE_BIND_MOUNT) } else { (LEFT_OUT, BIND_MOUNT) };
                let about = format!("guest.{}.data.{}", stacks.vmid, point.key);
                return Some(said(stacks, about, point, messages, names));
            }
            // Mounted by LXC's own setting.
            None => (path, None),
        },
        LeftOut::Mounted(path, mounted) => (path, Some(mounted)),
    };
    let about = format!("guest.{}.data.{path}", stacks.vmid);
    let kind = mounted.map_or_else(
        || "lxc.mount.entry".to_string(),
        |mounted| format!("{} {}", mounted.kind, mounted.source),
    );
    let values: Values<'_> = &[("names", &names), ("path", path), ("kind", &kind)];
    Some(if all { ENGINE_MOUNTED } else { MOUNTED }.check(about, values))
}

fn said(
    stacks: &Stacks<'_>,
    about: String,
    point: MountPoint<'_>,
    (volume, bind): (Message, Message),
    names: Names<'_>,
) -> Check {
    let values: Values<'_> = &[("names", &names), ("path", &point.path)];
    if point.value.starts_with('/') {
        return bind.check(about, values);
    }
    let value = quoted(&in_backup(point.value));
    volume.check(about, values).fix(format!("pct set {} --{} {value}", stacks.vmid, point.key))
}

/// Proxmox VE's mount point that contains a path in the guest.
fn mount_point<'a>(config: &'a Config, path: &str) -> Option<MountPoint<'a>> {
    config
        .mounts
        .iter()
        .filter_map(|mount| {
            Some(MountPoint { key: mount.key.as_deref()?, value: &mount.value, path: &mount.path })
        })
        .filter(|point| Path::new(path).starts_with(point.path))
        .max_by_key(|point| Path::new(point.path).components().count())
}

/// The value of the mount point with `backup=1`.
fn in_backup(value: &str) -> String {
    let kept = value.split(',').filter(|part| !part.starts_with("backup="));
    kept.chain(["backup=1"]).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_point_holds_a_path() {
        let text =
            "mp0: local:a,mp=/srv,size=8G\nmp10: /mnt/bulk,mp=/srv/bulk/\nmpx: b,mp=/srv/bulk\n";
        let config = Config::parse(text);
        let key = |path| mount_point(&config, path).map(|point| point.key);
        assert_eq!(key("/srv/pg"), Some("mp0"));
        assert_eq!(key("/srv/bulk/pg"), Some("mp10"));
        assert_eq!(key("/srvx"), None);
    }

    #[test]
    fn what_was_set_is_kept() {
        assert_eq!(
            in_backup("local:a,mp=/srv,backup=0,size=8G"),
            "local:a,mp=/srv,size=8G,backup=1"
        );
    }
}
