//! Registering with Proxmox VE: what was configured before is kept, called and put back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::{GuestSpec, Node};

const CONF: &str = "# caf\u{e9}\n\nmode: stop\n#script: FILENAME\n";

fn node() -> Node {
    let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
    let node = Node::new(None, &binaries).unwrap();
    node.write("etc/vzdump.conf", CONF).unwrap();
    node.add_storage("dir", "local", &[("path", "/var/lib/vz"), ("content", "iso,snippets")])
        .unwrap();
    node.write("etc/pve/.members", "{\"nodename\": \"sim\", \"version\": 1}\n").unwrap();
    node
}

fn with_guest(vmid: u32) -> Node {
    let mut node = node();
    node.add_guest(GuestSpec::lxc(vmid)).unwrap();
    node
}

/// A script that records how it was called; its exit status comes from a file beside it.
fn script(node: &Node, path: &str) {
    let text = format!(
        "#!/bin/sh\nread line\necho \"$0 $* VMTYPE=$VMTYPE stdin=$line\" >>{log}\necho theirs: $*\n\
         [ ! -e {status} ] || exit $(cat {status})\n",
        log = node.path("called").display(),
        status = node.path("status").display()
    );
    node.write(path, &text).unwrap();
    fs::set_permissions(node.path(path), fs::Permissions::from_mode(0o755)).unwrap();
}

fn called(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(node.path("called")).unwrap_or_default();
    let root = node.root().display().to_string();
    text.lines().map(|line| line.replace(&root, "")).collect()
}

fn stillpoint(node: &Node, arguments: &str) -> Output {
    run(node, env!("CARGO_BIN_EXE_stillpoint"), arguments)
}

