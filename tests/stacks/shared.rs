//! A restored copy beside its original: Proxmox VE keeps bind mounts, but two databases must never
//! write to one directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use stillpoint_sim::engine::container::{Container, Spec, Status};
use stillpoint_sim::node::{Guest, GuestSpec, Node};

use crate::scene::binaries;

const BIND: &str = "mp0: /tank/pg,mp=/srv/pg\n";

struct Pair {
    node: Node,
    copy: Arc<Guest>,
}

impl Pair {
    /// Guest 9001 and its copy 9002, with a database at /srv/pg/data and a web server with its own
    /// data. The copy is as restored: everything is down, and its note says what ran.
    fn new(original: &str, copy: &str) -> Pair {
        Pair::with(original, copy, &[("/srv/pg/data", "/var/lib/postgresql/data")])
    }

    fn with(original: &str, copy: &str, volumes: &[(&str, &str)]) -> Pair {
        let mut node = Node::new(None, &binaries()).unwrap();
        let mut db = Spec::service("shop", "pg");
        db.volumes = volumes.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect();
        let mut web = Spec::service("shop", "web");
        web.volumes = vec![("/opt/web".into(), "/data".into()), ("site".into(), "/site".into())];
        let down = |spec: &Spec| spec.clone().status(Status::Exited);
        let containers = vec![down(&db), down(&web)];
        let spec = GuestSpec { containers: vec![db, web], ..GuestSpec::lxc(9001) };
        node.add_guest(spec).unwrap();
        let copy_of = node.add_guest(GuestSpec { containers, ..GuestSpec::lxc(9002) }).unwrap();
        for (vmid, line) in [(9001, original), (9002, copy)] {
            let guest = node.guest(vmid).unwrap();
            let config = guest.config().unwrap();
            guest.set_config(&config.replacen("net0:", &format!("{line}net0:"), 1)).unwrap();
        }
        let pair = Pair { node, copy: copy_of };
        pair.note(9001);
        pair
    }

    /// The note from that guest's backup.
    fn note(&self, vmid: u32) {
        let time = |container: &Container| {
            container.started_at.map_or_else(
                || "0001-01-01T00:00:00Z".into(),
                |at| at.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
            )
        };
        let containers: Vec<Value> = self
            .containers()
            .iter()
            .map(|container| {
                json!({
                    "id": container.id, "name": container.spec.name, "project": "shop",
                    "service": container.service(), "action": "stop", "after": [],
                    "started_at": time(container),
                })
            })
            .collect();
        let note = json!({
            "schema": 1, "run": "1-2-3", "vmid": vmid, "time": "2026-11-21T23:22:56.000Z",
            "containers": containers,
        });
        self.write_note(&note);
    }

    fn write_note(&self, note: &Value) {
        let path = self.copy.dir().join("root/var/lib/stillpoint/quiesced.json");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, note.to_string()).unwrap();
    }

    fn containers(&self) -> Vec<Container> {
        self.copy.engine.as_ref().unwrap().containers()
    }

    fn status(&self, name: &str) -> Status {
        self.containers().iter().find(|it| it.spec.name == name).unwrap().status
    }

    fn settings(&self, text: &str) {
        self.node.write("etc/stillpoint/config.toml", text).unwrap();
    }

    fn keep_mail(&self) {
        let script = format!("#!/bin/sh\nexec /bin/cat >>{}\n", self.node.path("mail").display());
        self.node.write("usr/sbin/sendmail", &script).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.node.path("usr/sbin/sendmail"), executable).unwrap();
    }

    /// The mails so far.
    fn mail(&self) -> String {
        fs::read_to_string(self.node.path("mail")).unwrap_or_default()
    }

    fn stillpoint(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
        command.args(arguments).env("STILLPOINT_ROOT", self.node.root());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    /// Settles the copy; returns the output and the record.
    fn settle(&self) -> (String, Value) {
        let said = self.stillpoint(&["settle", "9002"]);
        let records = self.node.journal().unwrap();
        let settled = records.into_iter().rfind(|record| record["kind"] == "settled");
        (said.clone(), settled.unwrap_or_else(|| panic!("{said}")))
    }

    fn problems(&self) -> String {
        let status: Value = serde_json::from_str(&self.stillpoint(&["status", "--json"])).unwrap();
        let guests = status["guests"].as_array().unwrap();
        let copy = guests.iter().find(|guest| guest["vmid"] == 9002).unwrap();
        copy["problems"].to_string()
    }
}

