//! What vzdump does if the hook fails in a call that succeeded in the recording: the same as the
//! real one for each phase's exit status.

use super::plan::Step;
use super::trace::Call;

/// The remaining steps after that call failed, instead of the recorded ones.
pub fn after_failure(calls: &mut Vec<Call>, failed: usize, rest: &[Step]) -> Vec<Step> {
    let call = calls[failed].clone();
    let mode = call.mode().unwrap_or_default().to_owned();
    let Some(vmid) = call.vmid() else {
        return match call.phase() {
            "job-init" => Vec::new(),
            "job-start" => vec![added(calls, &call, &["job-abort"])],
            "job-end" if !calls_phase(calls, rest, "job-abort") => {
                let mut steps = rest.to_vec();
                steps.insert(0, added(calls, &call, &["job-abort"]));
                steps
            }
            _ => rest.to_vec(),
        };
    };
    let of_guest = |calls: &Vec<Call>, step: &Step| match step {
        Step::Call { call, .. } => Some(calls[*call].vmid() == Some(vmid)),
        _ => None,
    };
    // A guest's part ends at the first call of another guest.
    let end = rest.iter().position(|step| of_guest(calls, step) == Some(false));
    let last = rest[..end.unwrap_or(rest.len())]
        .iter()
        .rposition(|step| of_guest(calls, step) == Some(true));
    let (its, others) = rest.split_at(last.map_or(0, |last| last + 1));
    let mut its = its.to_vec();
    let give_up = |calls: &mut Vec<Call>, its: &[Step]| {
        let mut steps = vec![Step::ArchiveFails(failed), Step::Unlock(vmid)];
        for phase in ["backup-abort", "log-end"] {
            let recorded = its.iter().find(|step| match step {
                Step::Call { call, .. } => calls[*call].phase() == phase,
                _ => false,
            });
            let recorded = recorded.cloned();
            let step = match recorded {
                Some(step) => step,
                None => added(calls, &call, &[phase, &mode, &vmid.to_string()]),
            };
            steps.push(step);
        }
        steps
    };
    let its = match (call.phase(), mode.as_str()) {
        ("backup-start" | "pre-stop", _) => give_up(calls, &its),
        ("pre-restart", "stop") => {
            its.retain(|step| match step {
                Step::Start(_) => false,
                Step::Call { call, .. } => calls[*call].phase() != "post-restart",
                _ => true,
            });
            its
        }
        ("pre-restart" | "post-restart", "snapshot" | "suspend") => give_up(calls, &its),
        ("backup-end", _) if !calls_phase(calls, &its, "backup-abort") => {
            let is_log_end = |step: &Step| matches!(step, Step::Call { call, .. } if calls[*call].phase() == "log-end");
            let at = its.iter().position(is_log_end).unwrap_or(its.len());
            let abort = added(calls, &call, &["backup-abort", &mode, &vmid.to_string()]);
            its.insert(at, abort);
            its
        }
        _ => its,
    };
    [&its[..], others].concat()
}

fn calls_phase(calls: &[Call], steps: &[Step], phase: &str) -> bool {
    steps
        .iter()
        .any(|step| matches!(step, Step::Call { call, .. } if calls[*call].phase() == phase))
}

/// A call that is not in the recording, with the environment of one that is.
fn added(calls: &mut Vec<Call>, like: &Call, argv: &[&str]) -> Step {
    calls.push(Call {
        t: String::new(),
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: like.env.clone(),
    });
    Step::Call { call: calls.len() - 1, sent: None }
}
