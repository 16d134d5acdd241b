//! Finds where in a recording a signal arrived, from its times and its log.

use super::log::{self, Mark, Sent};
use super::trace::{Call, Scenario};

/// Where a signal arrived.
#[derive(Debug, Clone)]
pub struct Placed {
    pub sent: Sent,
    /// The last call before it.
    pub call: usize,
    /// Whether the hook was running; otherwise vzdump itself was working.
    pub in_flight: bool,
    /// What vzdump had printed before.
    pub seen: Vec<String>,
    /// The SIGKILL that follows the Stop button.
    pub killed: Option<Kill>,
}

/// The SIGKILL 5 s after the Stop button, if the recording shows it.
#[derive(Debug, Clone)]
pub struct Kill {
    pub call: usize,
    pub in_flight: bool,
    pub seen: Vec<String>,
}

/// Finds the place of the first signal.
pub fn place(scenario: &Scenario, mark: &Mark) -> Option<Placed> {
    let calls = &scenario.calls;
    let before = |call: &Call| call.time().is_none_or(|time| time <= mark.at);
    let call = calls.iter().take_while(|call| before(call)).count().checked_sub(1)?;
    let seen = scenario.task_log[..mark.line].to_vec();
    let after = &scenario.task_log[mark.line..];
    let words = calls[call].argv.join(" ");
    let says = |what: &str| after.iter().any(|line| line.contains(what));
    let hook_died = says(&format!("{words}' failed: interrupted"));
    let other_died = after
        .iter()
        .any(|line| line.starts_with("command '") && line.contains("' failed: interrupted"));
    let in_flight = hook_died || (!other_died && !moved_on(scenario, call, &seen));
    let ended =
        calls.iter().skip(call + 1).any(|call| matches!(call.phase(), "job-end" | "job-abort"));
    let killed = (mark.sent == Sent::Stop && !ended).then(|| {
        let last = calls.len() - 1;
        let seen = scenario.task_log.clone();
        let in_flight = last > call && !moved_on(scenario, last, &seen);
        Kill { call: last, in_flight, seen }
    });
    Some(Placed { sent: mark.sent, call, in_flight, seen, killed })
}

/// Whether vzdump had printed something that it prints only after that call.
fn moved_on(scenario: &Scenario, call: usize, seen: &[String]) -> bool {
    let call = &scenario.calls[call];
    let Some(vmid) = call.vmid() else {
        let mut seen = seen.iter();
        return seen.any(|line| log::printed_after(line, false, true) == Some(call.phase()));
    };
    let stop = call.mode() == Some("stop");
    let runs = runs(scenario, vmid);
    log::part(seen, vmid)
        .iter()
        .any(|line| log::printed_after(line, stop, runs) == Some(call.phase()))
}

/// Whether the guest ran when its backup began: as the log says; without a log line, a guest in
/// stop mode that was not asked for stop mode did not run.
pub fn runs(scenario: &Scenario, vmid: u32) -> bool {
    for line in log::part(&scenario.task_log, vmid) {
        if let Some(status) = line.strip_prefix("INFO: status = ") {
            return status.trim() != "stopped";
        }
    }
    let its = |phase: &'static str| {
        let calls = scenario.calls.iter();
        calls.filter(move |call| call.vmid() == Some(vmid) && call.phase() == phase)
    };
    !(its("backup-start").any(|call| call.mode() == Some("stop"))
        && its("pre-stop").next().is_none())
}
