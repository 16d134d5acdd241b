use crate::journal::VerifyOutcome;
use crate::pbs::{Error, State, Upid, VerifyState};

/// What a verify task that has ended came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: VerifyOutcome,
    /// What a person can act on; nothing where all is well.
    pub reason: Option<String>,
    /// Whether starting the verify once more may bring a better answer.
    pub again: bool,
}

impl Verdict {
    fn new(outcome: VerifyOutcome, reason: Option<String>, again: bool) -> Verdict {
        Verdict { outcome, reason, again }
    }
}

/// Judges by the snapshot's own state, never by the task's end alone: a task that ends `OK` has not proved
/// anything (facts/PBS.md).
///
/// `skipped` is the line of the task's log that says so, if there is one; `exitstatus` the task's end.
pub fn judge(
    ours: &Upid,
    exitstatus: &str,
    state: &Result<State, Error>,
    skipped: Option<&str>,
) -> Verdict {
    let verification = match state {
        Ok(state) => state.verification.as_ref(),
        Err(error @ (Error::Unreachable { .. } | Error::Denied { .. })) => {
            return unanswered(error);
        }
        // The task found fault with it, and there is no manifest to be read: that is the fault.
        Err(error @ Error::Refused { status: 400..500, .. })
            if !matches!(exitstatus, "OK" | "unknown") =>
        {
            let reason = format!("{exitstatus}; the server can't read the snapshot: {error}");
            return Verdict::new(VerifyOutcome::Failed, Some(reason), false);
        }
        Err(error) => {
            let reason = format!("the server does not tell the snapshot's state: {error}");
            return Verdict::new(VerifyOutcome::Unknown, Some(reason), true);
        }
    };
    // Of two verifies at once the later one holds the field; it looked at the same data.
    let proof = verification.filter(|verification| {
        verification.upid == *ours || verification.upid.started() >= ours.started()
    });
    match (proof.map(|proof| proof.state), exitstatus) {
        (Some(VerifyState::Ok), _) => Verdict::new(VerifyOutcome::Ok, None, false),
        (Some(VerifyState::Failed), _) => {
            let reason = format!("the server says: {exitstatus}");
            Verdict::new(VerifyOutcome::Failed, Some(reason), false)
        }
        (None, _) if skipped.is_some() => {
            Verdict::new(VerifyOutcome::Skipped, skipped.map(String::from), true)
        }
        (None, "unknown") => {
            let reason = "the server was restarted while it verified".to_string();
            Verdict::new(VerifyOutcome::Unknown, Some(reason), true)
        }
        (None, "OK") => {
            let reason = "the task ended, but the snapshot's state is not from it".to_string();
            Verdict::new(VerifyOutcome::Unknown, Some(reason), true)
        }
        (None, aborted) if aborted.contains("aborting task") || aborted.contains("abort") => {
            let reason = format!("the task was ended: {aborted}");
            Verdict::new(VerifyOutcome::Unknown, Some(reason), true)
        }
        (None, other) => {
            let reason = format!("the task failed: {other}");
            Verdict::new(VerifyOutcome::Failed, Some(reason), false)
        }
    }
}

/// The outcome where the server gave no answer to a question.
pub fn unanswered(error: &Error) -> Verdict {
    let outcome = match error {
        Error::Unreachable { .. } => VerifyOutcome::Unreachable,
        Error::Denied { .. } => VerifyOutcome::Denied,
        _ => VerifyOutcome::Unknown,
    };
    Verdict::new(outcome, Some(error.to_string()), outcome == VerifyOutcome::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pbs::Verification;

    fn upid(count: u32, started: u32) -> Upid {
        format!("UPID:vm:00005DF6:00029750:{count:08X}:{started:08X}:verify_snapshot:a:b@pbs:")
            .parse()
            .unwrap()
    }

    fn state(verification: Option<(VerifyState, Upid)>) -> Result<State, Error> {
        let verification = verification.map(|(state, upid)| Verification { state, upid });
        Ok(State { files: Vec::new(), verification, fingerprint: None })
    }

    fn outcome(
        exitstatus: &str,
        state: &Result<State, Error>,
        skipped: Option<&str>,
    ) -> VerifyOutcome {
        judge(&upid(5, 100), exitstatus, state, skipped).outcome
    }

    #[test]
    fn only_the_snapshots_own_state_is_a_proof() {
        let ok = |upid| state(Some((VerifyState::Ok, upid)));
        assert_eq!(outcome("OK", &ok(upid(5, 100)), None), VerifyOutcome::Ok);
        assert_eq!(outcome("OK", &ok(upid(6, 100)), None), VerifyOutcome::Ok, "started no earlier");
        assert_eq!(outcome("OK", &ok(upid(4, 99)), None), VerifyOutcome::Unknown, "an old one");
        assert_eq!(outcome("OK", &state(None), None), VerifyOutcome::Unknown);
        assert_eq!(outcome("OK", &state(None), Some("SKIPPED: x")), VerifyOutcome::Skipped);
    }

    #[test]
    fn a_failure_is_a_failure_whatever_the_task_says() {
        let failed = state(Some((VerifyState::Failed, upid(5, 100))));
        assert_eq!(outcome("verification failed", &failed, None), VerifyOutcome::Failed);
        assert_eq!(outcome("OK", &failed, None), VerifyOutcome::Failed);
        let old = state(Some((VerifyState::Ok, upid(1, 50))));
        assert_eq!(outcome("verification failed", &old, None), VerifyOutcome::Failed);
        let gone = Err(Error::Refused { status: 400, reason: "no such file".into() });
        assert_eq!(outcome("verification failed", &gone, None), VerifyOutcome::Failed);
        assert_eq!(outcome("OK", &gone, None), VerifyOutcome::Unknown, "in maintenance, say");
        let broken = Err(Error::Refused { status: 500, reason: "x".into() });
        assert_eq!(outcome("verification failed", &broken, None), VerifyOutcome::Unknown);
    }

    #[test]
    fn a_restart_of_the_server_proves_nothing_and_is_tried_again() {
        let old = state(Some((VerifyState::Ok, upid(1, 50))));
        for exitstatus in ["unknown", "Server shutdown requested - aborting task"] {
            let verdict = judge(&upid(5, 100), exitstatus, &old, None);
            assert_eq!((verdict.outcome, verdict.again), (VerifyOutcome::Unknown, true));
        }
    }
}
