//! The node's programs: Stillpoint's own as symlinks to the real ones, PVE's as small scripts that
//! follow PVE's rules about locks.

use super::Node;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// `pct`: refuses to start, stop or change a locked guest; `unlock` edits the configuration.
const PCT: &str = r#"#!/bin/sh
# The simulated node's pct.
here=$(dirname "$(readlink -f "$0")")
root=${here%/usr/sbin}
command=$1
vmid=$2
conf=$root/etc/pve/lxc/$vmid.conf
guest=$root/guests/$vmid
echo "$*" >>"$root/var/log/pct.log"
if [ ! -e "$conf" ]; then
    echo "Configuration file 'nodes/sim/lxc/$vmid.conf' does not exist" >&2
    exit 2
fi
lock=$(sed -n '/^\[/q; s/^lock: *//p' "$conf")
unlocked() {
    if [ -n "$lock" ]; then
        echo "CT is locked ($lock)" >&2
        exit 255
    fi
}
case $command in
start)
    unlocked
    if [ -e "$guest/running" ]; then
        echo "CT $vmid already running" >&2
        exit 255
    fi
    : >"$guest/running"
    if grep -q '^hookscript: local:snippets/stillpoint$' "$conf"; then
        STILLPOINT_ROOT=$root "$root/usr/libexec/stillpoint/guest-hook" "$vmid" post-start
    fi
    ;;
stop)
    unlocked
    rm -f "$guest/running" "$guest/frozen"
    ;;
shutdown)
    unlocked
    : >"$guest/shutdown"
    while [ -e "$guest/running" ]; do sleep 0.02; done
    ;;
unlock)
    sed '1,/^\[/{/^lock:/d;}' "$conf" >"$root/tmp/$vmid.conf.$$" && mv "$root/tmp/$vmid.conf.$$" "$root/etc/pve/nodes/sim/lxc/$vmid.conf"
    ;;
resume)
    unlocked
    rm -f "$guest/frozen"
    ;;
status)
    if [ -e "$guest/running" ]; then echo "status: running"; else echo "status: stopped"; fi
    ;;
config)
    sed '/^\[/,$d' "$conf"
    ;;
set)
    unlocked
    case $3 in
    --hookscript)
        volume=$4
        storage=${volume%%:*}
        path=$(awk -v id="$storage" '/^[^\t ]/ {on = $2 == id} on && $1 == "path" {print $2}' "$root/etc/pve/storage.cfg")
        file=$root${path:-/var/lib/vz}/${volume#*:}
        [ -f "$file" ] || { echo "script '$volume' does not exist" >&2; exit 255; }
        [ -x "$file" ] || { echo "script '$volume' is not executable" >&2; exit 255; }
        line="hookscript: $volume"
        ;;
    --delete) line= ;;
    *)
        echo "Unknown option: $3" >&2
        exit 255
        ;;
    esac
    {
        sed -n '/^\[/q; /^hookscript:/d; p' "$conf"
        [ -z "$line" ] || echo "$line"
        sed -n '/^\[/,$p' "$conf"
    } >"$root/tmp/$vmid.conf.$$" && mv "$root/tmp/$vmid.conf.$$" "$root/etc/pve/nodes/sim/lxc/$vmid.conf"
    ;;
*)
    echo "ERROR: unknown command 'pct $command'" >&2
    exit 255
    ;;
esac
"#;

const LXC_UNFREEZE: &str = r#"#!/bin/sh
# The simulated node's lxc-unfreeze. vzdump has LXC's monitor freeze a guest, for which LXC's state stays RUNNING: then it
# does nothing.
exit 0
"#;

/// Commands for a guest's init always succeed.
const LXC_ATTACH: &str = "#!/bin/sh
# The simulated node's lxc-attach.
exit 0
";

/// `pveversion` without arguments.
const PVEVERSION: &str = "#!/bin/sh
# The simulated node's pveversion.
echo 'pve-manager/9.2.11/4bd1a2d4c6b2d8a8 (running kernel: 6.17.2-1-pve)'
";

/// `pvesm path`: every storage has the directory of `local`.
const PVESM: &str = r#"#!/bin/sh
# The simulated node's pvesm.
case $1 in
path)
    case $2 in
    *:snippets/*) echo "/var/lib/vz/${2#*:}" ;;
    *)
        echo "unable to parse volume ID '$2'" >&2
        exit 255
        ;;
    esac
    ;;
*)
    echo "ERROR: unknown command 'pvesm $1'" >&2
    exit 255
    ;;
esac
"#;

/// Fills the node's `usr`.
pub fn install(node: &Node) -> Result<()> {
    script(&node.path("usr/sbin/pct"), PCT)?;
    script(&node.path("usr/bin/lxc-unfreeze"), LXC_UNFREEZE)?;
    script(&node.path("usr/bin/pveversion"), PVEVERSION)?;
    script(&node.path("usr/sbin/pvesm"), PVESM)?;
    script(&node.path("usr/bin/lxc-attach"), LXC_ATTACH)?;
    fs::create_dir_all(node.path("usr/libexec/stillpoint")).context("making usr/libexec")?;
    fs::create_dir_all(node.path("var/log")).context("making var/log")?;
    let binaries = node.binaries();
    for (target, path) in [
        (&binaries.stillpoint, "usr/bin/stillpoint"),
        (&binaries.vzdump_hook, "usr/libexec/stillpoint/vzdump-hook"),
        (&binaries.guest_hook, "usr/libexec/stillpoint/guest-hook"),
    ] {
        let path = node.path(path);
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        symlink(target, &path).with_context(|| format!("linking {}", path.display()))?;
    }
    Ok(())
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("writing {}", path.display()))
}
