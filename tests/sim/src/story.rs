//! Shows a whole backup, verify and restore on the simulated node as a timeline for newcomers.

use crate::engine::{Engine, What};
use crate::hooks::Binaries;
use crate::node::restore::{Image, value};
use crate::node::{Guest, Node};
use crate::vzdump::plan::Step;
use crate::vzdump::replay::{Happening, Options, replay};
use crate::vzdump::report::Report;
use crate::vzdump::stage::stage;
use crate::vzdump::trace::Scenario;
use anyhow::{Context, Result, bail};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Recorded runs of the real vzdump; the story uses the one with a backup server.
const RECORDED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/vzdump/traces.json"));
const CHAPTER: &str = "lxc-snapshot-pbs";

const ORIGINAL: u32 = 9001;
const COPY: u32 = 9002;

/// How long the copy's stacks may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One line of the timeline.
struct Line {
    at: Instant,
    who: &'static str,
    text: String,
}

type Lines = Arc<Mutex<Vec<Line>>>;

/// Plays the backup, then the restore beside the original, and prints the story.
///
/// # Errors
/// If the simulation fails, or backup or restore do not end as promised.
pub fn tell(binaries: &Binaries) -> Result<()> {
    let scenario = Scenario::parse(RECORDED)?.into_iter().find(|found| found.name == CHAPTER);
    let scenario = scenario.context("the recording to tell is not there")?;
    let mut node = stage(&scenario, None, binaries, &|guest| guest.hookscript = true)?;
    println!(
        "A Proxmox node with one container guest, 9001. In it Docker runs a small shop: a database, a\n\
         cache and a web server. vzdump is about to back the guest up to a Proxmox Backup Server, in\n\
         mode snapshot. It calls Stillpoint at every phase, exactly as a real vzdump was recorded to.\n"
    );
    let lines = Lines::default();
    let observed = Arc::clone(&lines);
    let original = Arc::clone(node.guest(ORIGINAL)?);
    let (image, instant) = (Arc::new(Mutex::new(None)), Arc::clone(&original));
    let taken = Arc::clone(&image);
    let options = Options {
        observer: Some(Arc::new(move |happening| {
            if matches!(happening, Happening::Did(Step::Instant(_))) {
                *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(Image::of(&instant));
            }
            observe(&observed, happening);
        })),
        ..Options::default()
    };
    let begin = Instant::now();
    let report = replay(&node, &scenario, &options)?;
    let mut lines = std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner));
    let containers = containers(&node);
    let downtime = downtime(&containers);
    lines.extend(containers);
    lines.sort_by_key(|line| line.at);
    print(&lines, begin);
    finish(&report, downtime)?;
    let image = image.lock().unwrap_or_else(PoisonError::into_inner).take();
    restored(&mut node, &image.context("the recording has no storage snapshot")??)
}

fn print(lines: &[Line], begin: Instant) {
    for line in lines {
        let seconds = line.at.duration_since(begin).as_secs_f64();
        println!("{seconds:7.3} s  {:<10} {}", line.who, line.text);
    }
}

