//! Checks whether what was started stays up. An app whose database is not ready gives up after a
//! while, and without a restart policy nothing else would start it again.

use std::time::Duration;

use super::effort::failed_to_come_up;
use crate::config::Strategy;
use crate::engine::{Container, Error, Status};
use crate::run::{Fate, Step};
use crate::sys::{Root, clock, failpoint};

/// A container that is up this long after its start, or for its health check's start period, counts
/// as staying up.
const STAYS_UP: Duration = Duration::from_secs(60);

/// Longer than any container is watched: a later time is from another boot's clock.
const LONGEST_MS: u64 = 3_600_000;

/// The exit codes after SIGINT, SIGKILL or SIGTERM: a person has stopped it.
const STOPPED: [i64; 3] = [130, 137, 143];

/// How long to watch a container that was just started; `None` for one that its engine restarts
/// without a limit.
pub fn looked_at(container: &Container) -> Option<Duration> {
    let start_period = container.check.as_ref().map_or(Duration::ZERO, |check| check.start_period);
    (!container.is_kept_up()).then(|| start_period.max(STAYS_UP))
}

/// The end of that time, on the boot clock in ms. A test's node may shorten it.
pub fn until(root: &Root, looked_at: Duration) -> u64 {
    let ms = failpoint::milliseconds(root, "stays-up");
    let ms = ms.or_else(|| u64::try_from(looked_at.as_millis()).ok()).unwrap_or(u64::MAX);
    clock::boot_ms().saturating_add(ms)
}

/// The result of checking a started container.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    /// Nothing new.
    Up,
    /// It has been up long enough, or somebody else is responsible for it.
    Enough,
    Finished,
    /// A person has stopped it.
    Stopped,
    /// It has ended with that exit status, and nothing starts it again.
    GaveUp(i64),
}

/// Whether a step's container was started again and may have ended since. One that was only paused
/// has not ended because of us, and starting it would run its command again.
pub fn is_started(step: &Step) -> bool {
    step.fate == Fate::Back && step.start.ms().is_some() && step.action == Strategy::Stop
}

/// Checks whether what was started is up, and opens again what is not. `inspect` asks its engine,
/// if there is one; `fail` counts a failure and opens the step, or gives it up.
pub fn look(
    steps: &mut [Step],
    inspect: impl Fn(&Step) -> Option<Result<Container, Error>>,
    fail: impl Fn(&mut Step, String),
) {
    let now = clock::boot_ms();
    for step in steps.iter_mut().filter(|step| is_started(step)) {
        let until = step.start.watched_until_ms();
        let over = until.is_some_and(|until| now >= until || until - now > LONGEST_MS);
        let shown = match inspect(step) {
            Some(Ok(container)) => {
                let shown = shown(&container, until.is_some(), over);
                if matches!(shown, Shown::GaveUp(_)) {
                    // Otherwise it would look as if somebody else had started it since.
                    step.started_at.clone_from(&container.started_at);
                }
                shown
            }
            // Without an answer nothing is learnt; what was confirmed stays confirmed.
            Some(Err(Error::Gone)) => Shown::Enough,
            Some(Err(_)) | None if over => Shown::Enough,
            Some(Err(_)) | None => Shown::Up,
        };
        match shown {
            Shown::Up => continue,
            Shown::Enough => {}
            Shown::Finished => step.fate = Fate::Finished,
            Shown::Stopped => {
                step.fate =
                    Fate::Left("it was stopped after it had been started again".to_string());
            }
            Shown::GaveUp(code) => {
                step.start.end();
                fail(step, format!("it ends with {code} after its start"));
            }
        }
        step.start.stay_up();
    }
}

