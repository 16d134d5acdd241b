//! The answers of a guest's container engine, and the plan made from them.

use std::collections::HashSet;
use std::path::Path;

use stillpoint::config::{Settings, Strategy};
use stillpoint::engine::{Container, Info, Status};
use stillpoint::guest;
use stillpoint::pve::Config;
use stillpoint::quiesce::{self, Plan, start_order};
use stillpoint::vzdump::Vmid;

use super::{assert_fit_for_a_terminal, assert_short_words};

/// The answer to an inspection.
pub fn container(input: &[u8]) {
    match Container::parse(input) {
        Ok(container) => check(&container),
        Err(why) => assert_short_words(&why),
    }
}

/// The answer to a list.
pub fn container_list(input: &[u8]) {
    match Container::parse_list(input) {
        Ok(ids) => ids.iter().for_each(|id| assert_id(id)),
        Err(why) => assert_short_words(&why),
    }
}

/// An engine's answer about itself.
pub fn info(input: &[u8]) {
    match Info::parse(input) {
        Ok(info) => {
            assert!(info.version.chars().count() <= 40, "{}", info.version);
            let is_path = |path: &String| path.starts_with('/') && path.len() <= 4096;
            assert!(info.data_root.iter().all(is_path), "{:?}", info.data_root);
        }
        Err(why) => assert_short_words(&why),
    }
}

/// `/proc/1/mountinfo` of a guest.
pub fn mountinfo(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mounts = guest::Mounts::parse(&text);
    for (point, _) in mounts.below("/").chain(mounts.at("/")) {
        assert!(point.starts_with('/') && point.len() <= 4096, "{point}");
        let within = format!("{point}/a");
        assert!(mounts.at(&within).is_some(), "{point}");
        let volumes = guest::Volumes::new(None, mounts.clone());
        if let Some(left_out) = volumes.left_out(&within) {
            assert!(Path::new(&within).starts_with(left_out.point()), "{point}");
        }
    }
}

/// Each line is an inspected container, or a line of the guest's configuration.
pub fn plan(input: &[u8]) {
    let mut containers = Vec::new();
    let mut config = String::new();
    for line in input.split(|byte| *byte == b'\n') {
        match Container::parse(line) {
            Ok(container) => containers.push(container),
            Err(_) => config += &format!("{}\n", String::from_utf8_lossy(line)),
        }
    }
    let mounts = guest::Mounts::parse(&config);
    let volumes = guest::Volumes::new(Some(Config::parse(&config)), mounts);
    let settings = Settings::default();
    let plan = quiesce::plan(Vmid(9001), &containers, &settings, &volumes);

    let running: Vec<&Container> =
        containers.iter().filter(|container| container.status == Status::Running).collect();
    assert_eq!(plan.steps.len(), running.len(), "one step for each that runs");
    for (step, container) in plan.steps.iter().zip(running) {
        assert_eq!(step.id, container.id);
        assert!(step.after.iter().all(|other| *other < plan.steps.len()), "{:?}", step.after);
        let precious = container.auto_remove || container.is_swarm_task();
        assert!(!precious || step.action != Strategy::Stop, "a stop deletes it");
        assert!(step.not_in_backup.iter().all(|path| volumes.left_out(path).is_some()));
    }
    plan.notes.iter().for_each(|note| assert_fit_for_a_terminal(note));
    assert!(plan.time_limit(&settings) < settings.quiesce.hold_limit);
    assert_order(&plan);
}

/// Everything is stopped once, after what depends on it, and started once, before that.
fn assert_order(plan: &Plan) {
    let mut stopped = HashSet::new();
    for wave in plan.waves() {
        let earlier = stopped.clone();
        for step in wave {
            let index = plan.steps.iter().position(|other| std::ptr::eq(other, step)).unwrap();
            assert!(step.after.iter().all(|other| earlier.contains(other)), "{step:?}");
            assert!(stopped.insert(index), "stopped twice: {step:?}");
        }
    }
    assert_eq!(stopped.len(), plan.steps.len(), "a circle");
    let waits_for = start_order(&plan.steps);
    for (index, step) in plan.steps.iter().enumerate() {
        assert!(step.after.iter().all(|other| waits_for[*other].contains(&index)));
    }
}

/// The waiting relation has no circle, and every index in it exists.
pub fn assert_ends(waits_for: &[Vec<usize>]) {
    let mut done = vec![false; waits_for.len()];
    loop {
        let ready = |index: usize| waits_for[index].iter().all(|other| done[*other]);
        let now: Vec<usize> = (0..done.len()).filter(|i| !done[*i] && ready(*i)).collect();
        if now.is_empty() {
            break;
        }
        now.into_iter().for_each(|index| done[index] = true);
    }
    assert!(done.iter().all(|done| *done), "some wait for ever: {waits_for:?}");
}

fn assert_id(id: &str) {
    let plain = id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let sound = plain && id.len() <= 128 && id.starts_with(|c: char| c.is_ascii_alphanumeric());
    assert!(sound, "not an id: {id:?}");
}

fn check(container: &Container) {
    assert_id(&container.id);
    assert!(!container.name.starts_with('/') && container.name.chars().count() <= 255);
    assert!(container.started_at.chars().count() <= 64);
    assert!(container.finished_at.chars().count() <= 64);
    let _ = container.ran_for();
    assert!(container.stop_timeout <= 24 * 3600);
    assert!(container.labels.len() <= 256 && container.data.len() <= 64);
    for (key, value) in &container.labels {
        let prefixes = ["com.docker.compose.", "com.docker.swarm.", "stillpoint."];
        assert!(prefixes.iter().any(|prefix| key.starts_with(prefix)), "{key}");
        assert!(key.len() <= 4096 && value.len() <= 4096);
    }
    assert!(
        container.data.iter().all(|data| data.path.starts_with('/') && data.path.len() <= 4096)
    );
    assert!(container.depends_on().all(|service| !service.contains([',', ':'])));
}
