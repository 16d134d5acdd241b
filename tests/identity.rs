//! A restored copy gets its own identity, and after a disaster the restored guest is the original.
//! Tests of the guest hook, on a node with the files that `pct restore`, `pct clone` and the like
//! leave.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::Node;

const ORIGINAL: &str = "#web server\n#  second line\narch: amd64\ncores: 2\nfeatures: keyctl=1,nesting=1\n\
    hostname: web\nmemory: 2048\n\
    net0: name=eth0,bridge=vmbr0,firewall=1,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth\n\
    onboot: 1\nostype: debian\nrootfs: local-lvm:vm-9001-disk-0,size=8G\nunprivileged: 1\n";

const STATIC: &str = "name=eth0,bridge=vmbr0,gw=192.0.2.1,hwaddr=BC:24:11:00:00:01,ip=192.0.2.7/24,\
    ip6=2001:db8::7/64,tag=7,type=veth";

const LXC: &str = "lxc.arch = amd64\nlxc.uts.name = web\nlxc.rootfs.path = /var/lib/lxc/9002/rootfs\n\
    lxc.net.0.type = veth\nlxc.net.0.veth.pair = veth9002i0\nlxc.net.0.hwaddr = BC:24:11:00:00:01\n\
    lxc.net.0.name = eth0\nlxc.net.0.script.up = /usr/share/lxc/lxcnetaddbr\n";

struct Scene {
    node: Node,
}

impl Scene {
    /// A node with guest 9001.
    fn new() -> Scene {
        let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
        let scene = Scene { node: Node::new(None, &binaries).unwrap() };
        scene.configure(9001, ORIGINAL);
        scene
    }

    fn configure(&self, vmid: u32, text: &str) {
        self.node.write(&format!("etc/pve/nodes/sim/lxc/{vmid}.conf"), text).unwrap();
    }

    /// The result of `pct restore VMID` of 9001's backup: the same settings, another volume, a
    /// task.
    fn restore(&self, vmid: u32, text: &str) {
        self.configure(vmid, &text.replace("vm-9001-", &format!("vm-{vmid}-")));
        self.task("vzrestore", vmid);
    }

    fn task(&self, kind: &str, vmid: u32) {
        let path = self.node.path("var/log/pve/tasks/index");
        let mut text = fs::read_to_string(&path).unwrap_or_default();
        let now = chrono::Utc::now().timestamp();
        text.push_str(&format!(
            "UPID:sim:00006B5F:00A1B2C3:{now:08X}:{kind}:{vmid}:root@pam: {now:08X} OK\n"
        ));
        fs::write(path, text).unwrap();
    }

    /// The log of the restore that [`Scene::restore`] made, of a backup of guest `of`.
    fn log_of_restore(&self, vmid: u32, of: u32) {
        let index = fs::read_to_string(self.node.path("var/log/pve/tasks/index")).unwrap();
        let task = format!(":vzrestore:{vmid}:");
        let upid = index.lines().rfind(|line| line.contains(&task)).unwrap();
        let upid = stillpoint::vzdump::Upid::parse(upid.split(' ').next().unwrap()).unwrap();
        let text = format!(
            "recovering backed-up configuration from 'offsite:backup/ct/{of}/2026-11-21T23:22:56Z'\n\
            restoring 'offsite:backup/ct/{of}/2026-11-21T23:22:56Z' now..\n"
        );
        self.node.write(upid.log_path().trim_start_matches('/'), &text).unwrap();
    }

