//! Containers with commands before they are stopped and after they are back: whatever dies in
//! between, the command for afterwards runs.

use anyhow::{Result, ensure};
use stillpoint_sim::vzdump::replay::{Moment, Victim};

use super::harness::{Case, Ended, Weight};
use super::matrix::{After, Boundary, Fault};
use super::scene::Scene;

const NAMES: [&str; 3] = ["db", "cache", "web"];

const VICTIMS: [Victim; 5] =
    [Victim::Hook, Victim::HookAndGuard, Victim::Group, Victim::StopButton, Victim::Everything];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in ["lxc-snapshot-1vol", "lxc-suspend"] {
        for (phase, action) in
            [("pre-stop", "stop"), ("pre-stop", "none"), ("post-restart", "stop")]
        {
            for count in 1..=if action == "none" { 3 } else { 5 } {
                let boundary = Boundary::Moment(phase, Moment::Actions(count));
                for victim in VICTIMS {
                    let fault = Fault { mode, boundary, victim, after: After::Boot };
                    cases.push(case(fault, action));
                }
            }
        }
    }
    cases
}

/// Three containers that are left running, so only the commands are visible: three before, three
/// after.
fn case(fault: Fault, action: &'static str) -> Case {
    let first = matches!(fault.boundary, Boundary::Moment(_, Moment::Actions(1)));
    let always = first && fault.mode == "lxc-snapshot-1vol";
    Case {
        fault: format!("{}, with commands", fault.row()),
        name: format!("commands-around-{action}-{}", fault.name()),
        weight: if always { Weight::Always } else { Weight::Sampled },
        run: Box::new(move || run(&fault, action)),
    }
}

fn run(fault: &Fault, action: &str) -> Result<Ended> {
    let scene = Scene::new(fault.mode, &|guest| {
        let running = |name: &str| NAMES.contains(&name);
        for container in guest.containers.iter_mut().filter(|it| running(&it.name)) {
            for (label, value) in [("quiesce", action), ("before", "begin"), ("after", "end")] {
                container.labels.insert(format!("stillpoint.{label}"), value.to_owned());
            }
        }
    });
    let ended = fault.run_in(&scene)?;
    for name in NAMES {
        let ran = scene.engine().commands(name);
        let begun = ran.iter().any(|command| command == "begin");
        ensure!(
            !begun || ran.last().is_some_and(|command| command == "end"),
            "what was begun in {name} is not ended: {ran:?}"
        );
    }
    Ok(ended)
}
