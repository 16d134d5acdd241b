//! The LXC guests of this node, each checked in its own thread and with a limit.

mod advice;
mod data;
mod engine;
mod fuse;
mod start;
mod trial;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::start::Start;
use crate::config::Settings;
use crate::doctor::ask::{Question, ask};
use crate::doctor::check::Check;
use crate::doctor::messages::{DROP_IN, FROZEN, GUEST_UNKNOWN, LOOKED_AFTER, NO_ENGINES};
use crate::engine::{Container, Engine, Engines, Info, Unreachable, at_once};
use crate::guest::{Guest, State, Volumes};
use crate::pve::{Config, Member, members};
use crate::quiesce::{self, Plan, Survey};
use crate::sys::Root;
use crate::sys::text::count;
use crate::vzdump::{GuestType, Job, Vmid};

/// For all questions about one guest. lxc-info, and each look into the guest's file system, have
/// their own limit of 5 s.
const GUEST_LIMIT: Duration = Duration::from_secs(30);

/// For the engine's answers.
const ENGINE_LIMIT: Duration = Duration::from_secs(10);

/// This many guests are checked at once.
const AT_ONCE: usize = 32;

/// Engines, each with what it reports about itself.
type Known = Vec<(Engine, Info)>;

/// What is known of a guest whose engines answer.
struct Stacks<'a> {
    vmid: Vmid,
    config: &'a Config,
    volumes: Volumes,
    /// The engines that answer.
    engines: Known,
    unreachable: Vec<Unreachable>,
    /// The containers of all engines.
    containers: Vec<Container>,
    plan: Plan,
}

/// The results for one guest.
struct Looked {
    checks: Vec<Check>,
    /// Whether it has an engine; `None` if that was not checked.
    engine: Option<bool>,
}

/// Checks every LXC guest of this node, each within its own limit of at most `limit`.
pub fn guests(root: &Root, settings: &Settings, limit: Duration) -> Vec<Check> {
    let list = {
        let root = root.clone();
        ask("guests", limit, move || listed(&root))
    };
    // The check of leftovers reports that the guests cannot be listed.
    let (members, start) = match list.answer() {
        Err(none) => return vec![none],
        Ok(listed) => listed,
    };
    let start = Arc::new(start);
    let settings = Arc::new(settings.clone());
    let mut checks = Vec::new();
    let (mut with, mut without) = (0, 0);
    for some in members.chunks(AT_ONCE) {
        let asked: Vec<Question<Looked>> = some
            .iter()
            .cloned()
            .map(|member| {
                let (root, settings, start) = (root.clone(), settings.clone(), start.clone());
                let about = format!("guest.{}", member.vmid);
                ask(about, GUEST_LIMIT.min(limit), move || guest(&root, &settings, &start, &member))
            })
            .collect();
        for question in asked {
            match question.answer() {
                Err(none) => checks.push(none),
                Ok(looked) => {
                    match looked.engine {
                        Some(true) => with += 1,
                        Some(false) => without += 1,
                        None => {}
                    }
                    checks.extend(looked.checks);
                }
            }
        }
    }
    if start.drop_in {
        checks.push(DROP_IN.check("guests.start", &[]));
    } else if with > 0 && !checks.iter().any(|check| check.about.ends_with(".start")) {
        checks.push(LOOKED_AFTER.check("guests.start", &[("count", &count(with, "guest"))]));
    }
    if without > 0 {
        checks.push(NO_ENGINES.check("guests.engine", &[("count", &count(without, "guest"))]));
    }
    checks
}

fn listed(root: &Root) -> (Vec<Member>, Start) {
    let mut members = members(root).unwrap_or_default();
    members.retain(|member| member.node.is_none());
    let start = Start::of(root, &members);
    (members, start)
}

