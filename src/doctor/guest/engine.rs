use super::{Stacks, advice};
use crate::config::Settings;
use crate::doctor::check::Check;
use crate::doctor::message::{Names, Values, quoted};
use crate::doctor::messages::{ENGINE, PLAN, SLOW_STOP, STAYS_DOWN};
use crate::engine::{Container, Engine, Info, Restart, Status};
use crate::sys::text::{count, printable};

/// Compose's label of a container of `docker compose run`, which is meant to end.
const ONE_OFF: &str = "com.docker.compose.oneoff";

pub fn engine(stacks: &Stacks<'_>, settings: &Settings) -> Vec<Check> {
    let vmid = stacks.vmid;
    let name = stacks.config.hostname.as_deref().unwrap_or("a guest without a name");
    let mut checks = Vec::new();
    for (engine, info) in &stacks.engines {
        let steps = stacks.plan.steps.iter().filter(|step| step.engine == engine.socket());
        let version = printable(&info.version, 40);
        let engine = match stacks.engines.len() {
            1 => format!("engine {version}"),
            _ => format!("engine {version} at {}", engine.socket()),
        };
        let values: Values<'_> =
            &[("name", &name), ("count", &count(steps.count(), "container")), ("engine", &engine)];
        checks.push(ENGINE.check(format!("guest.{vmid}.engine"), values));
    }
    checks.extend(stacks.unreachable.iter().map(|why| advice::unreachable(vmid, why)));
    for note in &stacks.plan.notes {
        let values: Values<'_> = &[("note", note), ("vmid", &vmid)];
        checks.push(PLAN.check(format!("guest.{vmid}.plan"), values));
    }
    checks.extend(slow(stacks, settings));
    for (engine, info) in &stacks.engines {
        if info.live_restore {
            checks.push(advice::live_restore(vmid, engine));
        }
        checks.extend(down(stacks, engine, info));
    }
    checks
}

/// Containers of this engine that nothing starts again.
fn down(stacks: &Stacks<'_>, engine: &Engine, info: &Info) -> Option<Check> {
    let vmid = stacks.vmid;
    let down: Vec<&Container> = stacks
        .containers
        .iter()
        .filter(|container| container.engine == engine.socket() && stays_down(container))
        .collect();
    if down.is_empty() {
        return None;
    }
    let names = Names(down.iter().map(|container| container.name.as_str()).collect());
    let check = STAYS_DOWN.check(format!("guest.{vmid}.restart"), &[("names", &names)]);
    let words: Vec<&str> = down.iter().map(|container| word(container)).collect();
    let commands = advice::restart(vmid, (engine.kind(), engine.socket()), info, &words);
    Some(commands.into_iter().fold(check, Check::fix))
}

/// Stop timeouts that the time limit cannot cover, because it stays below the hold limit.
fn slow(stacks: &Stacks<'_>, settings: &Settings) -> Option<Check> {
    let (chain, limit) = (stacks.plan.longest_chain(), stacks.plan.time_limit(settings));
    let vmid = stacks.vmid;
    let (chain, limit) = (chain.as_secs(), limit.as_secs());
    let values: Values<'_> = &[("chain", &chain), ("limit", &limit), ("vmid", &vmid)];
    (chain > limit).then(|| SLOW_STOP.check(format!("guest.{vmid}.stop"), values))
}

/// A running service of a stack that nothing starts again.
fn stays_down(container: &Container) -> bool {
    container.status == Status::Running
        && container.restart == Restart::No
        && container.service().is_some()
        && container.label(ONE_OFF) != Some("True")
        && !container.auto_remove
        && !container.is_swarm_task()
}

/// The container in a command: its name if that is a plain word, else its id.
fn word(container: &Container) -> &str {
    if quoted(&container.name) == container.name && !container.name.starts_with('-') {
        &container.name
    } else {
        &container.id
    }
}