    fn inside(&self, vmid: u32) -> Option<Value> {
        let path = self.node.path(format!("var/lib/stillpoint/copies/{vmid}.json"));
        fs::read(path).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    fn mark_running(&self, vmid: u32) {
        self.node.write(&format!("guests/{vmid}/running"), "").unwrap();
        fs::create_dir_all(self.node.path(format!("guests/{vmid}/root"))).unwrap();
    }

    fn mark_stopped(&self, vmid: u32) {
        fs::remove_file(self.node.path(format!("guests/{vmid}/running"))).unwrap();
    }

    fn destroy(&self, vmid: u32) {
        fs::remove_file(self.node.path(format!("etc/pve/nodes/sim/lxc/{vmid}.conf"))).unwrap();
    }

    /// What `pct start` does, as far as the hook is concerned; returns the hook's output.
    fn start(&self, vmid: u32) -> String {
        let config = self.config(vmid);
        let value = |key: &str| config.lines().find_map(|line| line.strip_prefix(key));
        let net = value("net0: ").unwrap_or_default();
        let mac = net.split(',').find_map(|part| part.strip_prefix("hwaddr="));
        let lxc = LXC
            .replace("9002", &vmid.to_string())
            .replace("= web", &format!("= {}", value("hostname: ").unwrap_or("CT")))
            .replace("BC:24:11:00:00:01", mac.unwrap_or("BC:24:11:AA:AA:AA"));
        self.node.write(&format!("var/lib/lxc/{vmid}/config"), &lxc).unwrap();
        self.pre_start(vmid)
    }

    /// Only the hook, as when both the hookscript and the unit's drop-in call it.
    fn pre_start(&self, vmid: u32) -> String {
        let output = self.command("guest-hook", &[&vmid.to_string(), "pre-start"]);
        assert!(output.status.success(), "a guest has to start: {output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The first phase of a backup.
    fn backup(&self, vmid: u32) {
        let output = self
            .called("vzdump-hook", &["backup-start", "stop", &vmid.to_string()])
            .env("VMTYPE", "lxc")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Output {
        self.called(program, arguments).output().unwrap()
    }

    fn called(&self, program: &str, arguments: &[&str]) -> Command {
        let path = Path::new(env!("CARGO_BIN_EXE_guest-hook")).with_file_name(program);
        let mut command = Command::new(path);
        command.args(arguments).env_clear().env("STILLPOINT_ROOT", self.node.root());
        command
    }

    /// The `stillpoint` command; returns its output and whether it succeeded.
    fn stillpoint(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command("stillpoint", arguments);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    fn config(&self, vmid: u32) -> String {
        fs::read_to_string(self.node.path(format!("etc/pve/lxc/{vmid}.conf"))).unwrap()
    }

    fn lxc(&self, vmid: u32) -> String {
        fs::read_to_string(self.node.path(format!("var/lib/lxc/{vmid}/config"))).unwrap()
    }

    fn record(&self, vmid: u32) -> Option<Value> {
        let path = self.node.path(format!("etc/pve/stillpoint/guests/{vmid}.json"));
        fs::read(path).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    fn journal(&self) -> Vec<Value> {
        self.node.journal().unwrap()
    }

    /// Every file that a start may touch, with its content.
    fn files(&self) -> BTreeSet<(String, Vec<u8>)> {
        let mut found = BTreeSet::new();
        let mut left = vec![self.node.path("etc"), self.node.path("var/lib")];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap() {
                    kind if kind.is_dir() => left.push(entry.path()),
                    kind if kind.is_symlink() => {}
                    _ => {
                        let path = entry.path().to_string_lossy().into_owned();
                        found.insert((path, fs::read(entry.path()).unwrap()));
                    }
                }
            }
        }
        found
    }

    fn has_temporary_files(&self) -> bool {
        self.files().iter().any(|(path, _)| path.ends_with(".tmp"))
    }
}

/// The lines that differ, old beside new; the number of lines must be the same.
fn diff<'a>(old: &'a str, new: &'a str) -> Vec<(&'a str, &'a str)> {
    assert_eq!(old.split('\n').count(), new.split('\n').count(), "{new}");
    old.split('\n').zip(new.split('\n')).filter(|(old, new)| old != new).collect()
}

fn mac_of(config: &str) -> &str {
    let at = config.find("hwaddr=").unwrap() + "hwaddr=".len();
    &config[at..at + 17]
}

#[test]
fn a_copy_of_a_running_guest_gets_its_own_identity_in_both_files_and_once() {
    let scene = Scene::new();
    scene.mark_running(9001);
    scene.restore(9002, ORIGINAL);
    let before = scene.config(9002);
    let said = scene.start(9002);
    let after = scene.config(9002);
    let mac = mac_of(&after).to_string();
    assert!(mac.starts_with("BC:24:11:") && mac != "BC:24:11:00:00:01", "{mac}");
    assert_eq!(
        diff(&before, &after),
        [
            ("hostname: web", "hostname: web-9002"),
            (
                "net0: name=eth0,bridge=vmbr0,firewall=1,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth",
                format!("net0: name=eth0,bridge=vmbr0,firewall=1,hwaddr={mac},ip=dhcp,type=veth")
                    .as_str()
            ),
        ]
    );
    let hwaddr = format!("lxc.net.0.hwaddr = {mac}");
    assert_eq!(
        diff(LXC, &scene.lxc(9002)),
        [
            ("lxc.uts.name = web", "lxc.uts.name = web-9002"),
            ("lxc.net.0.hwaddr = BC:24:11:00:00:01", hwaddr.as_str()),
        ]
    );
    for told in ["stillpoint: guest 9002 is a copy", "guest 9001 (web)", "web-9002", &mac] {
        assert!(said.contains(told), "{told}: {said}");
    }
    let journal = scene.journal();
    assert_eq!(journal.len(), 1);
    assert_eq!(
        (&journal[0]["kind"], &journal[0]["outcome"]),
        (&"identity".into(), &"changed".into())
    );
    assert_eq!((&journal[0]["vmid"], &journal[0]["original"]), (&9002.into(), &9001.into()));
    assert_eq!(scene.config(9001), ORIGINAL);

    // The unit's drop-in calls the hook again for the same start; then comes the next start.
    let files = scene.files();
    assert_eq!(scene.pre_start(9002), "");
    assert_eq!(scene.start(9002), "");
    assert_eq!(scene.files(), files);
    // The original is not changed either.
    assert_eq!(scene.start(9001), "");
    assert_eq!(scene.config(9001), ORIGINAL);
    assert!(!scene.has_temporary_files());
}

#[test]
fn a_copy_keeps_its_static_address_with_its_link_down_and_is_told_how_to_go_on() {
    for (setting, expected) in [
        ("", Some("ip=192.0.2.7/24,ip6=2001:db8::7/64,tag=7,type=veth,link_down=1")),
        (
            "[restore]\naddress = \"keep\"\n",
            Some("ip=192.0.2.7/24,ip6=2001:db8::7/64,tag=7,type=veth"),
        ),
        ("[restore]\naddress = \"dhcp\"\n", Some("ip=dhcp,ip6=dhcp,tag=7,type=veth")),
    ] {
        let scene = Scene::new();
        scene.node.write("etc/stillpoint/config.toml", setting).unwrap();
        let text = ORIGINAL.replace(
            "name=eth0,bridge=vmbr0,firewall=1,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth",
            STATIC,
        );
        scene.configure(9001, &text);
        scene.mark_running(9001);
        scene.restore(9002, &text);
        let said = scene.start(9002);
        let after = scene.config(9002);
        assert!(after.contains(expected.unwrap()), "{setting}: {after}");
        assert_eq!(after.contains("gw="), !setting.contains("dhcp"), "{after}");
        assert_ne!(mac_of(&after), "BC:24:11:00:00:01");
        assert_eq!(said.contains("pct set 9002 --net0 'name=eth0,"), setting.is_empty(), "{said}");
        let files = scene.files();
        scene.start(9002);
        assert_eq!(scene.files(), files, "the second start changes nothing");
    }
}

#[test]
fn everything_else_in_the_file_stays_byte_for_byte() {
    let odd = format!(
        "{}\r\n\t unknown line\nlxc.net.0.flags: up\nhostname : web\n\n[pve:pending]\nhostname: web\n\n\
        [before-upgrade]\n#hostname: web\nhostname: web\n{}snaptime: 1795303376",
        ORIGINAL.replace("hostname: web", "hostname:  web  "),
        ORIGINAL
    );
    let scene = Scene::new();
    scene.mark_running(9001);
    scene.restore(9002, &odd);
    let before = scene.config(9002);
    scene.start(9002);
    let after = scene.config(9002);
    let changed = diff(&before, &after);
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert_eq!(changed[0], ("hostname:  web  ", "hostname:  web-9002  "));
    assert!(changed[1].0.starts_with("net0: ") && changed[1].1.starts_with("net0: "));
    assert!(after.ends_with("snaptime: 1795303376"));
}

#[test]
fn after_a_disaster_the_restored_guest_is_the_original() {
    let scene = Scene::new();
    assert_eq!(scene.start(9001), "");
    assert!(scene.record(9001).is_some(), "a start without a conflict is recorded");
    scene.destroy(9001);
    scene.restore(9002, ORIGINAL);
    let before = scene.config(9002);
    assert_eq!(scene.start(9002), "");
    assert_eq!(scene.config(9002), before);
    assert_eq!(scene.record(9001), None, "the record of a guest that is gone is dropped");
    assert_eq!(scene.record(9002).unwrap()["macs"], serde_json::json!(["BC:24:11:00:00:01"]));
    assert_eq!(scene.journal(), Vec::<Value>::new());
    // Now 9002 owns it, so a guest that comes later is the copy.
    scene.restore(9001, ORIGINAL);
    assert!(scene.start(9001).contains("guest 9001 is a copy"));
}

#[test]
fn a_guest_restored_over_itself_keeps_its_identity() {
    let scene = Scene::new();
    scene.configure(9003, &ORIGINAL.replace("00:00:01", "00:00:03").replace("vm-9001", "vm-9003"));
    scene.start(9001);
    scene.task("vzrestore", 9001);
    let restored = ORIGINAL.replace("disk-0", "disk-1");
    scene.configure(9001, &restored);
    assert_eq!(scene.start(9001), "");
    assert_eq!(scene.config(9001), restored, "nor does a guest like it make a difference");
}

#[test]
fn a_known_owner_stays_it_while_it_is_stopped() {
    let scene = Scene::new();
    scene.start(9001);
    scene.restore(9002, ORIGINAL);
    assert!(scene.start(9002).contains("belongs to guest 9001 (web)"));
    // A copy that is overwritten by another restore is again a copy.
    scene.restore(9002, ORIGINAL);
    assert!(scene.start(9002).contains("belongs to guest 9001 (web)"));
    assert_ne!(mac_of(&scene.config(9002)), "BC:24:11:00:00:01");
}

#[test]
fn a_restore_with_new_hardware_addresses_gets_only_hostname_and_address() {
    let scene = Scene::new();
    let text = ORIGINAL.replace("ip=dhcp", "ip=192.0.2.7/24,gw=192.0.2.1");
    scene.configure(9001, &text);
    scene.start(9001);
    scene.restore(9002, &text.replace("00:00:01", "00:00:02"));
    let before = scene.config(9002);
    scene.start(9002);
    let net = before.lines().find(|line| line.starts_with("net0")).unwrap();
    let down = format!("{net},link_down=1");
    assert_eq!(
        diff(&before, &scene.config(9002)),
        [("hostname: web", "hostname: web-9002"), (net, down.as_str())]
    );
    let files = scene.files();
    assert_eq!(scene.start(9002), "");
    assert_eq!(scene.files(), files);
}

/// `pct restore 9002 ... --unique 1`, with or without a hostname, and what the settings still
/// change.
#[test]
fn each_copy_with_new_hardware_addresses_gets_what_is_inside_made_new() {
    let statically = ORIGINAL.replace("ip=dhcp", "ip=192.0.2.7/24,gw=192.0.2.1");
    for (text, hostname, settings) in [
        (ORIGINAL, "web", ""),
        (statically.as_str(), "web", ""),
        (statically.as_str(), "other", ""),
        // The configuration does not change.
        (statically.as_str(), "other", "[restore]\naddress = \"keep\"\n"),
    ] {
        let scene = Scene::new();
        scene.node.write("etc/stillpoint/config.toml", settings).unwrap();
        scene.configure(9001, text);
        scene.start(9001);
        let given = format!("hostname: {hostname}\n");
        let text = text.replace("hostname: web\n", &given).replace("00:00:01", "00:00:02");
        scene.restore(9002, &text);
        scene.log_of_restore(9002, 9001);
        let (_, foreseen) = scene.stillpoint(&["restore-check", "9002"]);
        assert!(foreseen.contains("machine-id: replaced by a new one once it runs"), "{foreseen}");
        let before = scene.config(9002);
        let said = scene.start(9002);
        assert!(said.contains("a copy") && said.contains("SSH host keys inside"), "{said}");
        let inside = scene.inside(9002).unwrap();
        assert_eq!((&inside["machine_id"], &inside["if_shared"]), (&true.into(), &false.into()));
        assert_eq!(inside["macs"], serde_json::json!(["BC:24:11:00:00:02"]));
        assert_eq!(inside["original"], 9001);
        let after = scene.config(9002);
        assert_eq!(after == before, !settings.is_empty(), "{after}");
        assert_eq!(after.contains("hostname: other"), hostname == "other", "{after}");
        let files = scene.files();
        assert_eq!(scene.start(9002), "");
        assert_eq!(scene.files(), files);
    }
}

#[test]
fn a_copy_that_can_not_be_seen_from_outside_is_compared_with_its_original_once_it_runs() {
    let scene = Scene::new();
    scene.start(9001);
    let text =
        ORIGINAL.replace("hostname: web\n", "hostname: other\n").replace("0:00:01", "0:00:02");
    scene.restore(9002, &text);
    scene.log_of_restore(9002, 9001);
    let before = scene.config(9002);
    let (_, foreseen) = scene.stillpoint(&["restore-check", "9002"]);
    assert!(foreseen.contains("restored from a backup of guest 9001"), "{foreseen}");
    let (_, json) = scene.stillpoint(&["restore-check", "9002", "--json"]);
    let outlook: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&outlook["decision"], &outlook["compared_with"]), (&"keep".into(), &9001.into()));
    assert_eq!(scene.start(9002), "");
    assert_eq!(scene.config(9002), before);
    let inside = scene.inside(9002).unwrap();
    assert_eq!((&inside["original"], &inside["if_shared"]), (&9001.into(), &true.into()));
    // None of that for a guest that was restored as itself.
    scene.restore(9001, ORIGINAL);
    scene.log_of_restore(9001, 9001);
    scene.start(9001);
    assert_eq!(scene.inside(9001), None);
}

#[test]
fn an_original_that_is_restored_keeps_its_address_beside_a_spare_that_is_stopped() {
    let text = ORIGINAL.replace("ip=dhcp", "ip=192.0.2.7/24,gw=192.0.2.1");
    let spare =
        text.replace("hostname: web\n", "hostname: spare\n").replace("00:00:01", "00:00:05");
    let scene = Scene::new();
    scene.configure(9005, &spare);
    scene.restore(9001, &text);
    let said = scene.start(9001);
    assert!(said.contains("in doubt") && said.contains("guest 9005 (spare)"), "{said}");
    assert!(said.contains("is stopped") && said.contains("start the other one first"), "{said}");
    assert_eq!(scene.config(9001), text);
    // The restore's log says that it is the guest that was backed up.
    scene.log_of_restore(9001, 9001);
    assert_eq!(scene.start(9001), "");
    assert_eq!(scene.config(9001), text);

    // An address that is in use counts, whatever the records say.
    let scene = Scene::new();
    scene.configure(9005, &spare);
    scene.mark_running(9005);
    scene.destroy(9001);
    scene.restore(9002, &text);
    scene.log_of_restore(9002, 9001);
    assert!(scene.start(9002).contains("guest 9005 (spare) has its address 192.0.2.7"));
    assert!(scene.config(9002).contains("link_down=1"));
}

#[test]
fn a_clone_is_left_alone() {
    let scene = Scene::new();
    scene.mark_running(9001);
    scene.start(9001);
    let text = ORIGINAL.replace("00:00:01", "00:00:02").replace("vm-9001", "vm-9002");
    scene.configure(9002, &text);
    scene.task("vzclone", 9001);
    assert_eq!(scene.start(9002), "");
    assert_eq!(scene.config(9002), text);
}

#[test]
fn in_doubt_nothing_is_touched_and_that_is_said() {
    let scene = Scene::new();
    fs::create_dir_all(scene.node.path("etc/pve/nodes/other/lxc")).unwrap();
    fs::rename(
        scene.node.path("etc/pve/nodes/sim/lxc/9001.conf"),
        scene.node.path("etc/pve/nodes/other/lxc/9001.conf"),
    )
    .unwrap();
    scene.restore(9002, ORIGINAL);
    let before = scene.config(9002);
    let said = scene.start(9002);
    assert!(said.contains("in doubt") && said.contains("on node other"), "{said}");
    assert_eq!(scene.config(9002), before);
    assert_eq!(scene.lxc(9002), LXC);
    assert_eq!(scene.record(9002), None, "what is in doubt is nobody's");
    assert_eq!(scene.journal()[0]["outcome"], "in-doubt");
    assert_eq!(scene.pre_start(9002), said, "it is said at each start");
    assert_eq!(scene.journal().len(), 1, "and written down once");
    let (_, text) = scene.stillpoint(&["restore-check", "9002"]);
    assert!(text.contains("in doubt"), "{text}");

    // Once its own node has reported it as running, there is no doubt.
    let now = chrono::Utc::now().timestamp();
    let report = format!("pve-vm-9.0/9001:77:web:running:0:{now}:2:0.1\n");
    scene.node.write("etc/pve/.rrd", &report).unwrap();
    assert!(scene.start(9002).contains("is in use by guest 9001 (web), which runs"));
}

#[test]
fn without_a_quorum_nothing_is_touched() {
    let scene = Scene::new();
    scene.mark_running(9001);
    scene.restore(9002, ORIGINAL);
    scene.node.write("var/lib/lxc/9002/config", LXC).unwrap();
    let allow = |mode: u32| {
        for directory in ["etc/pve/nodes/sim/lxc", "etc/pve/nodes/sim", "etc/pve"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(scene.node.path(directory), mode).unwrap();
        }
    };
    let before = scene.files();
    allow(0o555);
    let mut hook = Command::new(env!("CARGO_BIN_EXE_guest-hook"));
    hook.args(["9002", "pre-start"]).env_clear().env("STILLPOINT_ROOT", scene.node.root());
    if nix::unistd::geteuid().is_root() {
        // File permissions do not stop root.
        hook.uid(65534);
    }
    let output = hook.output().unwrap();
    allow(0o755);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("quorum") && said.contains("nothing is touched"), "{said}");
    assert_eq!(scene.files(), before);
}

