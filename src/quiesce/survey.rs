use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::engine::{Container, Engine, Engines, Error, MOST_CONTAINERS, Unreachable, at_once};
use crate::guest::Process;

/// The limit of what a hostile guest can make us keep, in bytes over all containers.
const LIMIT: usize = 32 << 20;

/// What runs in a guest, in all of its engines.
#[derive(Debug, Default)]
pub struct Survey {
    /// Includes paused and restarting ones; each once, even if one engine has two sockets.
    pub containers: Vec<Container>,
    /// How many engines have answered.
    pub answered: usize,
    /// The other engines whose containers run or may run.
    pub unreachable: Vec<Unreachable>,
    /// Compose clients are among them.
    pub processes: Vec<Process>,
}

impl Survey {
    /// The same, if at least one engine has answered.
    ///
    /// # Errors
    /// Why none has.
    pub fn any(self) -> Result<Survey> {
        if self.answered == 0 && !self.unreachable.is_empty() {
            let reasons: Vec<String> = self.unreachable.iter().map(ToString::to_string).collect();
            bail!(reasons.join("; "));
        }
        Ok(self)
    }
}

/// Asks all engines of a guest in parallel what runs.
pub fn survey(engines: &Engines, deadline: Instant) -> Survey {
    let reachable: Vec<Engine> = engines.reachable().cloned().collect();
    let weight = AtomicUsize::new(0);
    let answers = at_once(&reachable, |engine| of_one(engine, &weight, deadline));
    let mut survey = Survey {
        unreachable: engines.unreachable().collect(),
        processes: engines.processes().to_vec(),
        ..Survey::default()
    };
    let mut known = HashSet::new();
    for (engine, answer) in reachable.iter().zip(answers) {
        let refused = |why: String| Unreachable {
            socket: Some((engine.socket().to_string(), engine.kind())),
            why,
        };
        match answer {
            Err(error) => survey.unreachable.push(refused(format!("{error:#}"))),
            Ok(containers) if survey.containers.len() + containers.len() > MOST_CONTAINERS => {
                let reason = format!("with it there are more containers than {MOST_CONTAINERS}");
                survey.unreachable.push(refused(reason));
            }
            Ok(containers) => {
                survey.answered += 1;
                let new = |container: &Container| known.insert(container.id.clone());
                survey.containers.extend(containers.into_iter().filter(new));
            }
        }
    }
    survey
}

fn of_one(engine: &Engine, weight: &AtomicUsize, deadline: Instant) -> Result<Vec<Container>> {
    let mut containers = Vec::new();
    for id in engine.running(deadline)? {
        match engine.inspect(&id, deadline) {
            Ok(container) => {
                let added = container.weight();
                containers.push(container);
                if weight.fetch_add(added, Ordering::Relaxed) + added > LIMIT {
                    bail!("the engine says more of its containers than can be kept");
                }
            }
            // It ended between the list and the inspection.
            Err(Error::Gone) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(containers)
}
