//! `stillpoint doctor`: every message, the report's format, and that it never waits for ever.

#[path = "doctor/bench.rs"]
mod bench;
#[path = "doctor/scenes.rs"]
mod scenes;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use stillpoint::doctor::{
    Check, Clock, Level, MESSAGES, Message, ask, clock, examine, examine_storage, space,
};
use stillpoint::sys::Root;
use stillpoint_sim::engine::Hostile;
use stillpoint_sim::engine::container::{Restart, Spec};
use stillpoint_sim::engine::stack::throwaway;
use stillpoint_sim::node::{GuestSpec, config};
use stillpoint_sim::vzdump::bystander::{Bystander, Title};

use bench::{Said, doctor, sound, told};
use scenes::SCENES;

/// Whether the text is this message with some values filled in.
fn fits(text: &str, message: &Message) -> bool {
    let mut rest = text;
    for (index, part) in message.text.split('{').enumerate() {
        let fixed = if index == 0 { part } else { part.split_once('}').unwrap().1 };
        match rest.find(fixed) {
            Some(0) => rest = &rest[fixed.len()..],
            Some(at) if index > 0 => rest = &rest[at + fixed.len()..],
            _ => return false,
        }
    }
    rest.is_empty() || message.text.ends_with('}')
}

fn message(name: &str) -> Message {
    MESSAGES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}")).1
}

#[test]
fn every_message_is_reached() {
    let mut reached = BTreeSet::new();
    let mut see = |about: &str, name: &'static str, said: &[Check]| {
        let wanted = message(name);
        let found = said.iter().find(|check| {
            check.about == about && check.level == wanted.level && fits(&check.message, &wanted)
        });
        let found = found.unwrap_or_else(|| panic!("{about} {name} is not in {said:#?}"));
        assert!(found.fix.len() >= wanted.fix.len(), "{found:?}");
        for line in found.fix.iter().chain([&found.message]) {
            assert!(!line.contains('{') || line.contains("\\u{"), "a value is missing: {line}");
        }
        reached.insert(name);
    };
    for scene in SCENES {
        let mut node = sound();
        (scene.arrange)(&mut node);
        let said = told(&node, scene.arguments);
        for (about, name) in scene.told {
            see(about, name, &said.checks);
        }
    }
    // These depend on the machine that runs the test.
    see("node.clock", "CLOCK_FREE", &[clock(Clock::default())]);
    let free = |free| [space("node.space", "/x", "journal and state", free)];
    see("node.space", "LITTLE_SPACE", &free(Ok(100 << 20)));
    see("node.space", "NO_SPACE", &free(Ok(0)));
    see("node.space", "SPACE_UNKNOWN", &free(Err(std::io::ErrorKind::NotFound.into())));
    let read_only = std::io::ErrorKind::ReadOnlyFilesystem;
    see("node.space", "READ_ONLY", &free(Err(read_only.into())));
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let hung = ask("guest.9001", Duration::ZERO, move || ended.recv().map_or(vec![], |()| vec![]));
    see("guest.9001", "NO_ANSWER", &hung.checks());
    drop(end);

    let unreached: Vec<&str> =
        MESSAGES.iter().map(|(name, _)| *name).filter(|name| !reached.contains(name)).collect();
    assert_eq!(unreached, Vec::<&str>::new(), "no scene makes doctor say this");
}

#[test]
fn a_sound_node_is_ok_throughout() {
    let node = sound();
    let said = told(&node, &[]);
    let odd: Vec<&Check> = said.checks.iter().filter(|check| check.level != Level::Ok).collect();
    assert!(odd.is_empty(), "{odd:#?}");
    assert_eq!(said.status, 0);
}

#[test]
fn storages_are_looked_at_with_the_rest_and_by_themselves() {
    let node = sound();
    std::fs::remove_file(node.path("etc/pve/priv/storage/offsite.pw")).unwrap();
    let of_storage = |check: &&Check| check.about.starts_with("storage.offsite.");
    let all = told(&node, &[]);
    let one = told(&node, &["--storage", "offsite"]);
    assert_eq!((all.status, one.status), (2, 2));
    assert!(one.checks.iter().all(|check| of_storage(&check)), "{:#?}", one.checks);
    let with_the_rest: Vec<&Check> = all.checks.iter().filter(of_storage).collect();
    assert_eq!(with_the_rest, one.checks.iter().collect::<Vec<_>>());
}

