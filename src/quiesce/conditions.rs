//! The conditions that compose would wait for before it starts a container. The engine's start
//! ignores them (FACTS-DOCKER.md, Compose).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::{Condition, Container, Engine, Health, Status};
use crate::run::{Failures, Fate, HealthBefore, Step};
use crate::sys::clock;
use crate::sys::text;

/// How long a container waits for another to be healthy. A health check without a result by then
/// must not keep a stack down.
pub const LONGEST_WAIT: Duration = Duration::from_secs(180);

/// How often conditions are checked.
pub const LOOK: Duration = Duration::from_secs(1);

/// A health command that takes longer is left to the engine's own checks, whose result is read as
/// well.
const COMMAND_LIMIT: Duration = Duration::from_secs(3);

/// How many replicas of a service are checked.
const MOST_REPLICAS: usize = 20;

/// The results of health commands in one round, by container id: each runs once, however many wait
/// for it.
#[derive(Default)]
pub struct Checks(Mutex<HashMap<String, Arc<OnceLock<bool>>>>);

/// The context for checking conditions.
pub struct Place<'a> {
    pub engine: &'a Engine,
    pub steps: &'a [Step],
    pub checks: &'a Checks,
    pub deadline: Instant,
}

impl Place<'_> {
    /// The first condition of this container that is not met but still can be, in words.
    pub fn unmet(&self, container: &Container) -> Option<String> {
        let project = container.project()?;
        container.dependencies().find_map(|dependency| {
            let service = dependency.service;
            // Without an answer there is nothing to wait for; the start itself will show.
            let ids = self.engine.of_service(project, service, self.deadline).ok()?;
            let replicas = ids.iter().take(MOST_REPLICAS);
            let mut found = replicas.filter_map(|id| self.engine.inspect(id, self.deadline).ok());
            let waits = found.any(|other| {
                !other.is_one_off()
                    && self.comes_before(&other, container)
                    && !self.was_ill(&other, dependency.condition)
                    && pends(dependency.condition, &other, self.will_start(&other), || {
                        self.is_healthy(&other)
                    })
            });
            waits.then(|| {
                let service = text::printable(service, 80);
                match dependency.condition {
                    Condition::Started => format!("it waits for {service} to start"),
                    Condition::Healthy => format!("it waits for {service} to be healthy"),
                    Condition::Completed => format!("it waits for {service} to end"),
                }
            })
        })
    }

    /// Whether the plan starts `first` before `second`. The plan has broken circles of
    /// dependencies, including those of a container on itself, which would otherwise wait for ever.
    /// A container outside the plan waits for nobody.
    fn comes_before(&self, first: &Container, second: &Container) -> bool {
        let step = |id: &str| self.steps.iter().position(|step| step.id == id);
        match (step(&first.id), step(&second.id)) {
            (Some(first), Some(second)) => {
                first != second && self.steps[first].after.contains(&second)
            }
            _ => first.id != second.id,
        }
    }

    /// Whether this run still has to start a container that is down. Nobody waits for one that
    /// failed to start, because it may fail for long.
    fn will_start(&self, container: &Container) -> bool {
        let may_start = |step: &Step| step.fate == Fate::Open && step.failures == Failures::None;
        self.steps.iter().any(|step| step.id == container.id && may_start(step))
    }

    /// Whether it was not healthy before the backup either: waiting for that now would be
    /// additional downtime.
    fn was_ill(&self, container: &Container, condition: Condition) -> bool {
        let ill = |step: &Step| step.id == container.id && step.health_before == HealthBefore::Ill;
        condition == Condition::Healthy && self.steps.iter().any(ill)
    }

    /// The result of the container's own health command now; the engine itself would run it only at
    /// its next check, half a minute later.
    fn is_healthy(&self, container: &Container) -> bool {
        let Some(check) = &container.check else { return false };
        let answer = {
            let mut checks = self.checks.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(checks.entry(container.id.clone()).or_default())
        };
        *answer.get_or_init(|| {
            let limit = clock::instant() + check.timeout.min(COMMAND_LIMIT);
            self.engine.run(&container.id, &check.command, limit.min(self.deadline)).is_ok()
        })
    }
}

/// Whether a condition is not met but still can be. A condition that nothing will change is
/// ignored, because the container ran without it.
fn pends(
    condition: Condition,
    other: &Container,
    will_start: bool,
    is_healthy: impl FnOnce() -> bool,
) -> bool {
    match (other.status, condition) {
        (Status::Running, Condition::Started) => false,
        (Status::Running, Condition::Healthy) => {
            other.health.is_some_and(|health| health != Health::Healthy) && !is_healthy()
        }
        (Status::Running | Status::Restarting, _) => true,
        (Status::Exited, Condition::Completed) => other.exit_code != 0 && will_start,
        _ => will_start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(status: Status, health: Option<Health>, exit_code: i64) -> Container {
        let json = br#"{"Id":"3b1f0c2d4e5f","Name":"/db","State":{"Status":"exited"}}"#;
        Container { status, health, exit_code, ..Container::parse(json).unwrap() }
    }

    #[test]
    fn health_is_waited_for_where_there_is_a_check() {
        let starting = container(Status::Running, Some(Health::Starting), 0);
        assert!(pends(Condition::Healthy, &starting, false, || false));
        assert!(
            !pends(Condition::Healthy, &starting, false, || true),
            "its own command knows first"
        );
        let healthy = container(Status::Running, Some(Health::Healthy), 0);
        assert!(!pends(Condition::Healthy, &healthy, false, || false));
        let ill = container(Status::Running, Some(Health::Unhealthy), 0);
        assert!(pends(Condition::Healthy, &ill, false, || false));
        let without = container(Status::Running, None, 0);
        assert!(!pends(Condition::Healthy, &without, false, || false));
    }

    #[test]
    fn an_end_is_waited_for_where_it_may_come() {
        let runs = container(Status::Running, None, 0);
        assert!(pends(Condition::Completed, &runs, false, || true));
        let ended = container(Status::Exited, None, 0);
        assert!(!pends(Condition::Completed, &ended, true, || true));
        let failed = container(Status::Exited, None, 1);
        assert!(pends(Condition::Completed, &failed, true, || true));
        assert!(!pends(Condition::Completed, &failed, false, || true));
    }

    #[test]
    fn what_nobody_will_start_is_not_waited_for() {
        let down = container(Status::Exited, None, 137);
        for condition in [Condition::Started, Condition::Healthy] {
            assert!(pends(condition, &down, true, || false));
            assert!(!pends(condition, &down, false, || false));
        }
        let runs = container(Status::Running, None, 0);
        assert!(!pends(Condition::Started, &runs, true, || false));
    }
}
