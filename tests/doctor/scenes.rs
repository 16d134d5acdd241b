//! Possible problems of a node, and the expected messages of doctor.

use std::fs;

use stillpoint::run::{By, Quiesce, QuiescedContainer, Run, Runs, Step};
use stillpoint::sys::Root;
use stillpoint::sys::process::Process;
use stillpoint::vzdump::{GuestType, Job, Mode, Vmid};
use stillpoint_sim::engine::Hostile;
use stillpoint_sim::engine::container::{Restart, Spec, Status};
use stillpoint_sim::node::{GuestSpec, Node, config};

use super::bench::executable;

/// A change to a sound node, and the expected message: the check's name and the message.
pub struct Scene {
    pub arrange: fn(&mut Node),
    pub arguments: &'static [&'static str],
    pub told: &'static [(&'static str, &'static str)],
}

macro_rules! scenes {
    ($($arrange:expr $(, $arguments:expr)? => $($about:literal $name:ident),+;)*) => {
        &[$(Scene {
            arrange: $arrange,
            arguments: scenes!(@arguments $($arguments)?),
            told: &[$(($about, stringify!($name))),+],
        }),*]
    };
    (@arguments) => { &[] };
    (@arguments $arguments:expr) => { $arguments };
}

#[rustfmt::skip]
pub const SCENES: &[Scene] = scenes! {
    |_| {} =>
        "node.version" PVE, "node.programs" PROGRAMS, "node.systemd" SYSTEMD, "node.recover" RECOVER,
        "node.refresh" REFRESH, "node.mail" MAIL, "settings" SETTINGS, "node.clock" CLOCK, "node.space" SPACE,
        "vzdump.script" SCRIPT, "jobs" JOBS, "cluster.nodes" NODES, "guests.leftovers" LEFT_NOTHING,
        "state.runs" NO_RUNS, "state.verifies" VERIFIES, "state.journal" JOURNAL,
        "guest.9001.engine" ENGINE, "guests.start" LOOKED_AFTER;

    // The node.
    |node| node.write("usr/bin/pveversion", "#!/bin/sh\necho pve-manager/10.0.1/x\n").unwrap() =>
        "node.version" PVE_UNTRIED;
    |node| node.write("usr/bin/pveversion", "#!/bin/sh\nexit 1\n").unwrap() => "node.version" NO_PVE;
    |node| node.write("usr/bin/pveversion", "#!/bin/sh\necho odd\n").unwrap() => "node.version" NO_PVE;
    |node| remove(node, "usr/libexec/stillpoint/guest-hook") => "node.programs" NO_PROGRAM;
    |node| remove(node, "usr/bin/systemd-run") => "node.systemd" NO_SYSTEMD;
    |node| fs::remove_dir(node.path("run/systemd/system")).unwrap() => "node.systemd" NO_SYSTEMD;
    |node| remove(node, "etc/systemd/system/multi-user.target.wants/stillpoint-recover.service") =>
        "node.recover" NO_RECOVER;
    |node| remove(node, "etc/systemd/system/timers.target.wants/stillpoint-refresh.timer") =>
        "node.refresh" NO_REFRESH;
    |node| remove(node, "usr/sbin/sendmail") => "node.mail" NO_MAIL;
    |node| node.write("etc/stillpoint/config.toml", "[quiesce]\nhold-limit = 5\n").unwrap() =>
        "settings" SETTINGS_BROKEN;
    |node| metrics(node, "/metrics") => "node.metrics" METRICS;
    |node| metrics(node, "/etc/vzdump.conf") => "node.metrics" NO_METRICS;
    |node| conf(node, "tmpdir: /nowhere/at/all\n") => "node.tmpdir" NO_TMPDIR;
    |node| conf(node, "tmpdir: /tmp\n") => "node.tmpdir" SPACE;

    // The script that vzdump calls.
    |node| node.write("etc/vzdump.conf", "#script: /a\n").unwrap() => "vzdump.script" NO_SCRIPT;
    |node| remove(node, "etc/vzdump.conf") => "vzdump.script" NO_SCRIPT;
    |node| conf(node, "script: /usr/local/bin/mine\n") => "vzdump.script" OTHER_SCRIPT;
    |node| directory(node, "etc/vzdump.conf") => "vzdump.script" NO_VZDUMP_CONF;
    |node| jobs(node, "vzdump: a\n\tscript /usr/local/bin/mine\n") => "job.a.script" JOB_SCRIPT;
    |node| jobs(node, "vzdump: a\n\tall 1\n\n\tscript /x\n") => "job.a.lines" JOB_CUT;
    |node| jobs(node, "vzdump: a\nall 1\n") => "jobs" JOB_LINE;
    |node| directory(node, "etc/pve/jobs.cfg") => "jobs" NO_JOBS_CFG;

    // The cluster.
    |node| cluster(node, 1) => "cluster.quorum" QUORUM, "cluster.other" NODE_WITHOUT;
    |node| cluster(node, 0) => "cluster.quorum" NO_QUORUM;
    without_corosync => "cluster.quorum" NO_QUORUM;
    |node| { cluster(node, 1); note(node, r#"{"schema":1,"version":"0.0.1","time":""}"#) } =>
        "cluster.other" NODE_OTHER, "cluster.other" NODE_NO_SNIPPET;
    |node| { cluster(node, 1); note(node, "{") } => "cluster.other" NODE_DAMAGED;
    |node| node.write("etc/pve/.members", "{").unwrap() => "cluster.nodes" NODES_UNKNOWN;
    |node| node.write("etc/pve/stillpoint", "a file").unwrap() => "cluster.note" NO_NOTE;
    |node| remove(node, "etc/pve/local") => "cluster.note" NO_NOTE;

    // What backups have left behind.
    |node| node.guest(9001).unwrap().set_lock(Some("backup")).unwrap() => "guest.9001.lock" LOCKED;
    |node| node.guest(9001).unwrap().set_lock(Some("snapshot")).unwrap() => "guest.9001.lock" LOCKED;
    |node| {
        let guest = node.guest(9001).unwrap();
        guest.set_config(&config::with_snapshot(&guest.config().unwrap())).unwrap();
    } => "guest.9001.snapshot" SNAPSHOT;
    |node| node.guest(9001).unwrap().set_marker("frozen", true).unwrap() => "guest.9001" FROZEN;
    |node| directory(node, "etc/pve/lxc/9002.conf") => "guest.9002.config" NO_CONFIG;
    |node| {
        remove(node, "etc/pve/qemu-server");
        node.write("etc/pve/qemu-server", "").unwrap();
    } => "guests" GUESTS_UNKNOWN;
    |node| run(node, true, true) => "guest.9001.run" RUN;
    |node| run(node, false, true) => "guest.9001.run" RUN_OPEN;
    |node| { run(node, false, true); node.guest(9001).unwrap().set_marker("running", false).unwrap() } =>
        "guest.9001.run" RUN_DOWN;
    |node| run(node, false, false) => "guest.9001.run" RUN_LEFT;
    |node| node.write("var/lib/stillpoint/runs/9001.json", "{").unwrap() =>
        "guest.9001.run" RUN_DAMAGED;
    |node| node.write("var/lib/stillpoint/runs", "").unwrap() => "state.runs" NO_STATE;
    |node| pending(node, "2026-01-01T00:00:00.000Z") => "state.verifies" VERIFY_OLD;
    |node| pending(node, "2999-01-01T00:00:00.000Z") => "state.verifies" VERIFIES;
    |node| node.write("var/lib/stillpoint/verifies/x.json", "{").unwrap() =>
        "state.verifies" VERIFY_DAMAGED;
    |node| node.write("var/lib/stillpoint/verifies", "").unwrap() => "state.verifies" NO_STATE;
    |node| node.write("var/lib/stillpoint/journal.jsonl", "{\"kind\":\"x\"}\n\u{1b}[2J\nodd\n").unwrap() =>
        "state.journal" JOURNAL_DAMAGED;
    |node| directory(node, "var/lib/stillpoint/journal.jsonl") => "state.journal" NO_STATE;

    // Guests.
    |node| { node.add_guest(GuestSpec { running: false, ..GuestSpec::lxc(9002) }).unwrap(); } =>
        "guests.engine" NO_ENGINES;
    |node| fs::rename(node.path("guests/9001/root"), node.path("guests/9001/moved")).unwrap() =>
        "guest.9001" GUEST_UNKNOWN;
    |node| engine(node, |engine| engine.hostile = Some(Hostile::Hangup)) =>
        "guest.9001.engine" NO_ENGINE;
    |_| {} => "guest.9001.try" STARTS_UNKNOWN;
    |node| tried(node) => "guest.9001.try" STARTS;
    |node| {
        engine(node, |engine| engine.refuses_starts = Some("permission denied".to_owned()));
        tried(node);
    } => "guest.9001.try" NO_START;
    |node| engine(node, |engine| engine.live_restore = true) =>
        "guest.9001.live-restore" LIVE_RESTORE;
    |node| add(node, Spec::service("shop", "odd").label("stillpoint.quiesce", "freeze")) =>
        "guest.9001.plan" PLAN;
    |node| add(node, Spec::service("shop", "loop").status(Status::Restarting)) =>
        "guest.9001.plan" PLAN;
    |node| add(node, Spec { stop_timeout: Some(3600), ..Spec::service("shop", "slow") }) =>
        "guest.9001.stop" SLOW_STOP;
    |node| add(node, Spec::service("shop", "once").restart(Restart::No)) =>
        "guest.9001.restart" STAYS_DOWN;
    |node| node.write("guests/9001/root/proc/1/mountinfo", "1 2 0:1 / /mnt/far rw - fuse.sshfs far: rw\n").unwrap() =>
        "guest.9001.fuse" FUSE_MOUNTED;
    |node| edit(node, "keyctl=1", "fuse=1,keyctl=1") => "guest.9001.fuse" FUSE_ALLOWED;
    |node| bound(node, "mp0: local-lvm:vm-9001-disk-1,mp=/srv,size=8G\n") =>
        "guest.9001.data.mp0" LEFT_OUT;
    |node| bound(node, "mp0: /mnt/bulk,mp=/srv\n") => "guest.9001.data.mp0" BIND_MOUNT;
    |node| mount(node, "mp0: local-lvm:vm-9001-disk-1,mp=/var/lib/docker,backup=0,size=8G\n") =>
        "guest.9001.data.mp0" ENGINE_LEFT_OUT;
    |node| mount(node, "mp0: /mnt/docker,mp=/var/lib/docker\n") =>
        "guest.9001.data.mp0" ENGINE_BIND_MOUNT;
    |node| mounted(node, "/srv rw - nfs4 192.0.2.10:/srv rw") => "guest.9001.data./srv" MOUNTED;
    |node| bound(node, "lxc.mount.entry: /mnt/bulk srv none bind 0 0\n") =>
        "guest.9001.data./srv" MOUNTED;
    |node| mounted(node, "/var/lib/docker rw - ext4 /dev/loop7 rw") =>
        "guest.9001.data./var/lib/docker" ENGINE_MOUNTED;
    |node| {
        edit(node, "hookscript: local:snippets/stillpoint\n", "");
        let text = "[Service]\nExecStartPre=-/usr/libexec/stillpoint/guest-hook %i pre-start\n";
        node.write("etc/systemd/system/pve-container@.service.d/stillpoint.conf", text).unwrap();
    } => "guests.start" DROP_IN;
    |node| edit(node, "hookscript: local:snippets/stillpoint\n", "") =>
        "guest.9001.start" NOT_LOOKED_AFTER;
    |node| {
        edit(node, "hookscript: local:snippets/stillpoint\n", "");
        for name in ["db", "cache", "web"] {
            let guest = node.guest(9001).unwrap();
            let always = |container: &mut stillpoint_sim::engine::container::Container| {
                container.spec.restart = Restart::Always;
            };
            assert!(guest.engine.as_ref().unwrap().modify(name, always));
        }
    } => "guest.9001.start" NO_IDENTITY;
    |node| {
        executable(node, "var/lib/vz/snippets/mine");
        edit(node, "snippets/stillpoint", "snippets/mine");
    } => "guest.9001.start" OTHER_HOOKSCRIPT;
    |node| remove(node, "var/lib/vz/snippets/stillpoint") => "guest.9001.hookscript" NO_SNIPPET;
    |node| edit(node, "snippets/stillpoint", "snippets/mine") =>
        "guest.9001.hookscript" NO_OTHER_SNIPPET;
    |node| edit(node, "local:snippets/stillpoint", "odd") => "guest.9001.hookscript" SNIPPET_UNKNOWN;

    // Storages.
    |node| node.write("etc/pve/storage.cfg", "dir: local\n\tpath /var/lib/vz\n").unwrap() =>
        "storages" NO_STORAGE;
    |node| remove(node, "etc/pve/storage.cfg") => "storages" NO_STORAGE_CFG;
    |_| {}, &["--storage", "none"] => "storage.none" OTHER_STORAGE;
};

fn remove(node: &Node, path: &str) {
    fs::remove_file(node.path(path)).unwrap();
}

/// A directory instead of a file: nobody can read it, not even root.
fn directory(node: &Node, path: &str) {
    if node.path(path).exists() {
        remove(node, path);
    }
    fs::create_dir(node.path(path)).unwrap();
}

fn conf(node: &Node, more: &str) {
    let text = fs::read_to_string(node.path("etc/vzdump.conf")).unwrap();
    node.write("etc/vzdump.conf", &format!("{text}{more}")).unwrap();
}

/// Metrics go to a path of the node; only `/metrics` is a directory.
fn metrics(node: &Node, path: &str) {
    fs::create_dir(node.path("metrics")).unwrap();
    let text = format!("[report]\ntextfile-directory = \"{path}\"\n");
    node.write("etc/stillpoint/config.toml", &text).unwrap();
}

fn jobs(node: &Node, text: &str) {
    node.write("etc/pve/jobs.cfg", text).unwrap();
}

/// The member file as pmxcfs writes it in a cluster of two.
fn cluster(node: &Node, quorate: u8) {
    let members = format!(
        r#"{{"nodename": "sim", "version": 2,
        "cluster": {{ "name": "c", "version": 2, "nodes": 2, "quorate": {quorate} }},
        "nodelist": {{ "sim": {{ "id": 1, "online": 1}}, "other": {{ "id": 2, "online": 1}} }}}}"#
    );
    node.write("etc/pve/.members", &members).unwrap();
}