#[test]
fn the_exit_status_is_that_of_the_worst_check() {
    let node = sound();
    std::fs::remove_file(node.path("usr/sbin/sendmail")).unwrap();
    assert_eq!(told(&node, &[]).status, 1);
    node.write("etc/vzdump.conf", "").unwrap();
    assert_eq!(told(&node, &[]).status, 2);
}

#[test]
fn the_report_in_json_has_this_shape() {
    let node = sound();
    node.write("etc/vzdump.conf", "").unwrap();
    let output = doctor(&node, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["checks", "node", "schema", "version", "worst"]);
    assert_eq!(report["schema"], 1);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["node"], "sim");
    assert_eq!(report["worst"], "fail");
    let script = report["checks"].as_array().unwrap().iter();
    let script = script.clone().find(|check| check["about"] == "vzdump.script").unwrap();
    assert_eq!(
        *script,
        serde_json::json!({
            "level": "fail",
            "about": "vzdump.script",
            "message": "vzdump does not call Stillpoint: /etc/vzdump.conf has no script",
            "fix": ["stillpoint register"],
        })
    );
}

#[test]
fn a_pipe_gets_no_colours_and_80_columns() {
    let node = sound();
    node.write("etc/vzdump.conf", "script: /usr/local/bin/other\n").unwrap();
    let output = doctor(&node, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'), "{text}");
    assert!(text.lines().any(|line| line.starts_with("fail  vzdump.script ")), "{text}");
    assert!(text.lines().any(|line| line.ends_with("     stillpoint register")), "{text}");
    assert!(text.lines().last().unwrap().ends_with(" 0 warn, 1 fail."), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn guests_that_mean_harm_are_asked_and_left() {
    let all = [
        Hostile::Silent,
        Hostile::Trickle,
        Hostile::EndlessList,
        Hostile::Deep(100_000),
        Hostile::Garbage,
        Hostile::Hangup,
    ];
    let try_one = |hostile: Hostile| {
        let node = sound();
        let guest = node.guest(9001).unwrap();
        guest.engine.as_ref().unwrap().configure(|engine| engine.hostile = Some(hostile.clone()));
        let Said { checks, raw, .. } = told(&node, &[]);
        let engine = checks.iter().find(|check| check.about == "guest.9001.engine").unwrap();
        assert_eq!(engine.level, Level::Fail, "{hostile:?}: {engine:?}");
        assert!(!raw.contains('\x1b'), "{hostile:?}");
        let others = checks.iter().filter(|check| check.level != Level::Ok).count();
        assert_eq!(others, 1, "{hostile:?}: {checks:#?}");
    };
    std::thread::scope(|scope| {
        for hostile in all {
            scope.spawn(move || try_one(hostile));
        }
    });
}

#[test]
fn what_a_backup_needs_while_it_is_under_way_is_not_left_over() {
    let mut node = sound();
    node.add_guest(GuestSpec::qemu(100)).unwrap();
    for vmid in [100, 9001] {
        node.guest(vmid).unwrap().set_lock(Some("backup")).unwrap();
    }
    let guest = node.guest(9001).unwrap();
    guest.set_config(&config::with_snapshot(&guest.config().unwrap())).unwrap();
    guest.set_marker("frozen", true).unwrap();
    let log = "INFO: Starting Backup of VM 9001 (lxc)\n";
    let vzdump = Bystander::start(&node, Title::True, log).unwrap();
    let said = told(&node, &[]);
    drop(vzdump);
    let odd: Vec<&Check> = said.checks.iter().filter(|check| check.level != Level::Ok).collect();
    assert_eq!(odd.len(), 1, "{odd:#?}");
    assert_eq!(
        (odd[0].about.as_str(), odd[0].fix[0].as_str()),
        ("guest.100.lock", "qm unlock 100")
    );
    let abouts: Vec<String> =
        told(&node, &[]).checks.into_iter().map(|check| check.about).collect();
    for left in ["guest.9001", "guest.9001.lock", "guest.9001.snapshot"] {
        assert!(abouts.iter().any(|about| about == left), "vzdump is gone: {abouts:?}");
    }
}

#[test]
fn a_command_holds_nothing_that_a_guest_made_up() {
    let node = sound();
    let mut spec = Spec::service("shop", "$(reboot)").restart(Restart::No);
    spec.volumes = vec![("/srv/$(reboot)".to_string(), "/data".to_string())];
    let engine = node.guest(9001).unwrap().engine.as_ref().unwrap();
    engine.add(spec);
    let id = engine.containers().into_iter().find(|c| c.spec.name == "$(reboot)").unwrap().id;
    let guest = node.guest(9001).unwrap();
    let text = guest.config().unwrap().replace("net0:", "mp0: local:a,mp=/srv\nnet0:");
    guest.set_config(&text).unwrap();
    let said = told(&node, &[]);
    let fixes: Vec<&String> = said.checks.iter().flat_map(|check| &check.fix).collect();
    assert!(fixes.iter().any(|fix| fix.contains(&id)), "{fixes:?}");
    assert!(!fixes.iter().any(|fix| fix.contains("reboot")), "{fixes:?}");
}

#[test]
fn a_task_that_is_meant_to_end_may_stay_down() {
    let node = sound();
    let engine = node.guest(9001).unwrap().engine.as_ref().unwrap();
    for (name, label) in [("migrate", "True"), ("cron", "False")] {
        let oneoff = "com.docker.compose.oneoff";
        engine.add(Spec::service("shop", name).restart(Restart::No).label(oneoff, label));
    }
    let mut by_hand = throwaway();
    by_hand.labels.clear();
    engine.add(by_hand);
    let said = told(&node, &[]);
    let check = said.checks.iter().find(|check| check.about == "guest.9001.restart").unwrap();
    assert!(check.message.starts_with("cron will stay down"), "{check:?}");
    let command = "pct exec 9001 -- docker update --restart unless-stopped cron";
    assert_eq!(check.fix, [command]);
}

#[test]
fn what_never_answers_is_left_behind() {
    let began = Instant::now();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let hung = ask("hung", Duration::from_millis(20), move || ended.recv().is_ok());
    let sound = ask("sound", Duration::from_secs(600), || 7);
    assert_eq!(sound.answer().unwrap(), 7);
    assert_eq!(hung.answer().unwrap_err().level, Level::Fail);
    assert!(began.elapsed() < Duration::from_secs(300));
    drop(end);
    let panics = ask("panics", Duration::from_secs(600), || -> u8 { panic!("on purpose") });
    assert_eq!(panics.answer().unwrap_err().about, "panics");
}

#[test]
fn files_that_never_answer_are_named() {
    let node = sound();
    for path in [
        "etc/vzdump.conf",
        "etc/stillpoint/config.toml",
        "etc/pve/jobs.cfg",
        "etc/pve/.members",
        "etc/pve/storage.cfg",
        "etc/pve/lxc/9001.conf",
        "var/lib/stillpoint/journal.jsonl",
    ] {
        let path = node.path(path);
        if path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let report = examine(&Root::at(node.root()), Duration::from_secs(1));
    let wanted = message("NO_ANSWER");
    let named = report.checks.iter().filter(|check| fits(&check.message, &wanted));
    let named: BTreeSet<&str> = named.map(|check| check.about.as_str()).collect();
    for about in ["vzdump", "settings", "jobs", "cluster", "storages", "guests", "state"] {
        assert!(named.contains(about), "{about} is not in {named:?}");
    }
    let report = examine_storage(&Root::at(node.root()), "offsite", Duration::from_secs(1));
    assert_eq!(report.checks[0].about, "storage.offsite");
    assert_eq!(report.exit_status(), 2);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let node = sound();
    let mut child =
        bench::command(&node, &[]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
