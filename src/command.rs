//! What the `stillpoint` command does, for people and for systemd.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::config::Settings;
use crate::engine::Engine;
use crate::guest::{Place, State};
use crate::journal::{Entry, Journal};
use crate::quiesce::{self, BroughtBack, Errand, Plan};
use crate::run::Step;
use crate::sys::text::{count, printable};
use crate::sys::{Root, detach};
use crate::verify::{self, Pending};
use crate::vzdump::Vmid;

/// A verify that the server has not ended after this is not waited for any longer.
const COLLECT_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A person waits no longer than this.
const PERSON_LIMIT: Duration = Duration::from_secs(180);

/// Runs `guard VMID`, `settle VMID` or `collect`, which a hook starts for what must outlive its caller, and returns
/// the exit status; `None` for any other arguments.
pub fn detached(root: &Root, arguments: &[String]) -> Option<u8> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["guard", vmid] => vmid.parse().and_then(|vmid| quiesce::guard(root, vmid)),
        ["settle", vmid] => vmid.parse().and_then(|vmid| quiesce::settle(root, vmid).map(drop)),
        ["collect"] => collect(root),
        _ => return None,
    };
    Some(u8::from(done.is_err()))
}

/// Collects every pending verify.
pub fn collect(root: &Root) -> Result<()> {
    verify::collect(root, None, Instant::now() + COLLECT_LIMIT).map(drop)
}

/// Brings back, at boot, what interrupted backups left at rest.
pub fn recover(root: &Root) -> Result<()> {
    for line in quiesce::recover(root, "recover", PERSON_LIMIT)? {
        print(&line)?;
    }
    if !Pending::all(root)?.is_empty() {
        detach::start(root, "stillpoint-collect-boot", &["collect"])?;
    }
    Ok(())
}

/// Brings back the containers of a guest now.
pub fn resume(root: &Root, vmid: Vmid) -> Result<()> {
    let deadline = Instant::now() + PERSON_LIMIT;
    let errand = Errand { by: "person", reason: "a person asked for it", close: false, run: None };
    tell(vmid, quiesce::bring_back(root, vmid, deadline, errand)?)
}

/// Starts what the guest itself says was running when it was backed up.
pub fn settle(root: &Root, vmid: Vmid) -> Result<()> {
    tell(vmid, quiesce::settle(root, vmid)?)
}

fn tell(vmid: Vmid, brought_back: BroughtBack) -> Result<()> {
    match brought_back {
        BroughtBack::Nothing => print(&format!("Guest {vmid}: nothing is waiting to be started.")),
        BroughtBack::All(number) => {
            print(&format!("Guest {vmid}: {} started.", count(number, "container")))
        }
        BroughtBack::NotYet(why) => bail!("guest {vmid} is not back yet: {why}"),
    }
}

/// Prints what a backup would do to the guest's containers; touches nothing.
pub fn plan(root: &Root, vmid: Vmid, as_json: bool) -> Result<()> {
    let settings = Settings::load(root);
    let config = match Place::of(root, vmid)? {
        Place::Here(config) => Some(config),
        Place::Elsewhere(node) => bail!("guest {vmid} is on node {node}: ask there"),
        Place::Gone => None,
    };
    let guest = match State::of(root, vmid)? {
        State::Running(guest) => guest,
        State::Stopped => bail!("guest {vmid} is not running: its backup stops nothing"),
    };
    if guest.is_frozen() {
        bail!("guest {vmid} is frozen: thaw it with `lxc-unfreeze -n {vmid}`");
    }
    let plan = match Engine::of(&guest)? {
        None => Plan::default(),
        Some(engine) => {
            let containers = quiesce::survey(&engine, Instant::now() + Duration::from_secs(20))
                .with_context(|| format!("guest {vmid}"))?;
            quiesce::plan(vmid, &containers, &settings, config.as_ref())
        }
    };
    if let Some(complaint) = &settings.complaint {
        eprintln!("{}", printable(complaint, 1000));
    }
    let limit = plan.time_limit(&settings);
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
            "notes": plan.notes,
        });
        return print(&serde_json::to_string_pretty(&plan)?);
    }
    if plan.steps.is_empty() {
        return print(&format!("Guest {vmid}: no container is running, nothing would be stopped."));
    }
    print(&format!("Guest {vmid}: for the instant of the snapshot, in this order:"))?;
    for (number, wave) in plan.waves().iter().enumerate() {
        for step in wave {
            print(&format!("  {}. {}", number + 1, step_line(step)))?;
        }
    }
    print(&format!("and back in reverse. Within {} s, or none of it.", limit.as_secs()))?;
    for note in &plan.notes {
        print(&format!("Note: {note}"))?;
    }
    Ok(())
}

fn step_line(step: &Step) -> String {
    use crate::config::Strategy;
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
            format!("; NOT in the backup: {}", paths.join(", "))
        }
    };
    format!("{name}{stack}: {action}{left_out}")
}

fn step_json(step: &Step) -> serde_json::Value {
    json!({
        "id": step.id,
        "name": step.name,
        "stack": step.project,
        "service": step.service,
        "action": step.action,
        "stop_timeout_s": step.stop_timeout,
        "not_in_backup": step.not_in_backup,
    })
}

/// Prints the journal, all of it or that of one guest.
pub fn journal(root: &Root, guest: Option<Vmid>, as_json: bool) -> Result<()> {
    let mut printed = Ok(());
    Journal::of(root).read(|entry| {
        let line = match entry {
            Entry::Damaged { file, line, reason } => {
                eprintln!("{}, line {line}, is damaged: {reason}", file.display());
                return true;
            }
            Entry::Record(record) => {
                if guest.is_some_and(|guest| record["vmid"] != guest.0) {
                    return true;
                }
                if as_json { record.to_string() } else { crate::report::record::line(&record) }
            }
        };
        printed = print(&line);
        printed.is_ok()
    })?;
    printed
}

/// A reader that has seen enough (`| head`) is no error worth a message.
fn print(line: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("standard output"),
    }
}