/// Without corosync, pmxcfs lists no members and accepts no writes.
fn without_corosync(node: &mut Node) {
    let nodes = node.path("etc/pve/nodes");
    let mut permissions = fs::metadata(&nodes).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&nodes, permissions).unwrap();
}

fn note(node: &Node, text: &str) {
    node.write("etc/pve/stillpoint/nodes/other.json", text).unwrap();
}

fn edit(node: &Node, from: &str, to: &str) {
    let guest = node.guest(9001).unwrap();
    let text = guest.config().unwrap();
    assert!(text.contains(from), "{text}");
    guest.set_config(&text.replace(from, to)).unwrap();
}

fn mount(node: &Node, line: &str) {
    edit(node, "net0:", &format!("{line}net0:"));
}

/// A mount point at /srv, and a service with its data there.
fn bound(node: &Node, line: &str) {
    mount(node, line);
    let mut store = Spec::service("shop", "store");
    store.volumes = vec![("/srv/store".to_string(), "/data".to_string())];
    add(node, store);
}

/// A mount inside the guest, and a service with its data at /srv.
fn mounted(node: &Node, mount: &str) {
    let mounts = format!("1 0 7:0 / / rw - ext4 /dev/loop0 rw\n2 1 7:7 / {mount}\n");
    node.write("guests/9001/root/proc/1/mountinfo", &mounts).unwrap();
    bound(node, "");
}

