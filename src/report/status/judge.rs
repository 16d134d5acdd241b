use std::time::Duration;

use super::words::{age, ago};
use super::{Backup, Guest, Level, Now, Problem, ProofState, Settled, Verify, What};
use crate::journal::{Grade, Outcome, VerifyOutcome};

/// A verify is collected for at most a day; without news for longer than this it is lost.
const LOST_VERIFY: u64 = 36 * 3600;

/// How many commands are shown at once.
const MOST_COMMANDS: usize = 5;

/// When a backup's age is a problem.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// If the last good backup is older, that is a warning; at twice this age it is critical.
    pub max_age: Duration,
}

/// The problems of a guest, the worst first. A guest that was never backed up is no problem here:
/// Proxmox VE itself shows which guests are in no job.
pub fn problems(guest: &Guest, now: &[Now], limits: &Limits) -> Vec<Problem> {
    let mut problems = Vec::new();
    for left in now.iter().filter(|now| now.vmid == guest.vmid && now.what == What::LeftOver) {
        problems.push((Level::Critical, left.message.clone()));
    }
    problems.extend(guest.backup.iter().flat_map(of_backup));
    problems.extend(of_containers(guest));
    problems.extend(guest.verify.as_ref().and_then(of_verify));
    problems.extend(guest.settled.iter().flat_map(of_start));
    problems.extend(of_refusal(guest));
    let max_age = limits.max_age.as_secs();
    if let Some(last) = &guest.last_success
        && last.age_s > max_age
    {
        let level =
            if last.age_s > max_age.saturating_mul(2) { Level::Critical } else { Level::Warning };
        problems.push((level, format!("the last backup was made {}", ago(last.age_s))));
    }
    // Within a level the order above stays.
    problems.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    problems.into_iter().map(|(level, message)| Problem { level, message }).collect()
}

/// The worst level; ok where there is no problem.
pub fn worst(problems: &[Problem]) -> Level {
    problems.iter().map(|problem| problem.level).max().unwrap_or_default()
}

fn of_backup(backup: &Backup) -> Vec<(Level, String)> {
    let mut problems = Vec::new();
    let when = ago(backup.moment.age_s);
    if backup.outcome == Outcome::Failed {
        let error = backup.error.as_deref().unwrap_or("no reason is known");
        problems.push((Level::Critical, format!("the backup failed {when}: {error}")));
    }
    if let Some(grade @ (Grade::CrashConsistent | Grade::Incomplete)) = backup.grade {
        let reasons = match backup.reasons.join("; ") {
            none if none.is_empty() => "no reason is known".to_string(),
            reasons => reasons,
        };
        problems.push((Level::Warning, format!("the backup is {grade}: {reasons}")));
    }
    problems
}

/// Problems from the start of a restored guest.
fn of_start(settled: &Settled) -> Vec<(Level, String)> {
    let when = ago(settled.moment.age_s);
    let held = settled.held_back.iter().map(|held| {
        format!("{} was not started at the guest's start {when}: {}", held.name, held.reason)
    });
    let lost = settled.lost.iter().map(|lost| format!("restored, and started {when}: {lost}"));
    held.chain(lost).map(|message| (Level::Warning, message)).collect()
}

/// The containers that are not back, why if that is known, and what to do.
fn of_containers(guest: &Guest) -> Option<(Level, String)> {
    let why = |name: &String| guest.not_back.iter().find(|lost| lost.name == *name);
    let named = |name: &String| match why(name) {
        Some(lost) => format!("{name} ({})", lost.why),
        None => name.clone(),
    };
    let since = guest.backup.as_ref().filter(|backup| !backup.not_back.is_empty());
    let (when, names): (String, Vec<String>) = match since {
        Some(backup) => {
            let when = format!(" {}", ago(backup.moment.age_s));
            (when, backup.not_back.iter().map(named).collect())
        }
        None => {
            let names = guest.not_back.iter().map(|lost| named(&lost.name));
            (String::new(), names.collect())
        }
    };
    if names.is_empty() {
        return None;
    }
    let message = format!("not back since the backup{when}: {}{}", names.join(", "), how(guest));
    Some((Level::Critical, message))
}

/// The commands that help; empty if only names are known.
fn how(guest: &Guest) -> String {
    let mut commands: Vec<String> =
        guest.not_back.iter().filter_map(|lost| lost.way_back.clone()).collect();
    commands.sort();
    commands.dedup();
    commands.truncate(MOST_COMMANDS);
    if guest.not_back.iter().any(|lost| !lost.removed && lost.way_back.is_none()) {
        commands.push(format!("stillpoint resume {}", guest.vmid));
    }
    commands.iter().map(|command| format!("; try: {command}")).collect()
}

/// Left out if a crash-consistent backup already says it.
fn of_refusal(guest: &Guest) -> Option<(Level, String)> {
    let reason = guest.start_refused.as_deref()?;
    let said = guest.backup.iter().flat_map(|backup| &backup.reasons);
    if said.into_iter().any(|said| said.contains(reason)) {
        return None;
    }
    let vmid = guest.vmid;
    let message = format!(
        "backups do not stop its containers: {reason}; `stillpoint try {vmid}` tries again"
    );
    Some((Level::Warning, message))
}