fn run(node: &Node, program: &str, arguments: &str) -> Output {
    Command::new(program)
        .args(arguments.split_whitespace())
        .env_clear()
        .env("STILLPOINT_ROOT", node.root())
        .env("VMTYPE", "lxc")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn done(node: &Node, arguments: &str) -> String {
    let output = stillpoint(node, arguments);
    assert!(output.status.success(), "{arguments}: {}", text(&output));
    text(&output)
}

fn refused(node: &Node, arguments: &str) -> String {
    let output = stillpoint(node, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments}: {}", text(&output));
    text(&output)
}

fn read(node: &Node, path: &str) -> String {
    fs::read_to_string(node.path(path)).unwrap()
}

/// Calls the hook as vzdump does, by its path on the node.
fn hook(node: &Node, arguments: &str) -> Output {
    run(node, node.path("usr/libexec/stillpoint/vzdump-hook").to_str().unwrap(), arguments)
}

/// Calls the guest's `hookscript:`.
fn hookscript(node: &Node, arguments: &str) -> Output {
    run(node, node.path("var/lib/vz/snippets/stillpoint").to_str().unwrap(), arguments)
}

#[test]
fn registering_changes_one_line_and_unregistering_puts_it_back() {
    let node = node();
    let said = done(&node, "register --dry-run --all-guests");
    assert!(said.contains("would call"), "{said}");
    assert_eq!(read(&node, "etc/vzdump.conf"), CONF);
    assert!(!node.path("etc/systemd").exists());

    let said = done(&node, "register");
    assert!(said.contains("enable --all"), "{said}");
    let registered = format!("{CONF}script: /usr/libexec/stillpoint/vzdump-hook\n");
    assert_eq!(read(&node, "etc/vzdump.conf"), registered);
    assert!(done(&node, "register").contains("already"));
    assert_eq!(read(&node, "etc/vzdump.conf"), registered);

    assert!(done(&node, "unregister --dry-run").contains("would"));
    assert_eq!(read(&node, "etc/vzdump.conf"), registered);
    done(&node, "unregister");
    assert_eq!(read(&node, "etc/vzdump.conf"), CONF);
    done(&node, "unregister");
    assert_eq!(read(&node, "etc/vzdump.conf"), CONF);
}

#[test]
fn a_hook_that_is_not_installed_is_not_registered() {
    let node = node();
    fs::remove_file(node.path("usr/libexec/stillpoint/vzdump-hook")).unwrap();
    assert!(refused(&node, "register").contains("install the package"));
    assert_eq!(read(&node, "etc/vzdump.conf"), CONF);
}

#[test]
fn mode_and_link_of_the_file_are_kept() {
    let node = node();
    fs::rename(node.path("etc/vzdump.conf"), node.path("etc/kept.conf")).unwrap();
    fs::set_permissions(node.path("etc/kept.conf"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("kept.conf", node.path("etc/vzdump.conf")).unwrap();
    done(&node, "register");
    assert!(node.path("etc/vzdump.conf").is_symlink());
    assert!(read(&node, "etc/kept.conf").contains("vzdump-hook"));
    let mode = fs::metadata(node.path("etc/kept.conf")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn systemd_is_told_of_every_container_and_of_none_again() {
    let node = node();
    let paths = ["pve-container@", "pve-container-debug@"]
        .map(|unit| format!("etc/systemd/system/{unit}.service.d/stillpoint.conf"));
    node.write("run/systemd/system/x", "").unwrap();
    script(&node, "usr/bin/systemctl");
    done(&node, "register --all-guests");
    for path in &paths {
        let text = read(&node, path);
        for line in ["ExecStartPre=-/usr/bin/timeout", "ExecStartPost=-/usr/bin/timeout"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.contains("/usr/libexec/stillpoint/guest-hook %i pre-start unit"), "{text}");
    }
    assert!(done(&node, "register --all-guests").contains("start of a container already"));
    let reloads = || called(&node).iter().filter(|line| line.contains("daemon-reload")).count();
    assert_eq!(reloads(), 1, "nothing changed the second time");
    assert!(
        called(&node).iter().any(|line| line.contains("enable --quiet stillpoint-recover.service"))
    );

    node.write("etc/systemd/system/pve-container@.service.d/own.conf", "[Service]\n").unwrap();
    done(&node, "unregister");
    assert!(!node.path(&paths[0]).exists() && !node.path(&paths[1]).exists());
    assert!(node.path("etc/systemd/system/pve-container@.service.d/own.conf").exists());
    assert!(!node.path("etc/systemd/system/pve-container-debug@.service.d").exists());
    assert_eq!(reloads(), 2);
}

#[test]
fn a_drop_in_that_calls_nothing_looks_after_nobody() {
    let node = with_guest(9001);
    let json = |arguments: &str| -> serde_json::Value {
        serde_json::from_slice(&stillpoint(&node, arguments).stdout).unwrap()
    };
    let told = || {
        let status = json("status --json")["guests"][0]["on_start"].clone();
        let doctor = json("doctor --json")["checks"].clone();
        let all = doctor.as_array().unwrap().iter().any(|check| check["about"] == "guests.start");
        (status, all, json("restore-check 9001 --json")["called"].clone())
    };
    let path = "etc/systemd/system/pve-container@.service.d/stillpoint.conf";
    done(&node, "register --all-guests");
    assert_eq!(told(), ("node".into(), true, true.into()));
    let commented: String = read(&node, path).lines().map(|line| format!("#{line}\n")).collect();
    for text in ["# It was here.\n", &commented, "[Service]\nExecStartPre=/bin/true\n"] {
        node.write(path, text).unwrap();
        assert_eq!(told(), ("none".into(), false, false.into()), "{text}");
    }
    let mine =
        "[Service]\n# Mine.\nExecStartPre=-/usr/libexec/stillpoint/guest-hook %i pre-start unit\n";
    node.write(path, mine).unwrap();
    assert_eq!(told(), ("node".into(), true, true.into()), "what it says counts");
}

#[test]
fn our_hook_behind_a_link_is_ours_for_every_command() {
    let node = node();
    std::os::unix::fs::symlink(node.path("usr/libexec/stillpoint"), node.path("opt")).unwrap();
    let conf = "script: /opt/vzdump-hook\n";
    node.write("etc/vzdump.conf", conf).unwrap();
    node.write("etc/pve/jobs.cfg", "vzdump: a\n\tscript /opt/vzdump-hook\n").unwrap();
    assert!(done(&node, "register").contains("already"));
    assert_eq!(read(&node, "etc/vzdump.conf"), conf);
    let said = text(&stillpoint(&node, "doctor"));
    let script = said.lines().find(|line| line.contains("vzdump.script")).unwrap();
    assert!(script.starts_with("ok"), "{said}");
    assert!(!said.contains("job.a.script"), "{said}");
    script_beside(&node, &format!("#kept by stillpoint, which calls it: script: /mine\n{conf}"));
    hook(&node, "job-init");
    assert_eq!(called(&node).len(), 1, "what it stands in for is called");
    done(&node, "unregister");
    assert_eq!(read(&node, "etc/vzdump.conf"), "script: /mine\n");
}

fn script_beside(node: &Node, conf: &str) {
    script(node, "mine");
    node.write("etc/vzdump.conf", conf).unwrap();
}

#[test]
fn looking_after_all_guests_records_whose_identity_each_has() {
    let node = with_guest(9001);
    let record = "etc/pve/stillpoint/guests/9001.json";
    done(&node, "register --all-guests --dry-run");
    assert!(!node.path(record).exists());
    done(&node, "register --all-guests");
    assert!(read(&node, record).contains("9001"));
}

#[test]
fn a_former_script_is_called_as_vzdump_would_and_put_back() {
    let node = node();
    let before = "script: /opt/theirs.sh\nmode: stop\n";
    node.write("etc/vzdump.conf", before).unwrap();
    script(&node, "opt/theirs.sh");
    assert!(done(&node, "register").contains("/opt/theirs.sh is kept"));
    for call in ["job-init", "pre-restart snapshot 9001", "a-new-phase snapshot 9001"] {
        let output = hook(&node, call);
        assert_eq!(output.status.code(), Some(0), "{call}");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.lines().any(|line| line == format!("theirs: {call}")), "{printed}");
        let expected = format!("/opt/theirs.sh {call} VMTYPE=lxc stdin=");
        assert_eq!(called(&node).last(), Some(&expected));
    }
    done(&node, "unregister");
    assert_eq!(read(&node, "etc/vzdump.conf"), before);
}

#[test]
fn a_former_script_counts_where_a_failure_is_meant() {
    let node = node();
    node.write("etc/vzdump.conf", "script: /opt/theirs.sh\n").unwrap();
    script(&node, "opt/theirs.sh");
    node.write("status", "3\n").unwrap();
    done(&node, "register");
    for (phase, counts) in [
        ("job-init", false),
        ("job-start", false),
        ("backup-start", false),
        ("pre-stop", true),
        ("pre-restart", false),
        ("post-restart", false),
        ("backup-end", false),
        ("backup-abort", false),
        ("log-end", false),
        ("job-end", true),
        ("job-abort", false),
    ] {
        let guest = if phase.starts_with("job") { "" } else { " snapshot 9001" };
        let output = hook(&node, &format!("{phase}{guest}"));
        assert_eq!(output.status.code(), Some(i32::from(counts)), "{phase}: {}", text(&output));
        let said = text(&output);
        assert!(
            said.contains(&format!("/opt/theirs.sh failed in {phase}")) || phase == "job-end",
            "{said}"
        );
        assert!(said.contains("ended with exit status: 3"), "{said}");
    }
}

#[test]
fn nothing_is_stopped_before_a_former_script_has_done_its_work_and_nothing_where_it_failed() {
    let node = with_guest(9001);
    node.write("etc/vzdump.conf", "script: /opt/theirs.sh\n").unwrap();
    let engine = node.guest(9001).unwrap().engine.as_ref().unwrap();
    let run = || engine.containers().iter().filter(|container| container.status.is_alive()).count();
    let before = run();
    script(&node, "opt/theirs.sh");
    // It finds the containers as they were when vzdump called it: its own file shows whether a run
    // was already begun.
    let runs = node.path("var/lib/stillpoint/runs/9001.json");
    let look = format!(
        "#!/bin/sh\n[ ! -e {} ] || grep -c rested_ms {} >{}\nexit 1\n",
        runs.display(),
        runs.display(),
        node.path("seen").display()
    );
    node.write("opt/theirs.sh", &look).unwrap();
    done(&node, "register");
    let output = hook(&node, "pre-stop snapshot 9001");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(run(), before, "{}", text(&output));
    assert!(!runs.exists(), "nothing was begun");
    assert!(!node.path("seen").exists());

    fs::write(node.path("opt/theirs.sh"), look.replace("exit 1", "exit 0")).unwrap();
    let output = hook(&node, "pre-stop snapshot 9001");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(run(), 0, "{}", text(&output));
    assert!(!node.path("seen").exists(), "theirs came first");
    fs::write(node.path("opt/theirs.sh"), look.replace("exit 1", "sleep 0.1; exit 1")).unwrap();
    let output = hook(&node, "post-restart snapshot 9001");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(run(), before, "{}", text(&output));
    assert!(node.path("seen").exists(), "ours came first");
}

#[test]
fn a_former_script_that_is_missing_or_calls_us_is_no_harm() {
    let node = node();
    node.write("etc/vzdump.conf", "script: /opt/theirs.sh\n").unwrap();
    assert!(done(&node, "register").contains("/opt/theirs.sh does not exist"));
    let output = hook(&node, "job-end");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("cannot call /opt/theirs.sh"), "{}", text(&output));

    // A handwritten script that calls our hook itself, from before `register` existed.
    let own = node.path("usr/libexec/stillpoint/vzdump-hook");
    let wrapper = format!(
        "#!/bin/sh\necho once >>{}\n{} \"$@\"\n",
        node.path("called").display(),
        own.display()
    );
    node.write("opt/theirs.sh", &wrapper).unwrap();
    fs::set_permissions(node.path("opt/theirs.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(hook(&node, "job-end").status.code(), Some(0));
    assert_eq!(called(&node), ["once"]);

    // Our own hook under another name is not kept as a previous script.
    let node = self::node();
    std::os::unix::fs::symlink(node.path("usr/libexec/stillpoint/vzdump-hook"), node.path("hook"))
        .unwrap();
    node.write("etc/vzdump.conf", "script: /hook\n").unwrap();
    assert!(done(&node, "register").contains("already"));
    done(&node, "unregister");
    assert_eq!(read(&node, "etc/vzdump.conf"), "");
}

#[test]
fn guests_are_enabled_and_disabled_each_by_itself() {
    let mut node = with_guest(9001);
    node.add_guest(GuestSpec::lxc(9002)).unwrap();
    node.add_guest(GuestSpec::qemu(100)).unwrap();
    let before: Vec<String> =
        [9001, 9002].iter().map(|vmid| node.guest(*vmid).unwrap().config().unwrap()).collect();
    assert!(
        done(&node, "enable --all --dry-run")
            .contains("pct set 9001 --hookscript local:snippets/stillpoint")
    );
    assert!(!node.path("var/lib/vz/snippets/stillpoint").exists());
    assert_eq!(node.guest(9001).unwrap().config().unwrap(), before[0]);

    let said = refused(&node, "enable 9001 100 9009 9001");
    assert!(said.contains("Guest 9001: hookscript enabled."), "{said}");
    assert!(said.contains("Guest 100: nothing changed: it is a VM"), "{said}");
    assert!(said.contains("Guest 9009: nothing changed: there is no such guest"), "{said}");
    assert!(said.contains("2 of 3 guests unchanged: 100, 9009"), "{said}");
    assert!(node.guest(9001).unwrap().has_hookscript().unwrap());
    assert!(!node.guest(9002).unwrap().has_hookscript().unwrap());

    node.guest(9002).unwrap().set_lock(Some("backup")).unwrap();
    let said = refused(&node, "enable --all");
    assert!(
        said.contains("9001: hookscript already enabled") && said.contains("CT is locked (backup)"),
        "{said}"
    );
    node.guest(9002).unwrap().set_lock(None).unwrap();
    done(&node, "enable --all");
    assert!(node.guest(9002).unwrap().has_hookscript().unwrap());
    let note = read(&node, "etc/pve/stillpoint/nodes/sim.json");
    assert!(note.contains("local:snippets/stillpoint"), "{note}");

    assert!(done(&node, "disable --all --dry-run").contains("pct set 9001 --delete hookscript"));
    done(&node, "disable --all");
    for (vmid, before) in [9001, 9002].iter().zip(before) {
        assert_eq!(node.guest(*vmid).unwrap().config().unwrap(), before);
    }
    // Old archives name it, so it stays and does only what the hook does.
    assert_eq!(hookscript(&node, "9001 pre-stop").status.code(), Some(0));
}

#[test]
fn a_former_hookscript_is_called_counts_and_is_put_back() {
    let node = with_guest(9001);
    script(&node, "var/lib/vz/snippets/dns.sh");
    let guest = node.guest(9001).unwrap();
    let before = format!("{}hookscript: local:snippets/dns.sh\n", guest.config().unwrap());
    guest.set_config(&before).unwrap();
    assert!(done(&node, "enable 9001").contains("local:snippets/dns.sh is kept"));
    assert!(guest.has_hookscript().unwrap());
    for phase in ["pre-start", "post-start", "pre-stop", "post-stop"] {
        let output = hookscript(&node, &format!("9001 {phase}"));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(text(&output).contains(&format!("theirs: 9001 {phase}")), "{}", text(&output));
    }
    assert_eq!(called(&node).len(), 4);
    node.write("status", "7\n").unwrap();
    assert_eq!(hookscript(&node, "9001 pre-start").status.code(), Some(1), "PVE keeps it down");
    // systemd's call for the same start does not run the previous hookscript.
    let unit = run(&node, env!("CARGO_BIN_EXE_guest-hook"), "9001 pre-start unit");
    assert_eq!(unit.status.code(), Some(0));
    assert_eq!(called(&node).len(), 5);
    // A missing hookscript is reported and keeps no guest down.
    fs::rename(node.path("var/lib/vz/snippets/dns.sh"), node.path("away")).unwrap();
    let output = hookscript(&node, "9001 pre-start");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("cannot call local:snippets/dns.sh"), "{}", text(&output));
    // It cannot be put back either; without any, the guest starts, and it stays stored.
    let said = done(&node, "disable 9001");
    assert!(said.contains("does not exist"), "{said}");
    assert!(said.contains("pct set 9001 --hookscript local:snippets/dns.sh"), "{said}");
    assert!(!guest.config().unwrap().contains("hookscript"));
    fs::rename(node.path("away"), node.path("var/lib/vz/snippets/dns.sh")).unwrap();
    assert!(done(&node, "enable 9001").contains("local:snippets/dns.sh is kept"));
    done(&node, "disable 9001");
    assert_eq!(guest.config().unwrap(), before);
    done(&node, "enable 9001");
    node.write("etc/pve/stillpoint/chained/9001.json", "{").unwrap();
    let output = hookscript(&node, "9001 pre-start");
    assert_eq!(output.status.code(), Some(0), "what is damaged keeps nothing down");
    assert!(text(&output).contains("chained/9001.json"), "{}", text(&output));
    assert!(refused(&node, "disable 9001").contains("chained/9001.json"));
    guest.set_config(&before).unwrap();
    done(&node, "enable 9001");
    assert!(
        done(&node, "disable 9001")
            .contains("hookscript disabled; it is local:snippets/dns.sh again")
    );
    assert_eq!(guest.config().unwrap(), before);
    assert!(!node.path("etc/pve/stillpoint/chained/9001.json").exists());
}

#[test]
fn a_former_hookscript_is_not_called_for_another_guest_of_the_same_number() {
    let node = with_guest(9001);
    script(&node, "var/lib/vz/snippets/dns.sh");
    let guest = node.guest(9001).unwrap();
    let config = guest.config().unwrap();
    guest.set_config(&format!("{config}hookscript: local:snippets/dns.sh\n")).unwrap();
    done(&node, "enable 9001");
    let enabled = guest.config().unwrap();
    let calls = || {
        let before = called(&node).len();
        assert_eq!(hookscript(&node, "9001 post-stop").status.code(), Some(0));
        called(&node).len() - before
    };
    assert_eq!(calls(), 1);
    // For example a clone of an enabled guest that got the VMID of a guest that is gone.
    let value = |key: &str| {
        let at = enabled.find(key).unwrap() + key.len();
        enabled[at..].split([',', '\n']).next().unwrap().to_string()
    };
    let other = enabled
        .replace(&value("hwaddr="), "BC:24:11:77:77:77")
        .replace(&format!("hostname: {}", value("hostname: ")), "hostname: another");
    guest.set_config(&other).unwrap();
    assert_eq!(calls(), 0);
    let said = done(&node, "disable 9001");
    assert!(!said.contains("dns.sh"), "{said}");
    // When the guest that it belongs to is restored, it has it again.
    guest.set_config(&format!("{config}hookscript: local:snippets/dns.sh\n")).unwrap();
    done(&node, "enable 9001");
    fs::remove_file(node.path("etc/pve/nodes/sim/lxc/9001.conf")).unwrap();
    node.write("etc/pve/nodes/sim/lxc/9001.conf", &enabled).unwrap();
    assert_eq!(calls(), 1);
}

#[test]
fn one_look_at_the_cluster_records_whose_identity_each_guest_has() {
    let mut node = with_guest(9001);
    node.add_guest(GuestSpec::lxc(9002)).unwrap();
    // A damaged record does not affect the others.
    let taken = node.guest(9001).unwrap().config().unwrap();
    let mac = taken.split("hwaddr=").nth(1).unwrap()[..17].to_string();
    node.add_guest(GuestSpec::lxc(9003)).unwrap();
    let third = node.guest(9003).unwrap().config().unwrap();
    let its = third.split("hwaddr=").nth(1).unwrap()[..17].to_string();
    node.guest(9003).unwrap().set_config(&third.replace(&its, &mac)).unwrap();
    node.write("etc/pve/stillpoint/guests/9003.json", "{").unwrap();
    let said = done(&node, "enable --all");
    assert!(
        said.contains("9001: hookscript enabled, but its hardware addresses cannot be recorded"),
        "{said}"
    );
    assert!(said.contains("guests/9003.json is damaged"), "{said}");
    assert!(said.contains("9002: hookscript enabled."), "{said}");
    assert!(node.path("etc/pve/stillpoint/guests/9002.json").exists());
    assert!(!node.path("etc/pve/stillpoint/guests/9001.json").exists());
}

#[test]
fn each_job_keeps_the_note_of_this_node() {
    let node = node();
    let note = "etc/pve/stillpoint/nodes/sim.json";
    let start = || {
        let output = hook(&node, "job-start");
        assert_eq!(output.status.code(), Some(0));
        text(&output)
    };
    assert_eq!(start(), "");
    assert!(read(&node, note).contains(env!("CARGO_PKG_VERSION")));
    fs::remove_file(node.path(note)).unwrap();
    fs::remove_dir(node.path("etc/pve/stillpoint/nodes")).unwrap();
    node.write("etc/pve/stillpoint/nodes", "").unwrap();
    assert!(start().contains("cannot tell the other nodes that Stillpoint is on this one"));
    fs::remove_file(node.path("etc/pve/stillpoint/nodes")).unwrap();
    fs::remove_file(node.path("etc/pve/local")).unwrap();
    assert_eq!(start(), "");
    assert!(!node.path(note).exists(), "/etc/pve is not mounted");
}

#[test]
fn a_former_hookscript_may_start_another_guest() {
    let mut node = with_guest(9001);
    node.add_guest(GuestSpec::lxc(9002)).unwrap();
    script(&node, "var/lib/vz/snippets/db.sh");
    let ours = node.path("var/lib/vz/snippets/stillpoint");
    let web = format!("#!/bin/sh\n[ $2 != pre-start ] || {} 9002 pre-start\n", ours.display());
    node.write("var/lib/vz/snippets/web.sh", &web).unwrap();
    let web = node.path("var/lib/vz/snippets/web.sh");
    fs::set_permissions(web, fs::Permissions::from_mode(0o755)).unwrap();
    for (vmid, name) in [(9001, "web"), (9002, "db")] {
        let guest = node.guest(vmid).unwrap();
        let before = guest.config().unwrap();
        guest.set_config(&format!("{before}hookscript: local:snippets/{name}.sh\n")).unwrap();
    }
    done(&node, "enable --all");
    assert_eq!(hookscript(&node, "9001 pre-start").status.code(), Some(0));
    assert_eq!(called(&node).len(), 1, "the other guest's own hookscript is called as well");
}

#[test]
fn without_chaining_a_guest_with_a_hookscript_is_left_alone() {
    let node = with_guest(9001);
    node.write("etc/stillpoint/config.toml", "[restore]\nchain = false\n").unwrap();
    script(&node, "var/lib/vz/snippets/dns.sh");
    let guest = node.guest(9001).unwrap();
    guest
        .set_config(&format!("{}hookscript: local:snippets/dns.sh\n", guest.config().unwrap()))
        .unwrap();
    assert!(refused(&node, "enable 9001").contains("restore.chain"));
    assert!(guest.config().unwrap().contains("dns.sh"));
}

#[test]
fn where_no_storage_holds_snippets_the_command_for_it_is_named() {
    let node = with_guest(9001);
    node.write("etc/pve/storage.cfg", "dir: local\n\tpath /var/lib/vz\n\tcontent iso,backup\n")
        .unwrap();
    let said = refused(&node, "enable 9001");
    assert!(said.contains("pvesm set local --content iso,backup,snippets"), "{said}");
    assert!(!node.guest(9001).unwrap().has_hookscript().unwrap());
}

#[test]
fn a_guest_that_could_not_start_on_another_node_is_not_enabled() {
    let node = with_guest(9001);
    let members =
        "{\"nodename\": \"sim\", \"nodelist\": {\"sim\": {\"id\": 1}, \"two\": {\"id\": 2}}}";
    node.write("etc/pve/.members", members).unwrap();
    let said = refused(&node, "enable 9001");
    assert!(said.contains("moves to two could not start there"), "{said}");
    assert!(!node.guest(9001).unwrap().has_hookscript().unwrap());
    // The file is written anyway, because the other node waits for it; `stillpoint register` writes
    // it too.
    assert!(node.path("var/lib/vz/snippets/stillpoint").exists());
    fs::remove_file(node.path("var/lib/vz/snippets/stillpoint")).unwrap();
    fs::remove_file(node.path("etc/pve/stillpoint/nodes/sim.json")).unwrap();
    done(&node, "register");
    assert!(node.path("var/lib/vz/snippets/stillpoint").exists());
    let note = read(&node, "etc/pve/stillpoint/nodes/sim.json");
    node.write("etc/pve/stillpoint/nodes/two.json", &note).unwrap();
    done(&node, "enable 9001");
    done(&node, "disable 9001");
    // For a storage that all nodes share, no file of this node is needed.
    fs::remove_file(node.path("etc/pve/stillpoint/nodes/two.json")).unwrap();
    node.add_storage(
        "dir",
        "share",
        &[("path", "/srv/share"), ("content", "snippets"), ("shared", "1")],
    )
    .unwrap();
    done(&node, "enable 9001");
    assert!(
        node.guest(9001)
            .unwrap()
            .config()
            .unwrap()
            .contains("hookscript: share:snippets/stillpoint")
    );
    assert!(node.path("srv/share/snippets/stillpoint").exists());
}
