use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{print, print_json, tell};
use crate::config::{Settings, Strategy};
use crate::engine::Engines;
use crate::guest::{State, Volumes};
use crate::pve::Place;
use crate::quiesce::{self, Plan};
use crate::run::Step;
use crate::sys::Root;
use crate::sys::text::printable;
use crate::vzdump::Vmid;

/// Prints what a backup would do to the guest's containers; changes nothing.
pub fn plan(root: &Root, vmid: Vmid, as_json: bool) -> Result<()> {
    let settings = Settings::load(root);
    let config = match Place::of(root, vmid)? {
        Place::Here(config) => Some(config),
        Place::Elsewhere(node) => bail!("guest {vmid} is on node {node}: run this command there"),
        Place::Gone => None,
    };
    let guest = match State::of(root, vmid)? {
        State::Running(guest) => guest,
        State::Stopped if config.is_none() => bail!("there is no guest {vmid} on this node"),
        State::Stopped => bail!("guest {vmid} is not running: its backup stops nothing"),
    };
    if guest.is_frozen() {
        bail!(
            "guest {vmid} is frozen: `stillpoint resume {vmid}` thaws it, unless a backup of it \
             is running"
        );
    }
    let engines = Engines::of(&guest)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let survey =
        quiesce::survey(&engines, deadline).any().with_context(|| format!("guest {vmid}"))?;
    let (mut volumes, note) = Volumes::of(config, &guest);
    let unfollowed = quiesce::follow_links(&mut volumes, &guest, &survey.containers);
    let mut plan = quiesce::plan(vmid, &survey.containers, &settings, &volumes);
    plan.notes.extend(note.into_iter().chain(unfollowed));
    plan.see_clients(&survey);
    plan.see_engines(&engines, &volumes, deadline);
    plan.notes.extend(plan.incomplete.clone());
    if let Some(complaint) = &settings.complaint {
        eprintln!("{}", printable(complaint, 1000));
    }
    let limit = plan.time_limit(&settings);
    let unreachable: Vec<String> = survey.unreachable.iter().map(ToString::to_string).collect();
    if as_json {
        let waves: Vec<Vec<_>> = plan
            .waves()
            .into_iter()
            .map(|wave| wave.into_iter().map(step_json).collect())
            .collect();
        let plan = json!({
            "vmid": vmid,
            "stop_order": waves,
            "time_limit_s": limit.as_secs(),
            "hold_limit_s": settings.quiesce.hold_limit.as_secs(),
            "unreachable": unreachable,
            "notes": plan.notes,
        });
        return print_json(&serde_json::to_string_pretty(&plan)?);
    }
    if plan.steps.is_empty() {
        print(&format!("Guest {vmid}: no container is running, nothing would be stopped."))?;
    } else {
        print(&format!("Guest {vmid}: for the instant of the snapshot, in this order:"))?;
        for (number, wave) in plan.waves().iter().enumerate() {
            for step in wave {
                tell(&format!("  {}. {}", number + 1, step_line(step, several(&plan))))?;
            }
        }
        print(&format!(
            "They start again in reverse order. If the stop takes longer than {} s, all are \
             started again at once.",
            limit.as_secs()
        ))?;
    }
    for why in &unreachable {
        let what = "its containers run on, and the backup is crash-consistent";
        tell(&format!("Warning: {why}; {what}"))?;
    }
    for note in &plan.notes {
        tell(&format!("Note: {note}"))?;
    }
    Ok(())
}

/// Whether the containers belong to more than one engine.
fn several(plan: &Plan) -> bool {
    plan.steps.windows(2).any(|steps| steps[0].engine != steps[1].engine)
}

fn step_line(step: &Step, several: bool) -> String {
    let name = printable(&step.name, 80);
    let stack = match (&step.project, &step.service) {
        (Some(project), Some(service)) => {
            format!(" ({}/{})", printable(project, 60), printable(service, 60))
        }
        _ => String::new(),
    };
    let action = match step.action {
        Strategy::Stop => format!("stop, at most {} s", step.stop_timeout),
        Strategy::Pause => "pause".to_string(),
        Strategy::None => "leave running".to_string(),
    };
    let left_out = match step.not_in_backup.as_slice() {
        [] => String::new(),
        paths => {
            let paths: Vec<String> = paths.iter().map(|path| printable(path, 200)).collect();
            format!("; not in the backup: {}", paths.join(", "))
        }
    };
    let before = match &step.before {
        Some(command) => format!("run `{}`, then ", printable(command, 200)),
        None => String::new(),
    };
    let engine = match several {
        true => format!(", in the engine at {}", step.engine),
        false => String::new(),
    };
    format!("{name}{stack}{engine}: {before}{action}{left_out}")
}

fn step_json(step: &Step) -> serde_json::Value {
    json!({
        "id": step.id,
        "engine": step.engine,
        "name": step.name,
        "stack": step.project,
        "service": step.service,
        "before": step.before,
        "action": step.action,
        "stop_timeout_s": step.stop_timeout,
        "not_in_backup": step.not_in_backup,
    })
}
