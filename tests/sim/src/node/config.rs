//! A guest's configuration file, and vzdump's edits to it.

use super::{GuestSpec, Kind};
use std::fmt::Write;

/// The configuration of a new guest.
pub fn text(spec: &GuestSpec) -> String {
    let vmid = spec.vmid;
    let mac =
        format!("BC:24:11:{:02X}:{:02X}:{:02X}", vmid >> 16 & 255, vmid >> 8 & 255, vmid & 255);
    let name = &spec.hostname;
    if spec.kind == Kind::Qemu {
        return format!(
            "boot: order=scsi0\ncores: 2\nmemory: 2048\nname: {name}\n\
             net0: virtio={mac},bridge=vmbr0\nonboot: 1\nostype: l26\n\
             scsi0: local-lvm:vm-{vmid}-disk-0,size=8G\n"
        );
    }
    let mut text = format!(
        "#Docker in a container\narch: amd64\ncores: 2\nfeatures: keyctl=1,nesting=1\n\
         {}hostname: {name}\nmemory: 2048\n",
        if spec.hookscript { "hookscript: local:snippets/stillpoint\n" } else { "" }
    );
    for volume in 1..spec.volumes {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "mp{}: local-lvm:vm-{vmid}-disk-{volume},mp=/data{},backup=1,size=8G",
            volume - 1,
            if volume == 1 { String::new() } else { volume.to_string() }
        );
    }
    let _ = write!(
        text,
        "net0: name=eth0,bridge=vmbr0,hwaddr={mac},ip=dhcp,type=veth\nonboot: 1\nostype: debian\n\
         rootfs: local-lvm:vm-{vmid}-disk-0,size=8G\nswap: 512\nunprivileged: 1\n"
    );
    text
}

/// The lock of the guest itself, not of a snapshot's section.
pub fn lock(text: &str) -> Option<String> {
    let (current, _) = sections(text);
    let lock = current.lines().find_map(|line| line.strip_prefix("lock:"));
    lock.map(|lock| lock.trim().to_owned())
}

/// The configuration with another lock; keys stay in PVE's alphabetical order.
pub fn with_lock(text: &str, lock: Option<&str>) -> String {
    let (current, rest) = sections(text);
    let mut lines = current
        .lines()
        .filter(|line| !line.starts_with("lock:"))
        .map(str::to_owned)
        .collect::<Vec<_>>();
    if let Some(lock) = lock {
        let later =
            |line: &String| !line.starts_with('#') && !line.is_empty() && line.as_str() > "lock:";
        let at = lines.iter().position(later).unwrap_or(lines.len());
        lines.insert(at, format!("lock: {lock}"));
    }
    format!("{}\n{rest}", lines.join("\n"))
}

/// The configuration with the section of vzdump's snapshot, which is there while the archive is
/// written.
pub fn with_snapshot(text: &str) -> String {
    let (current, rest) = sections(text);
    let current = with_lock(current, None);
    let copy = current.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
    let time = chrono::Utc::now().timestamp();
    let section =
        format!("\n[vzdump]\n#vzdump backup snapshot\n{}\nsnaptime: {time}\n", copy.join("\n"));
    let lock = lock(text);
    with_lock(&current, lock.as_deref()) + &section + rest
}

/// The configuration without that section.
pub fn without_snapshot(text: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        if line.starts_with('[') {
            inside = line.trim() == "[vzdump]";
            if inside && kept.ends_with("\n\n") {
                kept.pop();
            }
        }
        if !inside {
            kept.push_str(line);
        }
    }
    kept
}

fn sections(text: &str) -> (&str, &str) {
    let end =
        if text.starts_with('[') { 0 } else { text.find("\n[").map_or(text.len(), |at| at + 1) };
    let (current, rest) = text.split_at(end);
    (current, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_and_snapshots_leave_no_trace() {
        let before = text(&GuestSpec::lxc(9001));
        let locked = with_lock(&before, Some("backup"));
        assert_eq!(lock(&locked).as_deref(), Some("backup"));
        let snapped = with_snapshot(&locked);
        assert_eq!(lock(&snapped).as_deref(), Some("backup"));
        assert!(!snapped.split("[vzdump]").nth(1).unwrap().contains("lock:"));
        let after = with_lock(&without_snapshot(&snapped), None);
        assert_eq!(after, before);
    }
}