/// Proxmox VE accepts files that it would not write itself: the last of several lines with one key
/// counts, and invalid lines are ignored.
#[test]
fn a_file_that_somebody_else_wrote_is_understood_as_proxmox_ve_does() {
    let snapshot = format!("\n[s]\n{ORIGINAL}");
    for (case, text) in [
        ("CRLF", ORIGINAL.replace('\n', "\r\n")),
        ("no newline at its end", ORIGINAL.trim_end().to_string()),
        ("two hundred snapshots", format!("{ORIGINAL}{}", snapshot.repeat(200))),
        ("lower case", ORIGINAL.replace("BC:24:11:00:00:01", "bc:24:11:00:00:01")),
        ("the same line twice", format!("{ORIGINAL}{}\n", ORIGINAL.lines().nth(7).unwrap())),
        ("net10", ORIGINAL.replace("net0: ", "net10: ")),
        (
            "a key that comes again",
            ORIGINAL.replace("net0: ", "net0: name=eth0,hwaddr=BC:24:11:00:00:77\nnet0: "),
        ),
    ] {
        let scene = Scene::new();
        scene.mark_running(9001);
        scene.restore(9002, &text);
        let before = scene.config(9002);
        let net = if case == "net10" { "10" } else { "0" };
        let lxc = LXC.replace("lxc.net.0", &format!("lxc.net.{net}"));
        scene.node.write("var/lib/lxc/9002/config", &lxc).unwrap();
        assert!(scene.pre_start(9002).contains("guest 9002 is a copy"), "{case}");
        let after = scene.config(9002);
        let changed = diff(&before, &after);
        let lines = if case == "the same line twice" { 3 } else { 2 };
        assert_eq!(changed.len(), lines, "{case}: {changed:?}");
        let mac = mac_of(changed[1].1).to_string();
        assert_ne!(mac, "BC:24:11:00:00:01", "{case}");
        assert!(changed[1..].iter().all(|(_, new)| mac_of(new) == mac), "{case}: {changed:?}");
        assert!(scene.lxc(9002).contains(&format!("hwaddr = {mac}\n")), "{case}");
        assert_eq!(scene.record(9002).unwrap()["macs"], serde_json::json!([mac]), "{case}");
        assert_eq!(scene.pre_start(9002), "", "{case}");
        assert_eq!(scene.config(9002), after, "{case}");
    }
}

