//! After a guest's start: a restored copy gets its own machine-id and keys, and what ran when it
//! was backed up runs again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stillpoint::config::Strategy;
use stillpoint::run::{By, Quiesce, QuiescedContainer, Run, Runs, Step};
use stillpoint::sys::Root;
use stillpoint::sys::process::Process;
use stillpoint::vzdump::{GuestType, Job, Mode, Vmid};
use stillpoint_sim::engine::What;
use stillpoint_sim::engine::container::{Spec, Status};
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::{Guest, GuestSpec, Node};

const VMID: u32 = 9002;
const OLD_ID: &str = "0000000000000000000000000000232a";

/// Replaces lxc-attach: records the command, and knows the units named in a file.
const LXC_ATTACH: &str = r#"#!/bin/sh
root=${0%/usr/bin/lxc-attach}
while [ "$1" != -- ]; do shift; done
shift
echo "$*" >>"$root/attached"
[ -e "$root/hangs" ] && exec sleep 3600
case $* in
*try-restart*) for unit in "$@"; do :; done; grep -qx "$unit" "$root/units" ;;
*status) exit "$(cat "$root/state")" ;;
esac
"#;

/// Replaces ssh-keygen: each key is different.
const SSH_KEYGEN: &str = r#"#!/bin/sh
root=${0%/usr/bin/ssh-keygen}
while [ $# -gt 0 ]; do
    case $1 in
    -t) type=$2 ;;
    -f) file=$2 ;;
    esac
    shift
done
[ -e "$root/no-$type" ] && exit 1
cat /proc/sys/kernel/random/uuid >"$file" && echo "public $(cat "$file")" >"$file.pub"
"#;

struct World {
    node: Node,
    guest: Arc<Guest>,
}

impl World {
    fn new(adjust: impl FnOnce(&mut GuestSpec)) -> World {
        let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_stillpoint"))).unwrap();
        let mut node = Node::new(None, &binaries).unwrap();
        let mut spec = GuestSpec::lxc(VMID);
        adjust(&mut spec);
        let guest = node.add_guest(spec).unwrap();
        let world = World { node, guest };
        for (name, text) in [("lxc-attach", LXC_ATTACH), ("ssh-keygen", SSH_KEYGEN)] {
            world.program(&format!("usr/bin/{name}"), text);
        }
        world.node.write("units", "ssh.service\nsystemd-networkd.service\n").unwrap();
        fs::create_dir_all(world.inside("run/systemd/system")).unwrap();
        for name in ["rsa", "ecdsa", "ed25519"] {
            world.give(&format!("etc/ssh/ssh_host_{name}_key"), "the original's");
            world.give(&format!("etc/ssh/ssh_host_{name}_key.pub"), "the original's");
        }
        world
    }

    fn program(&self, path: &str, text: &str) {
        self.node.write(path, text).unwrap();
        fs::set_permissions(self.node.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.guest.dir().join("root").join(path)
    }

    fn give(&self, path: &str, text: &str) {
        let path = self.inside(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.inside(path)).unwrap()
    }

    fn keys(&self) -> BTreeMap<String, String> {
        let names = fs::read_dir(self.inside("etc/ssh")).unwrap();
        let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
        names.map(|name| (name.clone(), self.read(&format!("etc/ssh/{name}")))).collect()
    }

    /// The record that pre-start leaves for a copy.
    fn is_a_copy(&self) {
        self.is_a_copy_with("BC:24:11:00:23:2A");
    }

    fn is_a_copy_with(&self, mac: &str) {
        let copy = json!({
            "schema": 1, "vmid": VMID, "original": 9001, "time": "2026-11-21T23:22:56.000Z",
            "machine_id": true, "ssh_host_keys": true, "nets": ["eth0"], "macs": [mac],
        });
        self.node.write(&self.record(), &copy.to_string()).unwrap();
    }

    /// The record that pre-start leaves for a guest that may share guest 9001's machine-id or keys.
    fn may_be_a_copy(&self) {
        self.is_a_copy();
        let path = self.node.path(self.record());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("\"schema\":1", "\"schema\":1,\"if_shared\":true")).unwrap();
    }