fn guest(root: &Root, settings: &Settings, start: &Start, member: &Member) -> Looked {
    let mut looked = Looked { checks: Vec::new(), engine: None };
    let config = match member.config() {
        Ok(Some(config)) => config,
        // Removed or migrated meanwhile. The check of leftovers reports one that cannot be read.
        Ok(None) | Err(_) => return looked,
    };
    looked.checks.extend(start.can_start(member, &config));
    let vmid = member.vmid;
    let running = match running(root, member) {
        Ok(Some(running)) => running,
        Ok(None) => {
            looked.engine = Some(false).filter(|_| member.guest_type == GuestType::Lxc);
            return looked;
        }
        Err(check) => {
            looked.checks.push(check);
            return looked;
        }
    };
    let (mut volumes, note) = Volumes::of(Some(config.clone()), &running);
    looked.checks.extend(fuse::fuse(vmid, &config, volumes.mounts()));
    match ask_engines(&running) {
        Ok(None) => looked.engine = Some(false),
        Ok(Some((engines, survey))) => {
            let unfollowed = quiesce::follow_links(&mut volumes, &running, &survey.containers);
            let mut plan = quiesce::plan(vmid, &survey.containers, settings, &volumes);
            plan.notes.extend(note.into_iter().chain(unfollowed));
            plan.see_clients(&survey);
            let Survey { containers, unreachable, .. } = survey;
            let config = &config;
            let stacks = Stacks { vmid, config, volumes, engines, unreachable, containers, plan };
            looked.engine = Some(true);
            looked.checks.extend(engine::engine(&stacks, settings));
            looked.checks.push(trial::starts(root, vmid, &running));
            looked.checks.extend(data::data(&stacks));
            looked.checks.extend(start.is_looked_after(&stacks));
        }
        Err(error) => {
            looked.engine = Some(true);
            let why = Unreachable { socket: None, why: format!("{error:#}") };
            looked.checks.push(advice::unreachable(vmid, &why));
        }
    }
    looked
}

/// The guest, if it runs and is not frozen: nothing in a frozen guest answers.
fn running(root: &Root, member: &Member) -> Result<Option<Guest>, Check> {
    let vmid = member.vmid;
    let about = format!("guest.{vmid}");
    if member.guest_type == GuestType::Qemu {
        return Ok(None);
    }
    let unknown = |reason: String| {
        Err(GUEST_UNKNOWN.check(about.clone(), &[("reason", &reason), ("vmid", &vmid)]))
    };
    match State::of(root, vmid) {
        Err(error) => unknown(format!("{error:#}")),
        Ok(State::Stopped) => Ok(None),
        Ok(State::Running(guest)) if !guest.is_frozen() => match guest.tree.reach() {
            Ok(()) => Ok(Some(guest)),
            Err(error) => unknown(error.to_string()),
        },
        // A backup may have thawed it between the two checks.
        Ok(State::Running(guest)) if Job::any_at(root, vmid) || !guest.is_frozen() => Ok(None),
        Ok(State::Running(_)) => Err(FROZEN.check(about, &[("vmid", &vmid)])),
    }
}

/// What the engines report about themselves and their containers; `None` if none runs.
fn ask_engines(guest: &Guest) -> anyhow::Result<Option<(Known, Survey)>> {
    let engines = Engines::of(guest)?;
    if engines.is_empty() {
        return Ok(None);
    }
    let deadline = Instant::now() + ENGINE_LIMIT;
    let mut survey = quiesce::survey(&engines, deadline);
    let is_silent = |engine: &Engine| {
        let mut sockets = survey.unreachable.iter().filter_map(|site| site.socket.as_ref());
        sockets.any(|(path, _)| path == engine.socket())
    };
    let answered: Vec<Engine> =
        engines.reachable().filter(|engine| !is_silent(engine)).cloned().collect();
    let answers = at_once(&answered, |engine| engine.info(deadline));
    let mut known = Known::new();
    for (engine, answer) in answered.into_iter().zip(answers) {
        match answer {
            Ok(info) => known.push((engine, info)),
            Err(error) => {
                let socket = Some((engine.socket().to_string(), engine.kind()));
                survey.unreachable.push(Unreachable { socket, why: error.to_string() });
            }
        }
    }
    Ok(Some((known, survey))
        .filter(|(known, survey)| !known.is_empty() || !survey.unreachable.is_empty()))
}