fn fate(record: &Value, name: &str) -> (String, String) {
    let containers = record["containers"].as_array().unwrap();
    let container = containers.iter().find(|container| container["name"] == name).unwrap();
    let text = |key: &str| container[key].as_str().unwrap_or_default().to_string();
    (text("fate"), text("error"))
}

const START: &str = "pct exec 9002 -- docker start pg";

#[test]
fn a_database_on_a_directory_of_the_original_is_held_back_and_named() {
    let pair = Pair::new(BIND, BIND);
    let check = pair.stillpoint(&["restore-check", "9002"]);
    for words in ["/tank/pg (/srv/pg in the guest), which guest 9001", "Not started: pg", START] {
        assert!(check.contains(words), "{words}: {check}");
    }
    let (said, record) = pair.settle();
    assert_eq!((pair.status("pg"), pair.status("web")), (Status::Exited, Status::Running));
    assert!(said.contains("/tank/pg/data") && said.contains(START), "{said}");
    let (fate_of, why) = fate(&record, "pg");
    assert_eq!(fate_of, "held-back");
    assert!(
        why.contains("/tank/pg/data (/srv/pg/data in the guest)") && why.contains(START),
        "{why}"
    );
    assert_eq!(fate(&record, "web").0, "back");
    let problems = pair.problems();
    assert!(problems.contains("pg was not started") && problems.contains(START), "{problems}");
    // A person starts it.
    pair.copy.engine.as_ref().unwrap().modify("pg", |pg| pg.status = Status::Running);
    assert!(!pair.problems().contains("was not started"), "{}", pair.problems());
}

#[test]
fn a_link_in_the_guest_hides_nothing() {
    for (link, target) in [("opt/pg", "/srv/pg"), ("opt/pg", "../srv/./pg"), ("opt", "srv")] {
        let pair = Pair::with(BIND, BIND, &[("/opt/pg/data", "/var/lib/postgresql/data")]);
        let link = pair.copy.dir().join("root").join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, link).unwrap();
        let (said, record) = pair.settle();
        assert_eq!(fate(&record, "pg").0, "held-back", "{target}: {said}");
        assert_eq!(pair.status("pg"), Status::Exited, "{target}");
        assert!(said.contains("/tank/pg/data"), "{target}: {said}");
    }
    let pair = Pair::with(BIND, BIND, &[("/opt/pg/data", "/var/lib/postgresql/data")]);
    pair.settle();
    assert_eq!(pair.status("pg"), Status::Running, "without the link it lies elsewhere");
}

#[test]
fn one_below_the_other_is_the_same_directory() {
    let pair =
        Pair::new("mp0: /tank,mp=/data\n", "lxc.mount.entry: /tank/pg srv/pg none bind 0 0\n");
    let (_, record) = pair.settle();
    assert_eq!(fate(&record, "pg").0, "held-back");
}

#[test]
fn the_same_storage_on_another_node_is_the_same_directory() {
    let pair = Pair::new("", "mp0: /mnt/pve/nas/pg,mp=/srv/pg\n");
    pair.node.add_storage("nfs", "nas", &[("server", "nas"), ("export", "/x")]).unwrap();
    let config = pair.node.guest(9001).unwrap().config().unwrap();
    let elsewhere = config.replacen("net0:", "mp0: /mnt/pve/nas,mp=/d\nnet0:", 1);
    pair.node.write("etc/pve/nodes/two/lxc/9001.conf", &elsewhere).unwrap();
    fs::remove_file(pair.node.path("etc/pve/nodes/sim/lxc/9001.conf")).unwrap();
    let (_, record) = pair.settle();
    let (fate_of, why) = fate(&record, "pg");
    assert_eq!(fate_of, "held-back", "{why}");
    assert!(why.contains("nas:/x/pg/data"), "{why}");
}

#[test]
fn what_is_only_read_is_started_and_named() {
    for (line, volume) in [
        ("mp0: /tank/pg,mp=/srv/pg,ro=1\n", "/var/lib/postgresql/data"),
        (BIND, "/var/lib/postgresql/data:ro"),
    ] {
        let pair = Pair::with(BIND, line, &[("/srv/pg/data", volume)]);
        pair.keep_mail();
        let check = pair.stillpoint(&["restore-check", "9002", "--json"]);
        let check: Value = serde_json::from_str(&check).unwrap();
        assert!(check["shared_notes"].to_string().contains("pg reads /tank/pg"), "{check}");
        let (said, record) = pair.settle();
        assert_eq!(pair.status("pg"), Status::Running, "{line}");
        let notes = record["notes"].to_string();
        assert!(notes.contains("pg reads /tank/pg/data"), "{notes}");
        // Everything is up, so there is no alarm.
        assert!(!said.contains("not everything"), "{said}");
        assert_eq!(pair.mail(), "");
    }
}