    fn record(&self) -> String {
        format!("var/lib/stillpoint/copies/{VMID}.json")
    }

    fn settling(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
        command.args(["settle", &VMID.to_string()]).env("STILLPOINT_ROOT", self.node.root());
        command
    }

    fn settle(&self) -> Output {
        self.settling().output().unwrap()
    }

    fn journal(&self, kind: &str) -> Vec<Value> {
        let records = self.node.journal().unwrap();
        records.into_iter().filter(|record| record["kind"] == kind).collect()
    }

    fn attached(&self) -> String {
        fs::read_to_string(self.node.path("attached")).unwrap_or_default()
    }

    /// The note of a backup by stop: everything that runs, and the containers in the state that the
    /// engine then finds.
    fn was_backed_up(&self) {
        let engine = self.guest.engine.as_ref().unwrap();
        let running: Vec<_> =
            engine.containers().into_iter().filter(|c| c.status == Status::Running).collect();
        let at = |service: &str| running.iter().position(|c| c.service() == Some(service));
        let containers: Vec<Value> = running
            .iter()
            .map(|container| {
                let after = match container.service() {
                    Some("db" | "cache") => at("web").into_iter().collect(),
                    _ => Vec::new(),
                };
                json!({
                    "id": container.id, "name": container.spec.name, "project": "shop",
                    "service": container.service(), "action": "stop", "after": after,
                    "started_at": container.started_at.unwrap()
                        .to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
                })
            })
            .collect();
        let note = json!({
            "schema": 1, "run": "1-2-3", "vmid": 9001, "time": "2026-11-21T23:22:56.000Z",
            "containers": containers,
        });
        self.give("var/lib/stillpoint/quiesced.json", &note.to_string());
        for container in &running {
            engine.modify(&container.spec.name, |container| {
                container.status = Status::Exited;
                container.stopped_by_hand = true;
            });
        }
    }

    fn has_note(&self) -> bool {
        self.inside("var/lib/stillpoint/quiesced.json").exists()
    }

    /// The run of a job that a power cut ended while this container was stopped.
    fn has_left(&self, name: &str) {
        let engine = self.guest.engine.as_ref().unwrap();
        assert!(engine.modify(name, |container| {
            container.status = Status::Exited;
            container.stopped_by_hand = true;
        }));
        let containers = engine.containers();
        let container = containers.iter().find(|c| c.spec.name == name).unwrap();
        let step = Step::from(QuiescedContainer {
            id: container.id.clone(),
            engine: String::new(),
            name: name.to_string(),
            project: None,
            service: None,
            action: Strategy::Stop,
            started_at: container
                .started_at
                .unwrap()
                .to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
            after: Vec::new(),
            not_in_backup: Vec::new(),
        });
        let mut worker = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
        worker.boot = "another".to_string();
        let job = Job { upid: None, worker, session: 0 };
        let mut run = Run::new(Vmid(VMID), GuestType::Lxc, job, Mode::Snapshot);
        run.quiesce = Some(Quiesce::new(By::Stillpoint, vec![step]));
        Runs::of(&Root::at(self.node.root())).save(&run).unwrap();
    }

    /// What a boot does; returns the resulting mail.
    fn recover(&self) -> String {
        self.node.recover().unwrap();
        fs::read_to_string(self.node.path("mail")).unwrap_or_default()
    }

    fn status(&self, name: &str) -> Status {
        let containers = self.guest.engine.as_ref().unwrap().containers();
        containers.into_iter().find(|container| container.spec.name == name).unwrap().status
    }

    fn count(&self, name: &str, what: What) -> usize {
        self.guest.engine.as_ref().unwrap().count(name, what)
    }
}