#[test]
fn a_comment_that_is_no_text_stays_byte_for_byte() {
    let scene = Scene::new();
    scene.mark_running(9001);
    let mut text = b"#\xfc\xff\x00 hostname: web\n".to_vec();
    text.extend(ORIGINAL.replace("vm-9001", "vm-9002").bytes());
    scene.restore(9002, "");
    let path = scene.node.path("etc/pve/nodes/sim/lxc/9002.conf");
    fs::write(&path, &text).unwrap();
    scene.node.write("var/lib/lxc/9002/config", LXC).unwrap();
    assert!(scene.pre_start(9002).contains("guest 9002 is a copy"));
    let after = fs::read(&path).unwrap();
    assert_eq!(after[..17], text[..17]);
    assert_eq!(after.len(), text.len() + "-9002".len());
}

/// A call that hung and continued later, and the next call.
#[test]
fn two_calls_for_one_start_never_mix() {
    let scene = Scene::new();
    scene.mark_running(9001);
    scene.restore(9002, ORIGINAL);
    scene.node.write("var/lib/lxc/9002/config", LXC).unwrap();
    let before = scene.config(9002);
    let mut first = scene.called("guest-hook", &["identity", "9002"]);
    first.env("STILLPOINT_FAILPOINT", "identity-recorded=halt");
    let mut first = first.stdout(std::process::Stdio::null()).spawn().unwrap();
    while !scene.node.path("failpoint-hit").exists() {
        assert!(first.try_wait().unwrap().is_none(), "it came to its end before");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let said = scene.pre_start(9002);
    assert!(said.contains("is held by another process"), "{said}");
    assert_eq!(scene.config(9002), before);
    fs::write(scene.node.path("failpoint-release"), "").unwrap();
    assert!(first.wait().unwrap().success());
    let mac = mac_of(&scene.config(9002)).to_string();
    assert_ne!(mac, "BC:24:11:00:00:01");
    assert_eq!(scene.record(9002).unwrap()["macs"], serde_json::json!([mac]));
    assert!(scene.inside(9002).is_some());
    assert_eq!(scene.pre_start(9002), "");
}

/// Anybody who may change a guest's network can give it the MAC of another, stopped guest, and
/// start it.
#[test]
fn the_victim_of_a_stolen_mac_is_not_taken_for_the_copy() {
    let scene = Scene::new();
    scene.configure(9003, &ORIGINAL.replace("hostname: web", "hostname: thief"));
    let before = (scene.config(9001), scene.config(9003));
    scene.task("vzcreate", 9003);
    assert!(scene.start(9003).contains("in doubt"));
    scene.mark_running(9003);
    scene.backup(9003);
    assert_eq!(scene.record(9003), None, "a backup makes it no owner");
    let said = scene.start(9001);
    assert!(said.contains("in doubt"), "{said}");
    assert_eq!((scene.config(9001), scene.config(9003)), before);
    assert!(scene.inside(9001).is_none() && scene.record(9001).is_none());

    // Also if the victim was restored here long ago.
    scene.task("vzrestore", 9001);
    assert!(scene.start(9001).contains("in doubt"));
    assert!(scene.inside(9001).is_none());
}

/// The record comes first; then each of the two files may be the one that cannot be written.
#[test]
fn what_can_not_be_written_leaves_both_files_and_the_record_as_they_were() {
    for blocked in ["etc/pve/nodes/sim/lxc", "var/lib/lxc/9002"] {
        let scene = Scene::new();
        scene.mark_running(9001);
        scene.restore(9002, ORIGINAL);
        scene.node.write("var/lib/lxc/9002/config", LXC).unwrap();
        let before = scene.files();
        let mut child = Command::new(env!("CARGO_BIN_EXE_guest-hook"))
            .args(["identity", "9002"])
            .env_clear()
            .env("STILLPOINT_ROOT", scene.node.root())
            .env("STILLPOINT_FAILPOINT", "identity-recorded=halt")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        while !scene.node.path("failpoint-hit").exists() {
            assert!(child.try_wait().unwrap().is_none(), "it came to its end before");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(scene.record(9002).is_some());
        // Without its directory, its new content cannot be written.
        let (directory, away) = (scene.node.path(blocked), scene.node.path("away"));
        fs::rename(&directory, &away).unwrap();
        fs::write(scene.node.path("failpoint-release"), "").unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains("nothing is touched"), "{said}");
        fs::rename(away, directory).unwrap();
        assert_eq!(scene.files(), before, "{blocked}");
    }
}

#[test]
fn a_call_that_is_killed_between_the_files_is_made_good_by_the_next() {
    let scene = Scene::new();
    scene.mark_running(9001);
    scene.restore(9002, ORIGINAL);
    scene.start(9002);
    // The state after a kill between the two files.
    scene.node.write("var/lib/lxc/9002/config", LXC).unwrap();
    assert!(scene.pre_start(9002).contains("given before"));
    assert!(scene.lxc(9002).contains(mac_of(&scene.config(9002))));
    assert!(scene.lxc(9002).contains("lxc.uts.name = web-9002"));
    // The state after a kill between the record and the first file: it is still a copy.
    scene.configure(9002, &ORIGINAL.replace("vm-9001", "vm-9002"));
    assert!(scene.start(9002).contains("guest 9002 is a copy"));
}

/// A separate process reads and writes: its death does not keep a guest from starting.
#[test]
fn a_call_that_dies_before_the_files_lets_the_guest_start_and_the_next_does_it_all() {
    let scene = Scene::new();
    scene.mark_running(9001);
    scene.restore(9002, ORIGINAL);
    scene.node.write("var/lib/lxc/9002/config", LXC).unwrap();
    let (config, lxc) = (scene.config(9002), scene.lxc(9002));
    let output = Command::new(env!("CARGO_BIN_EXE_guest-hook"))
        .args(["9002", "pre-start"])
        .env_clear()
        .env("STILLPOINT_ROOT", scene.node.root())
        .env("STILLPOINT_FAILPOINT", "identity-recorded=kill")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("guest 9002 starts unchanged"), "{said}");
    assert!(scene.record(9002).is_some(), "it died before its record");
    assert_eq!((scene.config(9002), scene.lxc(9002)), (config.clone(), lxc));
    assert!(scene.start(9002).contains("guest 9002 is a copy"));
    assert_ne!(mac_of(&scene.config(9002)), mac_of(&config));
    assert!(scene.lxc(9002).contains(mac_of(&scene.config(9002))));
}