fn of_verify(verify: &Verify) -> Option<(Level, String)> {
    let (level, what) = match verify.state {
        ProofState::Known(outcome) => match outcome {
            VerifyOutcome::Ok => return None,
            VerifyOutcome::Failed => (Level::Critical, "the backup FAILED to verify"),
            VerifyOutcome::Skipped => {
                (Level::Warning, "the backup is not verified: the server skipped it")
            }
            VerifyOutcome::Unknown => {
                (Level::Warning, "the outcome of the backup's verify is unknown")
            }
            VerifyOutcome::Unreachable => {
                (Level::Warning, "the backup is not verified: the server was unreachable")
            }
            VerifyOutcome::Denied => {
                (Level::Warning, "the backup is not verified: the server denies it")
            }
        },
        ProofState::Pending => {
            let since = verify.moment.as_ref().filter(|since| since.age_s > LOST_VERIFY)?;
            let message = format!(
                "no news of the verify of the backup for {}; `stillpoint verify` starts another",
                age(since.age_s)
            );
            return Some((Level::Warning, message));
        }
        ProofState::NotAsked(_) => return None,
    };
    let reason = verify.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
    Some((level, format!("{what}{reason}")))
}

#[cfg(test)]
mod tests {
    use super::super::Moment;
    use super::*;
    use crate::pve::OnStart;
    use crate::vzdump::{GuestType, Mode, Vmid};

    fn moment(age_s: u64) -> Moment {
        Moment { time: "2026-11-21T23:22:56.000Z".into(), age_s }
    }

    fn well() -> Guest {
        Guest {
            vmid: Vmid(9001),
            name: None,
            guest_type: GuestType::Lxc,
            level: Level::Ok,
            problems: Vec::new(),
            backup: Some(Backup {
                moment: moment(3600),
                outcome: Outcome::Ok,
                error: None,
                grade: Some(Grade::Clean),
                reasons: Vec::new(),
                mode_asked: Mode::Snapshot,
                mode_used: Mode::Snapshot,
                downtime_ms: Some(760),
                not_back: Vec::new(),
                storage: None,
                target: None,
            }),
            last_success: Some(moment(3600)),
            verify: verify("ok", 3600),
            last_verified: Some(moment(3600)),
            on_start: OnStart::None,
            not_back: Vec::new(),
            settled: None,
            start_refused: None,
        }
    }

    fn verify(state: &str, age_s: u64) -> Option<Verify> {
        Some(Verify {
            state: serde_json::from_value(state.into()).unwrap(),
            moment: Some(moment(age_s)),
            reason: None,
        })
    }

    fn level(change: impl Fn(&mut Guest, &mut Backup)) -> Level {
        let mut guest = well();
        let mut backup = guest.backup.take().unwrap();
        change(&mut guest, &mut backup);
        guest.backup = Some(backup);
        worst(&problems(&guest, &[], &Limits::default()))
    }

    #[test]
    fn the_table_of_what_is_how_bad() {
        assert_eq!(level(|_, _| ()), Level::Ok);
        assert_eq!(level(|_, backup| backup.outcome = Outcome::Failed), Level::Critical);
        assert_eq!(level(|_, backup| backup.not_back.push("db".into())), Level::Critical);
        for (grade, expected) in [
            (Grade::Clean, Level::Ok),
            (Grade::Paused, Level::Ok),
            (Grade::Mixed, Level::Ok),
            (Grade::Offline, Level::Ok),
            (Grade::None, Level::Ok),
            (Grade::CrashConsistent, Level::Warning),
            (Grade::Incomplete, Level::Warning),
        ] {
            assert_eq!(level(|_, backup| backup.grade = Some(grade)), expected, "{grade}");
        }
        for (state, expected) in [
            ("ok", Level::Ok),
            ("failed", Level::Critical),
            ("skipped", Level::Warning),
            ("unknown", Level::Warning),
            ("unreachable", Level::Warning),
            ("denied", Level::Warning),
            ("pending", Level::Ok),
            ("not-due", Level::Ok),
        ] {
            assert_eq!(level(|guest, _| guest.verify = verify(state, 60)), expected, "{state}");
        }
        let lost = |guest: &mut Guest, _: &mut Backup| guest.verify = verify("pending", 2 * 86_400);
        assert_eq!(level(lost), Level::Warning);
        for (days, expected) in [(7, Level::Ok), (9, Level::Warning), (17, Level::Critical)] {
            let old = |guest: &mut Guest, _: &mut Backup| {
                guest.last_success = Some(moment(days * 86_400));
            };
            assert_eq!(level(old), expected, "{days} days");
        }
    }

    #[test]
    fn containers_that_may_not_start_are_a_warning_said_once() {
        let refused = "its engine could not start a throwaway container: permission denied";
        let mut guest = Guest { start_refused: Some(refused.into()), ..well() };
        let found = problems(&guest, &[], &Limits::default());
        assert_eq!((found.len(), found[0].level), (1, Level::Warning));
        assert!(found[0].message.contains("stillpoint try 9001"), "{found:?}");
        let backup = guest.backup.as_mut().unwrap();
        backup.grade = Some(Grade::CrashConsistent);
        backup.reasons = vec![format!("nothing is stopped: {refused}")];
        assert_eq!(problems(&guest, &[], &Limits::default()).len(), 1);
    }

    #[test]
    fn what_was_left_over_is_its_guests_problem() {
        let left = |vmid| Now {
            vmid: Vmid(vmid),
            what: What::LeftOver,
            since: None,
            message: "it was interrupted".into(),
        };
        assert_eq!(worst(&problems(&well(), &[left(9002)], &Limits::default())), Level::Ok);
        assert_eq!(worst(&problems(&well(), &[left(9001)], &Limits::default())), Level::Critical);
    }

    #[test]
    fn the_worst_comes_first_and_a_guest_without_any_backup_has_no_problem() {
        let mut guest = well();
        guest.verify = verify("failed", 60);
        guest.last_success = Some(moment(9 * 86_400));
        let found = problems(&guest, &[], &Limits::default());
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].level, found[1].level), (Level::Critical, Level::Warning));
        let never = Guest { backup: None, last_success: None, verify: None, ..well() };
        assert_eq!(problems(&never, &[], &Limits::default()), []);
    }
}