#[test]
fn what_may_be_shared_is_shared() {
    for place in ["/tank/pg", "/tank"] {
        let pair = Pair::new(BIND, BIND);
        pair.settings(&format!("[restore]\nshared = [\"{place}\"]\n"));
        let (_, record) = pair.settle();
        assert_eq!(fate(&record, "pg").0, "back", "{place}");
        assert!(!pair.stillpoint(&["restore-check", "9002"]).contains("Shared:"), "{place}");
    }
    let pair = Pair::new(BIND, BIND);
    pair.settings("[guest.9002]\nrestore.shared = [\"/tank/pg/other\"]\n");
    assert_eq!(fate(&pair.settle().1, "pg").0, "held-back");
}

#[test]
fn the_original_itself_is_started_whatever_copies_there_are() {
    let pair = Pair::new(BIND, BIND);
    // As if 9002 were the guest that was backed up, and went down in between.
    pair.note(9002);
    let (_, record) = pair.settle();
    assert_eq!(fate(&record, "pg").0, "back");
}

#[test]
fn a_restored_guest_whose_original_is_gone_is_the_original() {
    let pair = Pair::new(BIND, BIND);
    fs::remove_file(pair.node.path("etc/pve/nodes/sim/lxc/9001.conf")).unwrap();
    let (_, record) = pair.settle();
    assert_eq!(fate(&record, "pg").0, "back");
}

#[test]
fn data_on_a_server_that_the_original_mounts_too_is_shared() {
    let mounts = "1 0 7:0 / / rw - ext4 /dev/loop0 rw\n2 1 0:9 / /srv/pg rw - nfs4 nas:/pg rw\n";
    let pair = Pair::new("", "");
    pair.node.write("guests/9002/root/proc/1/mountinfo", mounts).unwrap();
    let (_, record) = pair.settle();
    let (fate_of, why) = fate(&record, "pg");
    assert_eq!(fate_of, "held-back");
    assert!(why.contains("nas:/pg/data (/srv/pg/data in the guest)"), "{why}");
}

#[test]
fn a_volume_that_is_mounted_only_while_it_is_used_is_looked_through() {
    for (options, place) in [
        (json!({"type": "nfs", "o": "addr=192.0.2.10,rw", "device": ":/pg"}), "192.0.2.10:/pg"),
        (json!({"type": "none", "o": "bind", "device": "/srv/pg"}), "/tank/pg"),
        (json!({"type": "ext4", "o": "loop", "device": "/srv/pg/db.img"}), "/tank/pg/db.img"),
    ] {
        let pair = Pair::with(BIND, BIND, &[("pgdata", "/var/lib/postgresql/data")]);
        let options = serde_json::from_value(options).unwrap();
        let engine = pair.copy.engine.as_ref().unwrap();
        engine.configure(|config| {
            config.volume_options.insert("pgdata".to_string(), options);
        });
        let (_, record) = pair.settle();
        let (fate_of, why) = fate(&record, "pg");
        assert_eq!(fate_of, "held-back", "{place}");
        assert!(why.contains(place), "{why}");
    }
}

#[test]
fn what_is_mounted_so_that_nobody_can_write_is_started_and_named() {
    let mounts =
        "1 0 7:0 / / rw - ext4 /dev/loop0 rw\n2 1 0:9 / /srv/pg ro,relatime - nfs4 nas:/pg ro\n";
    let of_guest = Pair::new("", "");
    of_guest.node.write("guests/9002/root/proc/1/mountinfo", mounts).unwrap();
    let of_volume = Pair::with("", "", &[("pgdata", "/var/lib/postgresql/data")]);
    let options = json!({"type": "nfs", "o": "addr=nas,ro", "device": ":/pg"});
    of_volume.copy.engine.as_ref().unwrap().configure(|config| {
        config
            .volume_options
            .insert("pgdata".to_string(), serde_json::from_value(options).unwrap());
    });
    for pair in [of_guest, of_volume] {
        let (_, record) = pair.settle();
        assert_eq!(pair.status("pg"), Status::Running, "{record:#}");
        assert!(record["notes"].to_string().contains("pg reads nas:/pg"), "{record:#}");
    }
}