#[test]
fn a_copy_gets_a_machine_id_and_host_keys_of_its_own() {
    let world = World::new(|_| {});
    world.give("var/lib/dbus/machine-id", OLD_ID);
    world.is_a_copy();
    let before = world.keys();
    let output = world.settle();
    assert!(output.status.success(), "{output:?}");
    let id = world.read("etc/machine-id");
    assert_ne!(id.trim(), OLD_ID);
    assert!(id.len() == 33 && id.trim().bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(world.read("var/lib/dbus/machine-id"), id);
    let keys = world.keys();
    assert_eq!(keys.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (name, key) in &keys {
        assert_ne!(key, "the original's", "{name}");
        let mode = fs::metadata(world.inside("etc/ssh").join(name)).unwrap().permissions().mode();
        let wanted = if name.ends_with(".pub") { 0o644 } else { 0o600 };
        assert_eq!(mode & 0o777, wanted, "{name}");
        let public = name.strip_suffix(".pub").map(|private| format!("public {}", keys[private]));
        assert!(public.is_none_or(|public| &public == key), "{name} is not of its private half");
    }
    let attached = world.attached();
    assert!(attached.contains("try-restart ssh.service"), "{attached}");
    assert!(attached.contains("try-restart systemd-networkd.service"), "{attached}");
    assert!(!world.node.path(world.record()).exists(), "there is nothing left to do");
    assert!(!world.node.path(format!("run/stillpoint/keys-{VMID}")).exists(), "keys are left");
    let [renewed] = world.journal("renewed").try_into().unwrap();
    assert_eq!(renewed["done"], json!(["machine-id", "ssh-host-keys"]));
    assert_eq!((&renewed["failed"], &renewed["original"]), (&json!([]), &json!(9001)));

    world.settle();
    assert_eq!((world.read("etc/machine-id"), world.keys()), (id, keys), "a second start");
}

#[test]
fn a_guest_that_is_no_copy_is_left_as_it_is() {
    let world = World::new(|_| {});
    let (id, keys) = (world.read("etc/machine-id"), world.keys());
    assert!(world.settle().status.success());
    // The record was left for a guest that another guest has replaced under its VMID.
    world.is_a_copy_with("BC:24:11:00:00:01");
    assert!(world.settle().status.success());
    assert_eq!((world.read("etc/machine-id"), world.keys()), (id, keys));
    assert!(!world.node.path(world.record()).exists());
    assert_eq!(world.attached(), "");
    assert!(world.journal("renewed").is_empty());
}

#[test]
fn only_what_is_shared_with_the_original_is_made_new_where_nothing_else_tells_a_copy() {
    let mut world = World::new(|_| {});
    let original = world.node.add_guest(GuestSpec::lxc(9001)).unwrap();
    let id = original.dir().join("root/etc/machine-id");
    fs::write(&id, "0123456789abcdef0123456789abcdef\n").unwrap();
    let (own, keys) = (world.read("etc/machine-id"), world.keys());

    original.set_marker("running", false).unwrap();
    world.may_be_a_copy();
    assert!(world.settle().status.success());
    assert!(world.node.path(world.record()).exists(), "it can't be told yet");
    original.set_marker("running", true).unwrap();
    assert!(world.settle().status.success());
    assert!(!world.node.path(world.record()).exists(), "it shares nothing");
    assert_eq!((world.read("etc/machine-id"), world.keys()), (own.clone(), keys));

    // A value that is no id may be the same in many guests.
    for (text, renewed) in [("uninitialized\n", false), (own.as_str(), true)] {
        fs::write(&id, text).unwrap();
        world.give("etc/machine-id", text);
        world.may_be_a_copy();
        assert!(world.settle().status.success());
        assert_eq!(world.read("etc/machine-id") != text, renewed, "{text}");
        assert_eq!(world.keys().values().all(|key| key != "the original's"), renewed, "{text}");
        assert!(!world.node.path(world.record()).exists());
    }
    assert_eq!(fs::read_to_string(&id).unwrap(), own, "the original keeps its own");

    // There are no copies of a guest that no longer exists.
    world.may_be_a_copy();
    fs::remove_file(world.node.path("etc/pve/nodes/sim/lxc/9001.conf")).unwrap();
    let own = world.read("etc/machine-id");
    assert!(world.settle().status.success());
    assert_eq!(world.read("etc/machine-id"), own);
    assert!(!world.node.path(world.record()).exists());
}

#[test]
fn what_fails_at_each_start_is_told_once() {
    let world = World::new(|_| {});
    world.program("usr/sbin/sendmail", "#!/bin/sh\ncat >>\"${0%/usr/sbin/sendmail}/mail\"\n");
    fs::rename(world.inside("etc/machine-id"), world.inside("etc/id")).unwrap();
    symlink("id", world.inside("etc/machine-id")).unwrap();
    world.is_a_copy();
    for _ in 0..3 {
        assert!(world.settle().status.success());
    }
    assert_eq!(world.read("etc/id"), format!("{OLD_ID}\n"));
    let mail = fs::read_to_string(world.node.path("mail")).unwrap();
    assert_eq!(mail.matches("Subject:").count(), 1, "{mail}");
    assert!(mail.contains("/etc/machine-id in the guest is a symlink"), "{mail}");
    let [renewed] = world.journal("renewed").try_into().unwrap();
    assert_eq!(renewed["done"], json!(["ssh-host-keys"]));
    // A different failure is reported again, and so is success.
    fs::remove_file(world.inside("etc/machine-id")).unwrap();
    fs::create_dir(world.inside("etc/machine-id")).unwrap();
    world.settle();
    world.settle();
    assert_eq!(world.journal("renewed").len(), 2);
    fs::remove_dir(world.inside("etc/machine-id")).unwrap();
    world.give("etc/machine-id", OLD_ID);
    world.settle();
    assert_ne!(world.read("etc/machine-id"), OLD_ID);
    assert_eq!(world.journal("renewed").len(), 3);
    assert!(!world.node.path(world.record()).exists());
}

#[test]
fn without_new_keys_the_old_ones_stay_and_the_next_start_tries_again() {
    let world = World::new(|_| {});
    world.is_a_copy();
    world.node.write("no-rsa", "").unwrap();
    world.program("usr/sbin/sendmail", "#!/bin/sh\ncat >\"${0%/usr/sbin/sendmail}/mail\"\n");
    let before = world.keys();
    assert!(world.settle().status.success(), "it keeps nothing else from being done");
    assert_eq!(world.keys(), before);
    let id = world.read("etc/machine-id");
    assert_ne!(id, OLD_ID);
    let [renewed] = world.journal("renewed").try_into().unwrap();
    assert_eq!(renewed["done"], json!(["machine-id"]));
    assert!(renewed["failed"][0].as_str().unwrap().contains("rsa key"), "{renewed}");
    let mail = fs::read_to_string(world.node.path("mail")).unwrap();
    assert!(mail.contains("ssh-host-keys"), "{mail}");

    fs::remove_file(world.node.path("no-rsa")).unwrap();
    world.settle();
    assert!(world.keys().values().all(|key| key != "the original's"));
    assert_eq!(world.read("etc/machine-id"), id, "that was done");
    assert!(!world.node.path(world.record()).exists());
}

#[test]
fn killed_at_any_step_it_is_done_at_the_next_start() {
    for point in ["machine-id", "host-key", "host-key#3", "host-keys"] {
        let world = World::new(|_| {});
        world.is_a_copy();
        let killed =
            world.settling().env("STILLPOINT_FAILPOINT", format!("{point}=kill")).output().unwrap();
        assert_eq!(killed.status.code(), None, "{point}: it was not killed");
        for (name, key) in world.keys() {
            assert!(!key.is_empty(), "{point}: {name} is torn");
        }
        assert!(world.settle().status.success());
        assert!(world.keys().values().all(|key| key != "the original's"), "{point}");
        assert!(!world.read("etc/machine-id").contains(OLD_ID), "{point}");
        assert!(!world.node.path(world.record()).exists(), "{point}");
    }
}

#[test]
fn an_alpine_guest_without_a_machine_id_gets_none() {
    let world = World::new(|_| {});
    world.is_a_copy();
    fs::remove_file(world.inside("etc/machine-id")).unwrap();
    fs::remove_dir_all(world.inside("run/systemd")).unwrap();
    fs::create_dir_all(world.inside("run/openrc")).unwrap();
    world.node.write("state", "0").unwrap();
    assert!(world.settle().status.success());
    assert!(!world.inside("etc/machine-id").exists());
    assert!(world.keys().values().all(|key| key != "the original's"));
    let attached = world.attached();
    assert_eq!(attached, "rc-service sshd status\nrc-service --ifstarted sshd restart\n");
    assert_eq!(world.journal("renewed")[0]["done"], json!(["ssh-host-keys"]));
}

#[test]
fn a_hostile_root_changes_nothing_outside_itself() {
    let world = World::new(|_| {});
    let outside = world.node.path("outside");
    fs::create_dir_all(&outside).unwrap();
    for name in ["ssh_host_rsa_key", "machine-id"] {
        fs::write(outside.join(name), "the node's").unwrap();
    }
    // The targets of links out of the guest, if they were followed on the node.
    fs::remove_dir_all(world.inside("etc/ssh")).unwrap();
    symlink(&outside, world.inside("etc/ssh")).unwrap();
    fs::remove_file(world.inside("etc/machine-id")).unwrap();
    symlink("../../../../outside/machine-id", world.inside("etc/machine-id")).unwrap();
    fs::create_dir_all(world.inside("var/lib/dbus")).unwrap();
    let fifo = Command::new("mkfifo").arg(world.inside("var/lib/dbus/machine-id")).status();
    assert!(fifo.unwrap().success());
    // A sparse file of 1 GiB.
    world.give("var/lib/stillpoint/quiesced.json", "{");
    let note =
        fs::File::options().write(true).open(world.inside("var/lib/stillpoint/quiesced.json"));
    note.unwrap().set_len(1 << 30).unwrap();
    world.is_a_copy();
    let output = world.settle();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("quiesced.json") && said.contains("larger than"), "{said}");
    let mut found: Vec<_> =
        fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    found.sort();
    assert_eq!(found, ["machine-id", "ssh_host_rsa_key"]);
    for name in found {
        assert_eq!(fs::read_to_string(outside.join(name)).unwrap(), "the node's");
    }
    assert!(world.has_note(), "it is the guest's");
}

#[test]
fn a_guest_that_never_answers_holds_up_nothing() {
    let world = World::new(|_| {});
    world.was_backed_up();
    world.is_a_copy();
    world.node.write("hangs", "").unwrap();
    assert!(world.settle().status.success());
    assert!(world.keys().values().all(|key| key != "the original's"));
    assert_eq!(world.status("web"), Status::Running);
    let [renewed] = world.journal("renewed").try_into().unwrap();
    assert!(renewed["failed"][0].as_str().unwrap().contains("did not end"), "{renewed}");
}

#[test]
fn what_ran_comes_up_in_order_and_nothing_else() {
    let ready = Duration::from_millis(700);
    let world = World::new(|spec| {
        spec.containers[0].healthy_after = Some(ready);
        spec.containers.push(Spec::service("shop", "spare").status(Status::Exited));
    });
    world.was_backed_up();
    assert!(world.settle().status.success());
    for (name, status) in [
        ("db", Status::Running),
        ("cache", Status::Running),
        ("web", Status::Running),
        ("spare", Status::Exited),
        ("old-migration", Status::Exited),
    ] {
        assert_eq!(world.status(name), status, "{name}");
    }
    assert!(!world.has_note());
    let events = world.guest.engine.as_ref().unwrap().events();
    let when = |name: &str, what: What| {
        events.iter().find(|event| event.name == name && event.what == what).unwrap().at
    };
    let waited = when("web", What::StartAsked) - when("db", What::Started);
    // The engine's own clock is a different one.
    assert!(waited >= ready - Duration::from_millis(50), "web was started after {waited:?}");
    let [settled] = world.journal("settled").try_into().unwrap();
    assert!(settled["took_ms"].as_u64().unwrap() >= 650, "{settled}");
    assert!(settled["engine_ms"].is_u64() && settled["left"].is_null(), "{settled}");
    assert_eq!(settled["containers"].as_array().unwrap().len(), 3);
    world.settle();
    assert_eq!(world.count("db", What::StartAsked), 1, "a second start of the guest");
}

#[test]
fn two_calls_for_one_start_act_once() {
    let world = World::new(|spec| {
        spec.containers[0].healthy_after = Some(Duration::from_millis(400));
    });
    world.was_backed_up();
    world.is_a_copy();
    let callers: Vec<_> = (0..3).map(|_| world.settling().spawn().unwrap()).collect();
    for mut caller in callers {
        assert!(caller.wait().unwrap().success());
    }
    for name in ["db", "cache", "web"] {
        assert_eq!(world.count(name, What::StartAsked), 1, "{name}");
    }
    assert_eq!(world.journal("settled").len(), 1);
    assert_eq!(world.journal("renewed").len(), 1);
}

#[test]
fn what_does_not_come_up_is_told() {
    let world = World::new(|spec| spec.containers[1].failing_starts = 1000);
    world.was_backed_up();
    world.program("usr/sbin/sendmail", "#!/bin/sh\ncat >\"${0%/usr/sbin/sendmail}/mail\"\n");
    let output = world.settle();
    assert!(!output.status.success());
    assert_eq!(world.status("db"), Status::Running);
    let [settled] = world.journal("settled").try_into().unwrap();
    assert!(settled["left"].as_str().unwrap().contains("cache"), "{settled}");
    let mail = fs::read_to_string(world.node.path("mail")).unwrap();
    assert!(mail.contains("cache") && mail.contains(&VMID.to_string()), "{mail}");
    assert!(world.has_note(), "the next start tries again");
}

#[test]
fn a_guest_that_is_stopped_meanwhile_goes_on_at_its_next_start() {
    // It keeps starting until the guest goes down.
    let world = World::new(|spec| spec.containers[1].start_takes = Duration::from_secs(3600));
    world.was_backed_up();
    world.program("usr/sbin/sendmail", "#!/bin/sh\ncat >\"${0%/usr/sbin/sendmail}/mail\"\n");
    let settling = world.settling().spawn().unwrap();
    while world.count("cache", What::StartAsked) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    world.guest.set_marker("running", false).unwrap();
    assert!(!settling.wait_with_output().unwrap().status.success());
    assert!(!world.node.path("mail").exists() && world.journal("settled").is_empty());
    assert!(world.has_note());
    let engine = world.guest.engine.as_ref().unwrap();
    assert!(engine.modify("cache", |cache| cache.spec.start_takes = Duration::ZERO));
    world.guest.set_marker("running", true).unwrap();
    assert!(world.settle().status.success());
    assert_eq!(world.status("cache"), Status::Running);
    assert!(!world.has_note());
}

/// What was started at boot is mailed; if there was nothing to start, no mail is sent.
#[test]
fn a_boot_that_brings_something_back_is_mailed() {
    let world = World::new(|_| {});
    world.program("usr/sbin/sendmail", "#!/bin/sh\ncat >\"${0%/usr/sbin/sendmail}/mail\"\n");
    assert_eq!(world.recover(), "");
    world.has_left("db");
    let mail = world.recover();
    assert_eq!(world.status("db"), Status::Running);
    assert_eq!(
        mail,
        format!(
            "To: root\nSubject: Stillpoint: backups were interrupted\n\nguest {VMID}: started 1 \
             container of an interrupted backup\n\nHow the guests stand: stillpoint status\n"
        )
    );
}

/// Needs its own namespaces: otherwise `/dev/log` is the machine's.
#[test]
fn the_system_log_has_it_with_its_level_and_the_guest() {
    const ALONE: [&str; 3] = ["--user", "--map-root-user", "--mount"];
    let may = Command::new("unshare").args(ALONE).arg("true").output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no namespaces");
        return;
    }
    let world = World::new(|spec| spec.containers[1].failing_starts = 1000);
    world.was_backed_up();
    let dev = world.node.path("dev");
    fs::create_dir(&dev).unwrap();
    let log = UnixDatagram::bind(dev.join("log")).unwrap();
    log.set_nonblocking(true).unwrap();
    let script = "for name in null urandom; do touch \"$1/$name\" && mount --bind /dev/$name \"$1/$name\"; done \
                  && mount --rbind \"$1\" /dev && shift && exec \"$@\"";
    let output = Command::new("unshare")
        .args(ALONE)
        .args(["sh", "-c", script, "sh"])
        .arg(&dev)
        .arg(env!("CARGO_BIN_EXE_stillpoint"))
        .args(["settle", &VMID.to_string()])
        .env("STILLPOINT_ROOT", world.node.root())
        .output()
        .unwrap();
    let mut line = [0; 4096];
    let length = log.recv(&mut line).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let line = String::from_utf8_lossy(&line[..length]);
    // daemon.warning
    assert!(line.starts_with("<28>") && line.contains(" stillpoint["), "{line}");
    assert!(line.contains(&format!("]: guest {VMID}: ")) && line.contains("cache"), "{line}");
}

