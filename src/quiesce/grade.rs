use crate::config::Strategy;
use crate::journal::Grade;
use crate::run::{Archive, Killed, PreStop, Proof, Run};
use crate::sys::text;
use crate::vzdump::{GuestType, Mode};

/// The grade of a backup and the reasons, if it is crash-consistent, incomplete, or mixed because
/// of a kill. `None` if no archive was made.
///
/// Decided from what was observed, never from what was planned.
pub fn grade(run: &Run) -> (Option<Grade>, Vec<String>) {
    if matches!(run.archive, Archive::Failed(_)) {
        return (None, run.unrest.clone());
    }
    let mut reasons = run.unrest.clone();
    if run.pre_stop == PreStop::NotCome {
        reasons.push("nothing was done before its data was copied, as far as is known".to_string());
    }
    if run.proof == Proof::Due {
        reasons.push("it was not seen whether the containers stayed at rest".to_string());
    }
    let grade = match (&run.quiesce, run.guest_type, run.mode_used) {
        _ if !run.was_running() => Grade::Offline,
        (_, GuestType::Qemu, _) => Grade::None,
        (_, GuestType::Lxc, Mode::Stop) if run.shutdown.was_down() && run.unrest.is_empty() => {
            Grade::Clean
        }
        (_, GuestType::Lxc, Mode::Stop) if run.shutdown.was_down() => Grade::CrashConsistent,
        (_, GuestType::Lxc, Mode::Stop) => {
            reasons.push("the guest was not seen shut down while its archive was made".to_string());
            Grade::CrashConsistent
        }
        _ if !reasons.is_empty() => Grade::CrashConsistent,
        (None, ..) => Grade::None,
        (Some(quiesce), ..) => {
            let names = |strategy| -> Vec<String> {
                let steps = quiesce.steps.iter().filter(|step| step.action == strategy);
                steps.map(|step| text::printable(&step.name, 80)).collect()
            };
            let running = names(Strategy::None);
            let paused = names(Strategy::Pause).len() + quiesce.paused_before;
            match (running.is_empty(), names(Strategy::Stop).len(), paused) {
                (false, ..) => {
                    reasons.push(format!("left running by its setting: {}", running.join(", ")));
                    Grade::CrashConsistent
                }
                (true, _, 0) => Grade::Clean,
                (true, 0, _) => Grade::Paused,
                (true, ..) => Grade::Mixed,
            }
        }
    };
    let killed = killed(run);
    let (grade, mut reasons) = match grade {
        Grade::CrashConsistent => (grade, reasons),
        Grade::Clean | Grade::Paused | Grade::Mixed if !killed.is_empty() => (Grade::Mixed, killed),
        _ => (grade, Vec::new()),
    };
    match &run.incomplete {
        Some(why) if grade != Grade::Offline => {
            reasons.insert(0, why.clone());
            (Some(Grade::Incomplete), reasons)
        }
        _ => (Some(grade), reasons),
    }
}

/// The containers with data that were killed instead of stopped, one sentence each.
fn killed(run: &Run) -> Vec<String> {
    let steps = run.quiesce.iter().flat_map(|quiesce| &quiesce.steps);
    steps
        .filter(|step| matches!(step.stop.killed(), Some(Killed::WithData | Killed::Starved)))
        .map(|step| step.kill_in_words())
        .collect()
}
