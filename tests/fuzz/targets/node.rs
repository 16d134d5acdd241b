//! The node's own files: guest configurations, storages, settings, task logs.

use std::path::Path;
use std::time::Duration;

use stillpoint::config::Settings;
use stillpoint::pbs::tls;
use stillpoint::pve::edit::{Edit, Grammar, edited};
use stillpoint::pve::{Config, Mount, Net, storage};
use stillpoint::vzdump::{TaskLog, Upid, Vmid};

use super::{Node, assert_sayable, assert_short_words};

/// `/etc/pve/lxc/VMID.conf`.
pub fn guest_config(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let config = Config::parse(&text);
    let with_snapshot =
        format!("{text}\n[old]\nhostname: old\nrootfs: a:old\nmp0: b:old,mp=/old\n");
    assert_eq!(Config::parse(&with_snapshot), config, "a snapshot's section counts");
    assert!(config.mounts.len() <= text.lines().count());
    for name in [&config.hostname, &config.lock, &config.root_volume].into_iter().flatten() {
        assert!(!name.contains('\n'));
    }
    let depth = |path: &str| Path::new(path).components().count();
    for mount in &config.mounts {
        let same = |other: &&Mount| Path::new(&other.path) == Path::new(&mount.path);
        let last = config.mounts.iter().rev().find(same).unwrap();
        for path in [&mount.path, &format!("{}/", mount.path), &format!("{}/a/b", mount.path)] {
            let inner = |other: &Mount| {
                depth(&other.path) > depth(&mount.path) && Path::new(path).starts_with(&other.path)
            };
            if !config.mounts.iter().any(inner) {
                assert_eq!(config.left_out(path), !last.in_backup, "{path}");
            }
        }
    }
    if config.mounts.iter().all(|mount| mount.in_backup) {
        assert!(!config.left_out("/var/lib/docker/volumes/pg/_data"));
    }
}

/// The same file after edits: everything else stays byte for byte, and the change can be read back.
pub fn guest_edit(input: &[u8]) {
    let config = Config::parse(&String::from_utf8_lossy(input));
    let edit = |key: &str, from: &str, to: &str| Edit {
        key: key.to_string(),
        from: from.to_string(),
        to: Some(to.to_string()),
    };
    assert_eq!(edited(input, Grammar::Pve, &[]), input);
    assert_eq!(edited(input, Grammar::Lxc, &[]), input);
    for (number, value) in &config.nets {
        let net = Net::parse(value);
        assert_eq!(&net.to_string(), value, "word for word");
        let mut new = net.clone();
        new.set("hwaddr", "02:00:00:00:00:01");
        assert_eq!(new.get("hwaddr"), Some("02:00:00:00:00:01"));
        let there = edit(&format!("net{number}"), value, &new.to_string());
        let back = edit(&there.key, &new.to_string(), value);
        let after = edited(input, Grammar::Pve, std::slice::from_ref(&there));
        let ends = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(ends(&after), ends(input), "no line comes or goes");
        // If the new value was there before, or differs from the old one only in case, undoing the
        // change is ambiguous.
        let unique = !value.is_empty()
            && !value.eq_ignore_ascii_case(&new.to_string())
            && !config.nets.iter().any(|(_, other)| other.eq_ignore_ascii_case(&new.to_string()));
        let case =
            config.nets.iter().filter(|(_, other)| other.eq_ignore_ascii_case(value)).count();
        if unique && case == 1 {
            assert_eq!(edited(&after, Grammar::Pve, &[back]), input);
        }
    }
    if let Some(old) = &config.hostname {
        let new = stillpoint::identity::hostname("{hostname}-{vmid}", old, Vmid(9002));
        assert!(new.len() <= 64, "{new}");
        let label = new.split('.').next().unwrap();
        assert!(!label.is_empty() && label.len() <= 63);
        assert!(label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{label}");
        assert!(!label.starts_with('-') && !label.ends_with('-'), "{label}");
    }
}

/// `/etc/pve/storage.cfg`.
pub fn storage(input: &[u8]) {
    let node = Node::with("/etc/pve/storage.cfg", input);
    let storages = storage::read(&node.root).unwrap();
    for found in &storages {
        // The id becomes part of a file name.
        assert!(!found.id.is_empty() && !found.id.contains('/') && !found.id.starts_with('.'));
        assert!(!found.id.contains(char::is_whitespace));
        assert!(found.target.is_none() || found.kind == "pbs");
        let Some(target) = &found.target else { continue };
        for word in [&target.server, &target.datastore, &target.username] {
            assert!(!word.is_empty() && !word.contains('\n'), "{word:?}");
        }
        assert!(target.durable_id().starts_with(&format!("{}:", target.server)));
        if let Some(fingerprint) = &target.fingerprint {
            let _ = fingerprint.parse::<tls::Fingerprint>();
        }
        assert!(storage::secret(&node.root, &found.id).is_err(), "there is none");
    }
    let mut more = input.to_vec();
    more.extend(b"\n\npbs: added-by-the-test\n\tdatastore d\n\tserver s\n");
    let node = Node::with("/etc/pve/storage.cfg", &more);
    assert_eq!(storage::read(&node.root).unwrap().len(), storages.len() + 1, "harmed by another");
}

/// `/etc/stillpoint/config.toml`.
pub fn settings(input: &[u8]) {
    let node = Node::with("/etc/stillpoint/config.toml", input);
    let settings = Settings::load(&node.root);
    match &settings.complaint {
        Some(complaint) => {
            assert_sayable(complaint);
            let mut spared = settings.clone();
            spared.complaint = None;
            assert_eq!(format!("{spared:?}"), format!("{:?}", Settings::default()));
        }
        // Such a duration is added to a time and multiplied.
        None => {
            for span in
                [settings.quiesce.time_limit, settings.quiesce.hold_limit, settings.verify.wait]
            {
                assert!(std::time::Instant::now().checked_add(span).is_some(), "{span:?}");
                assert!(span <= Duration::from_millis(u64::MAX));
            }
        }
    }
    stillpoint::quiesce::Plan::default().time_limit(&settings);
    let _ = settings.strategy_of(9001);
}

/// `/var/log/pve/tasks/X/UPID`.
pub fn task_log(input: &[u8]) {
    let upid = Upid::parse("UPID:pve1:00006B5F:00A1B2C3:6B02265C:vzdump:9001:root@pam:").unwrap();
    let node = Node::with(&upid.log_path(), input);
    let log = TaskLog::read(&node.root, &upid).unwrap();
    for vmid in [Vmid(9001), Vmid(900)] {
        if let Some(failure) = log.failure_of(vmid) {
            assert_short_words(&failure);
        }
    }
    assert!(!(log.is_at(Vmid(9001)) && log.is_at(Vmid(9002))), "at one guest at a time");
    let _ = log.mode_asked();

    let mut ended = input.to_vec();
    ended.extend(b"\nINFO: Finished Backup of VM 9001 (00:00:01)\n");
    let node = Node::with(&upid.log_path(), &ended);
    assert!(!TaskLog::read(&node.root, &upid).unwrap().is_at(Vmid(9001)), "it has ended");
}