#[test]
fn one_server_by_its_name_and_by_its_address_is_one() {
    let pair = Pair::new("", "mp0: /mnt/pve/nas/pg,mp=/srv/pg\n");
    pair.node
        .add_storage("nfs", "nas", &[("server", "nas.example.org"), ("export", "/x")])
        .unwrap();
    pair.node
        .add_storage("nfs", "again", &[("server", "192.0.2.10"), ("export", "/x/pg/")])
        .unwrap();
    let mounts =
        "1 0 0:9 / /mnt/pve/nas rw - nfs4 nas.example.org:/x rw,vers=4.2,addr=192.0.2.10\n";
    pair.node.write("proc/self/mountinfo", mounts).unwrap();
    let guest = pair.node.guest(9001).unwrap();
    let config = guest.config().unwrap();
    guest.set_config(&config.replacen("net0:", "mp0: /mnt/pve/again,mp=/d\nnet0:", 1)).unwrap();
    assert_eq!(fate(&pair.settle().1, "pg").0, "held-back");
}

#[test]
fn what_its_engine_started_by_itself_is_named() {
    let pair = Pair::new(BIND, BIND);
    pair.keep_mail();
    pair.copy.engine.as_ref().unwrap().modify("pg", |pg| pg.status = Status::Running);
    let (said, record) = pair.settle();
    assert!(record["notes"].to_string().contains("pg runs already, and it writes to /tank/pg"));
    assert!(said.contains("pg runs already"), "{said}");
    assert!(pair.mail().contains("pg runs already"), "{}", pair.mail());
}

#[test]
fn the_start_of_a_copy_says_what_it_shares() {
    let pair = Pair::new(BIND, BIND);
    let log = "var/log/pve/tasks/0/UPID:sim:00000001:00000002:00000010:vzrestore:9002:root@pam:";
    let archive = "recovering backed-up configuration from 'local:backup/vzdump-lxc-9001-x.tar'\n";
    pair.node.write(log, archive).unwrap();
    let upid = Path::new(log).file_name().unwrap().to_str().unwrap();
    pair.node.write("var/log/pve/tasks/index", &format!("{upid} 00000020 OK\n")).unwrap();
    let mut hook = Command::new(env!("CARGO_BIN_EXE_guest-hook"));
    hook.args(["9002", "pre-start"]).env("STILLPOINT_ROOT", pair.node.root());
    let said = String::from_utf8(hook.output().unwrap().stdout).unwrap();
    assert!(said.contains("/tank/pg (/srv/pg in the guest), which guest 9001"), "{said}");
}

#[test]
fn data_that_was_not_in_the_backup_is_missed() {
    let pair = Pair::new("", "");
    pair.note(9001);
    let path = pair.copy.dir().join("root/var/lib/stillpoint/quiesced.json");
    let mut note: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    note["containers"][0]["not_in_backup"] = json!(["/srv/pg/data"]);
    let name = note["containers"][0]["name"].as_str().unwrap().to_string();
    pair.write_note(&note);
    let (said, record) = pair.settle();
    let words = format!("data of {name} was not in the backup");
    for text in [said, record["lost"].to_string(), pair.problems()] {
        assert!(text.contains(&words), "{text}");
    }
}

#[test]
fn an_engine_without_any_container_is_missed() {
    let pair = Pair::new("", "");
    let path = pair.copy.dir().join("root/var/lib/stillpoint/quiesced.json");
    let mut note: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for container in note["containers"].as_array_mut().unwrap() {
        container["not_in_backup"] = json!(["/var/lib/docker"]);
    }
    pair.write_note(&note);
    for name in ["pg", "web"] {
        assert!(pair.copy.engine.as_ref().unwrap().remove(name).is_some());
    }
    let (_, record) = pair.settle();
    let words = "the engine has no container, and 2 containers ran when it was backed up: \
                 /var/lib/docker was not in the backup";
    for text in [record["lost"].to_string(), pair.problems()] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_fixed_address_on_the_lan_is_left_to_the_original() {
    let pair = Pair::new("", "");
    pair.copy.engine.as_ref().unwrap().configure(|config| {
        config.macvlans = vec!["lan".to_string()];
        config.fixed = vec![
            ("pg".into(), "lan".into(), "192.0.2.50".into()),
            ("web".into(), "inner".into(), "172.30.0.9".into()),
        ];
    });
    let (_, record) = pair.settle();
    let (fate_of, why) = fate(&record, "pg");
    assert_eq!(fate_of, "held-back");
    assert!(why.contains("192.0.2.50 on lan, as in guest 9001") && why.contains(START), "{why}");
    assert_eq!(fate(&record, "web").0, "back", "an address behind the guest's own harms nobody");
}