#[test]
fn what_a_person_has_set_since_is_not_undone() {
    let managed = ORIGINAL.replace("ip=dhcp", "host-managed=1,ip=192.0.2.7/24");
    let scene = Scene::new();
    scene.configure(9001, &managed);
    scene.mark_running(9001);
    scene.restore(9002, &managed);
    scene.start(9002);
    let given = scene.config(9002);
    assert!(given.contains("hostname: web-9002\n") && given.contains(",link_down=1"), "{given}");
    // As `pct set` writes them; Proxmox VE writes LXC's file from that.
    let lxc = |hostname: &str, link: &str| {
        LXC.replace("= web", &format!("= {hostname}"))
            .replace("BC:24:11:00:00:01", mac_of(&given))
            .replace("lxc.net.0.type", &format!("{link}lxc.net.0.type"))
    };
    let up = given.replace(",link_down=1", "");
    let renamed = given.replace("web-9002", "web");
    for (config, lxc) in
        [(up, lxc("web-9002", "lxc.net.0.flags = up\n")), (renamed, lxc("web", ""))]
    {
        scene.configure(9002, &config);
        scene.node.write("var/lib/lxc/9002/config", &lxc).unwrap();
        let said = scene.pre_start(9002);
        assert!(!said.contains("given before"), "{said}");
        assert_eq!((scene.config(9002), scene.lxc(9002)), (config, lxc));
    }
}