/// A person has tested whether containers start.
fn tried(node: &Node) {
    let mut stillpoint = std::process::Command::new(node.path("usr/bin/stillpoint"));
    stillpoint.args(["try", "9001"]).env("STILLPOINT_ROOT", node.root());
    stillpoint.output().unwrap();
}

fn add(node: &Node, spec: Spec) {
    node.guest(9001).unwrap().engine.as_ref().unwrap().add(spec);
}

fn engine(node: &Node, change: impl FnOnce(&mut stillpoint_sim::engine::EngineConfig)) {
    node.guest(9001).unwrap().engine.as_ref().unwrap().configure(change);
}

/// A run of guest 9001, whose worker is alive or dead, and whose container is back or not.
fn run(node: &Node, alive: bool, open: bool) {
    let pid = i32::try_from(std::process::id()).unwrap();
    let mut worker = Process::find(pid).unwrap();
    if !alive {
        worker.boot = "another".to_string();
    }
    let job = Job { upid: None, worker, session: 0 };
    let mut run = Run::new(Vmid(9001), GuestType::Lxc, job, Mode::Snapshot);
    let container = QuiescedContainer {
        id: "abc".to_string(),
        engine: String::new(),
        name: "db".to_string(),
        project: None,
        service: None,
        action: stillpoint::config::Strategy::Stop,
        started_at: String::new(),
        after: Vec::new(),
        not_in_backup: Vec::new(),
    };
    let steps = if open { vec![Step::from(container)] } else { Vec::new() };
    run.quiesce = Some(Quiesce::new(By::Stillpoint, steps));
    Runs::of(&Root::at(node.root())).save(&run).unwrap();
}

/// A verify that was ordered at that time.
fn pending(node: &Node, since: &str) {
    let pending = serde_json::json!({
        "schema": 1, "run": "a", "vmid": 9001, "guest": "guest 9001", "storage": "offsite",
        "job": { "upid": null, "worker": { "pid": 1, "started": 0, "boot": "" }, "session": 0 },
        "snapshot": { "backup-type": "ct", "backup-id": "9001", "backup-time": 1_795_303_376 },
        "upid": null, "starts": 1, "since": since,
    });
    let path = "var/lib/stillpoint/verifies/9001-a.json";
    node.write(path, &pending.to_string()).unwrap();
}