/// Restores the backup as another guest while the original runs.
fn restored(node: &mut Node, image: &Image) -> Result<()> {
    println!(
        "\nThe backup is restored as guest {COPY}, beside the original: with its hostname, its MAC, its machine-id,\n\
         and with its shop down, for that is how it was copied. Somebody starts it.\n"
    );
    let begin = Instant::now();
    node.restore(image, COPY)?;
    let mut lines = Vec::new();
    node.start(COPY, &mut |phase, said| {
        let mut text = format!("{COPY} {phase}");
        for line in said.lines() {
            text.push_str(&format!("\n                       | {line}"));
        }
        lines.push(Line { at: Instant::now(), who: "hook", text });
    })?;
    let copy = Arc::clone(node.guest(COPY)?);
    let deadline = Instant::now() + PATIENCE;
    let running = |guest: &Guest| -> Vec<String> {
        let containers = guest.engine.iter().flat_map(Engine::containers);
        containers.filter(|c| c.status.is_alive()).map(|c| c.spec.name).collect()
    };
    let wanted = running(node.guest(ORIGINAL)?);
    // The last thing that settling does.
    while !node.journal()?.iter().any(|record| record["kind"] == "settled") {
        if Instant::now() > deadline {
            bail!("the shop of guest {COPY} did not come up: {:?}", running(&copy));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    lines.extend(events(&copy));
    lines.sort_by_key(|line| line.at);
    print(&lines, begin);
    println!();
    let original = Arc::clone(node.guest(ORIGINAL)?);
    for (what, of) in [("hostname", "hostname"), ("MAC", "net0")] {
        let told = |guest: &Guest| -> Result<String> {
            let config = guest.config()?;
            let value = value(&config, of).context("a guest without a name or a net")?;
            let mac = value.split(',').find_map(|part| part.strip_prefix("hwaddr="));
            Ok(mac.unwrap_or(value).to_owned())
        };
        tell_apart(what, &told(&original)?, &told(&copy)?)?;
    }
    let machine_id = |guest: &Guest| {
        let path = guest.dir().join("root/etc/machine-id");
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    tell_apart("machine-id", machine_id(&original)?.trim(), machine_id(&copy)?.trim())?;
    if running(&copy) != wanted {
        bail!("in guest {COPY} run {:?}, in the original {wanted:?}", running(&copy));
    }
    println!("In both the shop runs: {}.", wanted.join(", "));
    Ok(())
}

fn tell_apart(what: &str, original: &str, copy: &str) -> Result<()> {
    println!("{what:<11} {ORIGINAL}: {original}\n{:<11} {COPY}: {copy}", "");
    if original == copy {
        bail!("the copy shares its {what} with the original");
    }
    Ok(())
}

fn observe(lines: &Lines, happening: &Happening) {
    let (who, text) = match happening {
        Happening::Called(argv) => ("hook", argv.join(" ")),
        Happening::Did(Step::Freeze(_)) => ("vzdump", "freezes the guest".to_owned()),
        Happening::Did(Step::Instant(_)) => (
            "vzdump",
            "takes the storage snapshot: this instant is what the backup holds".to_owned(),
        ),
        Happening::Did(Step::Thaw(_)) => ("vzdump", "thaws the guest".to_owned()),
        Happening::Did(Step::ArchiveBegins(_)) => {
            ("vzdump", "reads the snapshot and sends it to the backup server".to_owned())
        }
        Happening::Did(Step::ArchiveEnds(_)) => ("vzdump", "the archive is complete".to_owned()),
        Happening::Ended(call) if call.said.is_empty() => return,
        Happening::Ended(call) => {
            ("", format!("| {}", call.said.join("\n                       | ")))
        }
        Happening::Worker(upid) => ("vzdump", format!("begins the job {upid}")),
        _ => return,
    };
    let line = Line { at: Instant::now(), who, text };
    lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
}

fn containers(node: &Node) -> Vec<Line> {
    node.guests().flat_map(|guest| events(guest)).collect()
}

fn events(guest: &Guest) -> Vec<Line> {
    let told = guest.engine.iter().flat_map(Engine::events).map(|event| {
        let name = &event.name;
        let text = match event.what {
            What::StopAsked => format!("{name} is asked to stop"),
            What::Stopped(code) => format!("{name} is down (exit status {code})"),
            What::StartAsked => format!("{name} is asked to start"),
            What::Started => format!("{name} is up"),
            What::StartedByPolicy => format!("{name} is up, started by the engine"),
            What::Paused => format!("{name} is paused"),
            What::Unpaused => format!("{name} goes on"),
            What::Removed => format!("{name} is gone"),
            What::Created => format!("{name} is made"),
            What::Tried => format!("{name} is asked to start, and can't: it has no program"),
            What::Ran => format!("{name} runs a command"),
        };
        Line { at: event.at, who: "container", text }
    });
    told.collect()
}

fn downtime(containers: &[Line]) -> Option<std::time::Duration> {
    let first = containers.iter().find(|line| line.text.ends_with("asked to stop"))?;
    let last = containers.iter().rev().find(|line| line.text.ends_with("is up"))?;
    Some(last.at.duration_since(first.at))
}

fn finish(report: &Report, downtime: Option<std::time::Duration>) -> Result<()> {
    println!();
    for task in &report.pbs_tasks {
        let ended = task["exitstatus"].as_str().unwrap_or("still running");
        let snapshot = task["snapshot"].as_str().unwrap_or_default();
        println!(
            "On the backup server: task {} of {snapshot}: {ended}",
            task["type"].as_str().unwrap_or("?")
        );
    }
    println!("In the journal:");
    for record in &report.journal {
        let kind = record["kind"].as_str().unwrap_or("?");
        let facts = ["outcome", "grade", "state", "downtime_ms", "target"];
        let facts = facts.iter().filter_map(|fact| match &record[fact] {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(format!("{fact} {text}")),
            other => Some(format!("{fact} {other}")),
        });
        println!("  {kind}: {}", facts.collect::<Vec<_>>().join(", "));
    }
    if let Some(downtime) = downtime {
        println!(
            "The shop was down for {:.2} s; the backup holds it cleanly shut down.",
            downtime.as_secs_f64()
        );
    }
    let lost = report.lost();
    if !lost.is_empty() {
        bail!("containers that ran before do not run now: {}", lost.join(", "));
    }
    if !report.runs_left.is_empty() {
        bail!("left over in runs: {}", report.runs_left.join(", "));
    }
    println!("Every container that ran before runs again.");
    Ok(())
}