#[test]
fn a_guest_without_anything_to_bring_up_is_not_waited_for() {
    let world = World::new(|spec| spec.engine.boot_takes = Duration::from_secs(36_000));
    let began = Instant::now();
    let output = world.settle();
    assert!(output.status.success(), "{output:?}");
    // Settling waits for an engine for five minutes.
    assert!(began.elapsed() < Duration::from_secs(250));
    assert!(world.journal("settled").is_empty());
}

#[test]
fn a_guest_that_is_not_up_yet_when_the_hook_is_called_is_waited_for() {
    let world = World::new(|_| {});
    world.was_backed_up();
    world.guest.set_marker("running", false).unwrap();
    let soon = |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(100);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    soon("the guest did not go down", &|| !world.guest.engine.as_ref().unwrap().is_up());
    let hook = Path::new(env!("CARGO_BIN_EXE_guest-hook"));
    let mut hook = Command::new(hook);
    hook.args([&VMID.to_string(), "post-start"]).env("STILLPOINT_ROOT", world.node.root());
    assert!(hook.status().unwrap().success());
    // By then it has seen that the guest is down.
    soon("nobody settles", &|| !world.node.processes().unwrap().is_empty());
    std::thread::sleep(Duration::from_millis(500));
    world.guest.set_marker("running", true).unwrap();
    soon("the stack is not up", &|| {
        ["db", "cache", "web"].into_iter().all(|name| world.status(name) == Status::Running)
    });
}

#[test]
fn a_guest_whose_init_is_not_yet_in_its_root_is_waited_for() {
    let world = World::new(|_| {});
    let vmid = (VMID + 1).to_string();
    world.node.write(&format!("guests/{vmid}/running"), "").unwrap();
    let mut started = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
    started.args(["started", &vmid]).env("STILLPOINT_ROOT", world.node.root());
    let mut started = started.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(started.try_wait().unwrap().is_none(), "it has given up");
    fs::create_dir_all(world.node.path(format!("guests/{vmid}/root"))).unwrap();
    assert!(started.wait().unwrap().success());
}