fn shown(container: &Container, looked_at: bool, over: bool) -> Shown {
    match (container.status, container.exit_code) {
        (Status::Exited, _) if failed_to_come_up(container) => Shown::GaveUp(container.exit_code),
        _ if !looked_at => Shown::Up,
        (Status::Exited, 0) => Shown::Finished,
        (Status::Exited, code) if STOPPED.contains(&code) => Shown::Stopped,
        (Status::Exited, code) => Shown::GaveUp(code),
        _ if over => Shown::Enough,
        _ => Shown::Up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Restart;
    use crate::run::QuiescedContainer;

    fn container(status: Status, exit_code: i64, ran_s: u32) -> Container {
        let json = br#"{"Id":"3b1f0c2d4e5f","Name":"/app","State":{"Status":"exited"}}"#;
        Container {
            status,
            exit_code,
            started_at: "2026-11-21T23:00:00Z".to_string(),
            finished_at: format!("2026-11-21T23:00:{ran_s:02}Z"),
            ..Container::parse(json).unwrap()
        }
    }

    #[test]
    fn who_is_started_again_by_nobody_is_looked_at() {
        let of = |restart, retries| {
            looked_at(&Container { restart, retries, ..container(Status::Running, 0, 0) })
        };
        assert_eq!(of(Restart::No, 0), Some(STAYS_UP));
        assert_eq!(of(Restart::OnFailure, 3), Some(STAYS_UP));
        assert_eq!(of(Restart::OnFailure, 0), None);
        assert_eq!(of(Restart::UnlessStopped, 0), None);
    }

    #[test]
    fn an_end_is_judged_by_its_status() {
        let ended = |code, ran_s| shown(&container(Status::Exited, code, ran_s), true, false);
        assert_eq!(ended(0, 15), Shown::Finished);
        assert_eq!(ended(1, 15), Shown::GaveUp(1));
        assert_eq!(ended(143, 15), Shown::Stopped);
        assert_eq!(ended(137, 2), Shown::GaveUp(137));
        assert_eq!(shown(&container(Status::Exited, 1, 15), false, false), Shown::Up);
        assert_eq!(shown(&container(Status::Exited, 1, 2), false, false), Shown::GaveUp(1));
        assert_eq!(shown(&container(Status::Exited, 1, 15), true, true), Shown::GaveUp(1));
        assert_eq!(shown(&container(Status::Running, 0, 0), true, false), Shown::Up);
        assert_eq!(shown(&container(Status::Running, 0, 0), true, true), Shown::Enough);
    }

    fn step(until: Option<u64>) -> Step {
        let known = QuiescedContainer {
            id: "3b1f0c2d4e5f".to_string(),
            engine: String::new(),
            name: "app".to_string(),
            project: None,
            service: None,
            action: Strategy::Stop,
            started_at: "before".to_string(),
            after: Vec::new(),
            not_in_backup: Vec::new(),
        };
        let mut step = Step { fate: Fate::Back, ..Step::from(known) };
        step.start.confirm(1, until);
        step
    }

    fn looked(step: Step, found: Option<Result<Container, Error>>) -> Step {
        let mut steps = [step];
        let found = std::cell::RefCell::new(found);
        look(&mut steps, |_| found.borrow_mut().take(), |step, _| step.fate = Fate::Open);
        let [step] = steps;
        step
    }

    #[test]
    fn what_gave_up_is_started_again_and_not_taken_for_somebody_elses() {
        let later = Some(clock::boot_ms() + 60_000);
        let gave_up = looked(step(later), Some(Ok(container(Status::Exited, 1, 15))));
        assert_eq!((gave_up.fate, gave_up.start.ms()), (Fate::Open, None));
        assert_eq!(gave_up.started_at, "2026-11-21T23:00:00Z");
        let finished = looked(step(later), Some(Ok(container(Status::Exited, 0, 15))));
        assert_eq!((finished.fate, finished.start.watched_until_ms()), (Fate::Finished, None));
        assert_eq!(looked(step(later), Some(Ok(container(Status::Running, 0, 0)))), step(later));
        let paused = Step { action: Strategy::Pause, ..step(later) };
        assert_eq!(looked(paused.clone(), Some(Ok(container(Status::Exited, 1, 15)))), paused);
    }

    #[test]
    fn nobody_looks_for_ever() {
        let now = clock::boot_ms();
        for over in [0, now, now + 2 * LONGEST_MS] {
            assert_eq!(looked(step(Some(over)), None).start.watched_until_ms(), None);
            let up = looked(step(Some(over)), Some(Ok(container(Status::Running, 0, 0))));
            assert_eq!(up, step(None));
        }
        assert_eq!(looked(step(Some(now + 60_000)), None), step(Some(now + 60_000)));
    }
}