#[test]
fn a_backup_of_a_guest_in_doubt_proves_nothing_where_it_was_restored() {
    let scene = Scene::new();
    scene.restore(9002, ORIGINAL);
    assert!(scene.start(9002).contains("in doubt"));
    scene.mark_running(9002);
    scene.backup(9002);
    assert_eq!(scene.record(9002), None);
    scene.mark_stopped(9002);
    scene.mark_running(9001);
    scene.backup(9001);
    assert!(scene.record(9001).is_some(), "it was there before");
    assert!(scene.start(9002).contains("guest 9002 is a copy"));
}

#[test]
fn a_cluster_that_hangs_keeps_no_guest_from_starting() {
    let scene = Scene::new();
    scene.mark_running(9001);
    scene.restore(9002, ORIGINAL);
    // Opening it for reading waits for a writer for ever.
    let fifo = scene.node.path("etc/pve/nodes/sim/lxc/777.conf");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let before = scene.config(9002);
    let said = scene.pre_start(9002);
    assert!(said.contains("guest 9002 starts unchanged"), "{said}");
    assert_eq!(scene.config(9002), before);
    // A killed process is gone a moment later.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while let Some(left) = scene.node.processes().unwrap().pop() {
        assert!(std::time::Instant::now() < deadline, "somebody stays behind: {left:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn whatever_is_in_the_files_a_guest_starts() {
    let garbage = [b"\xff\xfe\0[\n:\n".to_vec(), vec![b'n'; 3 << 20], Vec::new()];
    for place in [
        "etc/pve/nodes/sim/lxc/9001.conf",
        "etc/pve/nodes/sim/lxc/9002.conf",
        "etc/pve/stillpoint/guests/9001.json",
        "etc/pve/stillpoint/guests/9002.json",
        "etc/pve/datacenter.cfg",
        "etc/pve/stillpoint/config.toml",
        "var/lib/lxc/9002/config",
        "var/log/pve/tasks/index",
        "var/log/pve/tasks/active",
    ] {
        for garbage in &garbage {
            let scene = Scene::new();
            scene.mark_running(9001);
            scene.restore(9002, ORIGINAL);
            scene.node.write(place, "").unwrap();
            fs::write(scene.node.path(place), garbage).unwrap();
            scene.pre_start(9002);
            assert!(!scene.has_temporary_files(), "{place}");
        }
    }
    let scene = Scene::new();
    for arguments in
        [&["9002", "pre-start"][..], &["x", "pre-start"], &["9002"], &[], &["9002", "?"]]
    {
        assert!(scene.command("guest-hook", arguments).status.success());
    }
}

#[test]
fn always_changes_once_after_each_restore() {
    let scene = Scene::new();
    scene.destroy(9001);
    scene.node.write("etc/stillpoint/config.toml", "[restore]\nidentity = \"always\"\n").unwrap();
    scene.node.write("etc/pve/datacenter.cfg", "keyboard: de\nmac_prefix: 02:AB\n").unwrap();
    scene.restore(9002, ORIGINAL);
    assert!(scene.start(9002).contains("guest 9002 is a copy"));
    let first = scene.config(9002);
    assert!(mac_of(&first).starts_with("02:AB:"), "{first}");
    assert_eq!(scene.start(9002), "");
    assert_eq!(scene.config(9002), first);
    // A guest that was created here is no copy.
    scene.configure(9003, &ORIGINAL.replace("00:00:01", "00:00:03"));
    scene.task("vzcreate", 9003);
    assert_eq!(scene.start(9003), "");
}

#[test]
fn never_leaves_every_guest_as_it_is() {
    let scene = Scene::new();
    scene.mark_running(9001);
    scene
        .node
        .write("etc/stillpoint/config.toml", "[guest.9002]\nrestore.identity = \"never\"\n")
        .unwrap();
    scene.restore(9002, ORIGINAL);
    let before = scene.config(9002);
    assert!(scene.start(9002).contains("restore.identity is never"));
    assert_eq!(scene.config(9002), before);
}

#[test]
fn several_nets_are_looked_at_one_by_one() {
    let nets = "net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,tag=7\n\
        net1: name=eth1,bridge=vmbr1,hwaddr=bc:24:11:00:00:0a,ip=198.51.100.7/24\n\
        net2: name=eth2,bridge=vmbr1,ip=dhcp\nnet10: name=eth9,bridge=vmbr1,hwaddr=BC:24:11:00:00:99\n";
    let text = ORIGINAL.replace(
        "net0: name=eth0,bridge=vmbr0,firewall=1,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth\n",
        nets,
    );
    let scene = Scene::new();
    scene.configure(9001, &text.replace("net10: ", "unknown: "));
    scene.mark_running(9001);
    scene.restore(9002, &text);
    let before = scene.config(9002);
    scene.start(9002);
    let after = scene.config(9002);
    let changed: Vec<&str> =
        diff(&before, &after).iter().map(|(old, _)| old.split(':').next().unwrap()).collect();
    assert_eq!(changed, ["hostname", "net0", "net1"], "its own and those without one stay");
    assert!(after.contains("ip=198.51.100.7/24,link_down=1"));
    assert!(!after.contains("tag=7,link_down"));
}

#[test]
fn restore_check_says_what_the_start_would_do() {
    let scene = Scene::new();
    scene.mark_running(9001);
    scene.restore(9002, ORIGINAL);
    let before = scene.files();
    let (well, text) = scene.stillpoint(&["restore-check", "9002"]);
    assert!(
        well && text.contains("hostname: web -> web-9002") && text.contains("a new one"),
        "{text}"
    );
    let (well, json) = scene.stillpoint(&["restore-check", "9002", "--json"]);
    let outlook: Value = serde_json::from_str(&json).unwrap();
    assert!(well);
    assert_eq!((&outlook["decision"], &outlook["original"]), (&"change".into(), &9001.into()));
    assert_eq!(outlook["changes"][0]["to"], "web-9002");
    assert_eq!(scene.files(), before, "it touches nothing");
    assert!(text.contains("Before you start it: stillpoint enable 9002"), "{text}");
    assert_eq!(outlook["called"], false);
    scene.restore(9002, &format!("{ORIGINAL}hookscript: share:snippets/stillpoint\n"));
    let (well, text) = scene.stillpoint(&["restore-check", "9002"]);
    assert!(well && !text.contains("stillpoint enable"), "{text}");
    let (well, text) = scene.stillpoint(&["restore-check", "9001"]);
    assert!(well && text.contains("keeps its identity"), "{text}");
    assert!(!scene.stillpoint(&["restore-check", "9009"]).0);
}

#[test]
fn adopt_gives_the_identity_of_an_original_that_does_not_run() {
    let scene = Scene::new();
    let text = ORIGINAL.replace("ip=dhcp", "ip=192.0.2.7/24,gw=192.0.2.1");
    scene.configure(9001, &text);
    scene.start(9001);
    scene.mark_running(9001);
    scene.restore(9002, &text);
    let restored = scene.config(9002);
    scene.start(9002);
    let copy = scene.config(9002);

    let (well, said) = scene.stillpoint(&["adopt", "9002"]);
    assert!(!well && said.contains("pct shutdown 9001"), "{said}");
    assert_eq!(scene.config(9002), copy);
    scene.mark_stopped(9001);
    scene.mark_running(9002);
    let (well, said) = scene.stillpoint(&["adopt", "9002"]);
    assert!(!well && said.contains("pct shutdown 9002"), "{said}");
    scene.mark_stopped(9002);
    scene.configure(9002, &format!("{copy}lock: backup\n"));
    let (well, said) = scene.stillpoint(&["adopt", "9002"]);
    assert!(!well && said.contains("locked"), "{said}");
    scene.configure(9002, &copy);

    let (well, said) = scene.stillpoint(&["adopt", "9002"]);
    assert!(
        well && said.contains("pct start 9002") && said.contains("SSH host keys stay"),
        "{said}"
    );
    assert_eq!(scene.config(9002), restored, "as it was restored, to the byte");
    assert!(scene.lxc(9002).contains("lxc.uts.name = web\n"));
    assert!(scene.lxc(9002).contains("BC:24:11:00:00:01"));
    assert!(scene.start(9002).contains("is its own"), "now it is the original");
    assert_eq!(scene.config(9002), restored);
    assert_eq!(scene.journal().last().unwrap()["outcome"], "adopted");
    // The former owner is the copy if it is ever started again.
    assert!(scene.start(9001).contains("guest 9001 is a copy"));
    assert!(!scene.stillpoint(&["adopt", "9002"]).0, "twice is once");
    assert!(!scene.stillpoint(&["adopt", "9009"]).0);
}

#[test]
fn adopt_waits_for_nobody_that_can_not_be_seen() {
    let scene = Scene::new();
    scene.start(9001);
    scene.restore(9002, ORIGINAL);
    scene.start(9002);
    fs::create_dir_all(scene.node.path("etc/pve/nodes/other/lxc")).unwrap();
    let here = scene.node.path("etc/pve/nodes/sim/lxc/9001.conf");
    let there = scene.node.path("etc/pve/nodes/other/lxc/9001.conf");
    fs::rename(here, &there).unwrap();
    let (well, said) = scene.stillpoint(&["adopt", "9002"]);
    assert!(!well && said.contains("on node other"), "{said}");
    fs::remove_file(there).unwrap();
    let (well, said) = scene.stillpoint(&["adopt", "9002"]);
    assert!(well, "{said}");
    assert_eq!(mac_of(&scene.config(9002)), "BC:24:11:00:00:01");
}

#[test]
fn adopt_keeps_what_was_changed_since() {
    let scene = Scene::new();
    scene.start(9001);
    scene.restore(9002, &ORIGINAL.replace("ip=dhcp", "ip=192.0.2.7/24"));
    scene.start(9002);
    scene.destroy(9001);
    let moved =
        scene.config(9002).replace("bridge=vmbr0", "bridge=vmbr5").replace("cores: 2", "cores: 4");
    scene.configure(9002, &moved);
    assert!(scene.stillpoint(&["adopt", "9002"]).0);
    let config = scene.config(9002);
    assert!(
        config.contains(
            "bridge=vmbr5,firewall=1,hwaddr=BC:24:11:00:00:01,ip=192.0.2.7/24,type=veth\n"
        ),
        "{config}"
    );
    assert!(config.contains("cores: 4") && config.contains("hostname: web\n"));
}

/// `cargo test --release --test identity a_thousand -- --nocapture` shows how long the decision
/// takes.
#[test]
fn a_thousand_guests_are_looked_through() {
    let scene = Scene::new();
    for vmid in 1000..2000 {
        let mac = format!("BC:24:11:01:{:02X}:{:02X}", vmid / 256, vmid % 256);
        let text = ORIGINAL
            .replace("BC:24:11:00:00:01", &mac)
            .replace("hostname: web", &format!("hostname: guest-{vmid}"));
        scene.configure(vmid, &format!("{text}\n[before]\n{text}"));
        let record = serde_json::json!({ "schema": 1, "vmid": vmid, "macs": [mac],
            "root_volume": null, "since": "2026-11-21T23:22:56.000Z", "changed": null });
        let path = format!("etc/pve/stillpoint/guests/{vmid}.json");
        scene.node.write(&path, &record.to_string()).unwrap();
    }
    scene.start(9001);
    scene.restore(9002, ORIGINAL);
    let root = stillpoint::sys::Root::at(scene.node.root());
    let directory = scene.node.path("etc/pve/lxc");
    let (mut reading, mut deciding) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let begin = std::time::Instant::now();
        for entry in fs::read_dir(&directory).unwrap() {
            fs::read(entry.unwrap().path()).unwrap();
        }
        reading.push(begin.elapsed());
        let begin = std::time::Instant::now();
        let outlook = stillpoint::identity::foresee(&root, stillpoint::vzdump::Vmid(9002)).unwrap();
        deciding.push(begin.elapsed());
        assert!(outlook.decision.reason.contains("belongs to guest 9001 (web)"));
    }
    let began = std::time::Instant::now();
    let said = scene.start(9002);
    assert!(said.contains("guest 9002 is a copy"), "{said}");
    let hook = began.elapsed();
    reading.sort();
    deciding.sort();
    println!(
        "a thousand guests: the files alone {:?}, the decision with them {:?}, the whole hook with its changes {hook:?}",
        reading[10], deciding[10]
    );
}
