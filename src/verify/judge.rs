use super::pending::Pending;
use crate::journal::VerifyOutcome;
use crate::pbs::{Error, State, Upid, VerifyState, skipped, unencrypted};

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
    fn new(outcome: VerifyOutcome, reason: String, again: bool) -> Verdict {
        Verdict { outcome, reason: Some(reason), again }
    }

    /// As it goes into the journal: with what a person can do.
    pub fn with_way_out(self, pending: &Pending) -> Verdict {
        let storage = &pending.storage;
        let way_out = match self.outcome {
            VerifyOutcome::Ok | VerifyOutcome::Failed => None,
            // There is nothing that could be verified.
            VerifyOutcome::Skipped if !self.again => {
                Some("if nobody meant that, look there, and back the guest up again".to_string())
            }
            VerifyOutcome::Unreachable => {
                Some(format!("`stillpoint doctor --storage {storage}` looks at the connection"))
            }
            VerifyOutcome::Denied => {
                Some(format!("`stillpoint doctor --storage {storage}` tells how to mend that"))
            }
            VerifyOutcome::Skipped | VerifyOutcome::Unknown => {
                let snapshot = &pending.snapshot;
                Some(format!("`stillpoint verify {storage}:backup/{snapshot}` starts another"))
            }
        };
        let reason = match (self.reason, way_out) {
            (Some(reason), Some(way_out)) => Some(format!("{reason}; {way_out}")),
            (reason, way_out) => reason.or(way_out),
        };
        Verdict { reason, ..self }
    }
}

/// Judges by the snapshot's own state, never by the task's end alone: a task that ends `OK` has not proved
/// anything.
///
/// `exitstatus` is the task's end, `log` what is known of its log.
pub fn judge(
    ours: &Upid,
    exitstatus: &str,
    state: &Result<State, Error>,
    log: &[String],
) -> Verdict {
    let skipped = skipped(log).map(|line| {
        let why = line.split_once("SKIPPED: ").map_or(line, |(_, why)| why);
        format!("the server did not look at it: {why}")
    });
    let verification = match state {
        Ok(state) => state.verification.as_ref(),
        Err(error @ (Error::Unreachable { .. } | Error::Denied { .. })) => {
            return unanswered(error);
        }
        // A snapshot that was pruned meanwhile does not come back; the damage to its chunks stays.
        Err(Error::Gone) if log.iter().any(|line| line.contains(CHUNKS)) => {
            let reason = format!("{}; the snapshot was removed since", damage(exitstatus, log));
            return Verdict::new(VerifyOutcome::Failed, reason, false);
        }
        Err(error)
            if matches!(error, Error::Gone)
                || skipped.as_ref().is_some_and(|why| why.contains("does not exist")) =>
        {
            return unanswered(&Error::Gone);
        }
        // The task found fault with it, and there is no manifest to be read: that is the fault.
        Err(error @ Error::Refused { status: 400..500, .. })
            if !matches!(exitstatus, "OK" | "unknown") && not_now(error).is_none() =>
        {
            let reason = format!("{exitstatus}; the server can't read the snapshot: {error}");
            return Verdict::new(VerifyOutcome::Failed, reason + MEND, false);
        }
        Err(error) => {
            let reason = format!("the server does not tell the snapshot's state: {error}");
            return Verdict::new(VerifyOutcome::Unknown, reason, true);
        }
    };
    // Of two verifies at once the one that ends last holds the field. One that was begun after ours looked at the same
    // data; one that was begun before may have been over when that was damaged.
    let proof = verification.filter(|verification| verification.upid.is_no_earlier_than(ours));
    if let (None, Some(why)) = (proof, &skipped) {
        return Verdict::new(VerifyOutcome::Skipped, why.clone(), true);
    }
    match (proof.map(|proof| proof.state), exitstatus) {
        (Some(VerifyState::Ok), _) => {
            Verdict { outcome: VerifyOutcome::Ok, reason: None, again: false }
        }
        (Some(VerifyState::Failed), _) => {
            Verdict::new(VerifyOutcome::Failed, damage(exitstatus, log), false)
        }
        (None, "unknown") => {
            let reason = "the server was restarted while it verified".to_string();
            Verdict::new(VerifyOutcome::Unknown, reason, true)
        }
        (None, "OK") => {
            let reason = "the task ended, but the snapshot's state is not from it".to_string();
            Verdict::new(VerifyOutcome::Unknown, reason, true)
        }
        (None, stopped) if stopped.contains("abort requested") => {
            let reason = "somebody has stopped the task on the server".to_string();
            Verdict::new(VerifyOutcome::Unknown, reason, false)
        }
        // Whoever edits the notes for long keeps the server from writing down what it has found.
        (None, failed) if failed.contains(FAILED) && unwritten(log).is_some() => {
            let why = unwritten(log).unwrap_or_default();
            let reason = format!("the server could not write down what it has found: {why}");
            Verdict::new(VerifyOutcome::Unknown, reason, true)
        }
        (None, failed) if failed.contains(FAILED) => {
            Verdict::new(VerifyOutcome::Failed, damage(failed, log), false)
        }
        (None, other) => {
            let reason = format!("the task ended without a proof: {other}");
            Verdict::new(VerifyOutcome::Unknown, reason, true)
        }
    }
}

/// The next backup uploads anew what a verify has found damaged.
const MEND: &str = "; back the guest up again, that uploads what is damaged";

/// A task that found damage ends so, and one that could not write down what it found.
const FAILED: &str = "verification failed";

/// What the log says of chunks that are missing or damaged; other snapshots may share them.
const CHUNKS: &str = " failed: chunks could not be verified";

/// Why nothing was written into the snapshot, where the log tells of no damage.
fn unwritten(log: &[String]) -> Option<&str> {
    let line = log.iter().find(|line| line.contains(" - manifest update error: "));
    let why = line?.split_once(" - manifest update error: ").map(|(_, why)| why);
    why.filter(|_| damaged(log).is_empty())
}

/// What the task's log says is damaged.
fn damaged(log: &[String]) -> Vec<&str> {
    log.iter()
        .filter(|line| line.contains(" failed: ") || line.contains("manifest load error"))
        .map(|line| line.split_once(": verify ").map_or(line.as_str(), |(_, found)| found))
        .collect()
}

/// What the task's log says is damaged, else how the task ended.
fn damage(exitstatus: &str, log: &[String]) -> String {
    let mut found = damaged(log);
    let more = found.len().saturating_sub(3);
    found.truncate(3);
    if found.is_empty() {
        return format!("the server says: {exitstatus}{MEND}");
    }
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the server found damage: {}{more}{MEND}", found.join(", "))
}

/// The failure of a snapshot with data that is not encrypted, where its policy asks for that.
pub fn not_encrypted(state: &State, storage: &str) -> Option<Verdict> {
    let open = unencrypted(&state.files);
    if open.is_empty() {
        return None;
    }
    let reason = format!(
        "not encrypted, and verify.require-encryption is set: {}; give the storage a key \
         (pvesm set {storage} --encryption-key autogen, and keep a copy of it elsewhere) and back up again",
        open.join(", ")
    );
    Some(Verdict::new(VerifyOutcome::Failed, reason, false))
}

/// The outcome where the server gave no answer to a question.
pub fn unanswered(error: &Error) -> Verdict {
    let outcome = match error {
        Error::Unreachable { .. } => VerifyOutcome::Unreachable,
        Error::Denied { .. } => VerifyOutcome::Denied,
        Error::Gone => VerifyOutcome::Skipped,
        _ if not_now(error).is_some() => VerifyOutcome::Unreachable,
        _ => VerifyOutcome::Unknown,
    };
    let reason = match error {
        Error::Denied { status: 401, .. } => format!("the login is not accepted: {error}"),
        _ => error.to_string(),
    };
    Verdict::new(outcome, reason, outcome == VerifyOutcome::Unreachable)
}

/// A refusal that will pass: the server is busy with itself, or the datastore is under maintenance.
fn not_now(error: &Error) -> Option<()> {
    match error {
        Error::Refused { status: 500.., .. } => Some(()),
        Error::Refused { reason, .. } if reason.contains("maintenance mode") => Some(()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pbs::{SnapshotFile, Verification};

    fn upid(count: u32, started: u32) -> Upid {
        format!("UPID:vm:00005DF6:00029750:{count:08X}:{started:08X}:verify_snapshot:a:b@pbs:")
            .parse()
            .unwrap()
    }

    fn state(verification: Option<(VerifyState, Upid)>) -> Result<State, Error> {
        let verification = verification.map(|(state, upid)| Verification { state, upid });
        Ok(State { files: Vec::new(), verification, fingerprint: None })
    }

    fn verdict(exitstatus: &str, state: &Result<State, Error>, log: &[&str]) -> Verdict {
        let log: Vec<String> = log.iter().map(ToString::to_string).collect();
        judge(&upid(5, 100), exitstatus, state, &log)
    }

    fn outcome(exitstatus: &str, state: &Result<State, Error>, log: &[&str]) -> VerifyOutcome {
        verdict(exitstatus, state, log).outcome
    }

    fn refused(status: u16, reason: &str) -> Result<State, Error> {
        Err(Error::Refused { status, reason: reason.into() })
    }

    #[test]
    fn only_the_snapshots_own_state_is_a_proof() {
        let ok = |upid| state(Some((VerifyState::Ok, upid)));
        assert_eq!(outcome("OK", &ok(upid(5, 100)), &[]), VerifyOutcome::Ok);
        assert_eq!(outcome("OK", &ok(upid(6, 100)), &[]), VerifyOutcome::Ok, "started no earlier");
        assert_eq!(outcome("OK", &ok(upid(4, 99)), &[]), VerifyOutcome::Unknown, "an old one");
        let earlier = ok(upid(4, 100));
        assert_eq!(outcome("OK", &earlier, &[]), VerifyOutcome::Unknown, "in the same second");
        assert_eq!(outcome("OK", &earlier, &["SKIPPED: x"]), VerifyOutcome::Skipped);
        assert_eq!(outcome("abort requested", &earlier, &[]), VerifyOutcome::Unknown);
        assert_eq!(outcome("OK", &ok(upid(6, 99)), &[]), VerifyOutcome::Unknown, "an old one");
        let ahead = ok(upid(4, 9000));
        assert_eq!(outcome("OK", &ahead, &[]), VerifyOutcome::Unknown, "the clock was set back");
        let restarted = |started: u32| {
            let upid = upid(1, started).to_string().replace("00029750", "00029999");
            ok(upid.parse().unwrap())
        };
        assert_eq!(outcome("unknown", &restarted(101), &[]), VerifyOutcome::Ok, "after a restart");
        assert_eq!(outcome("OK", &restarted(99), &[]), VerifyOutcome::Unknown, "before a restart");
        assert_eq!(outcome("OK", &state(None), &[]), VerifyOutcome::Unknown);
        assert_eq!(outcome("OK", &state(None), &["SKIPPED: x"]), VerifyOutcome::Skipped);
        assert_eq!(outcome("WARNINGS: 1", &state(None), &[]), VerifyOutcome::Unknown);
    }

    #[test]
    fn a_failure_is_a_failure_whatever_the_task_says() {
        let failed = state(Some((VerifyState::Failed, upid(5, 100))));
        assert_eq!(outcome("verification failed", &failed, &[]), VerifyOutcome::Failed);
        assert_eq!(outcome("OK", &failed, &[]), VerifyOutcome::Failed);
        let old = state(Some((VerifyState::Ok, upid(1, 50))));
        assert_eq!(outcome("verification failed", &old, &[]), VerifyOutcome::Failed);
        let gone = refused(400, "no such file");
        assert_eq!(outcome("verification failed", &gone, &[]), VerifyOutcome::Failed);
        assert_eq!(outcome("OK", &gone, &[]), VerifyOutcome::Unknown);
        assert_eq!(outcome("verification failed", &refused(500, "x"), &[]), VerifyOutcome::Unknown);
        let offline = refused(400, "datastore 'a' is unavailable: offline maintenance mode: b");
        assert_eq!(outcome("verification failed", &offline, &[]), VerifyOutcome::Unknown);
    }

    #[test]
    fn a_failure_names_what_is_damaged_and_the_way_out() {
        let failed = state(Some((VerifyState::Failed, upid(5, 100))));
        let log = [
            "2026-11-21T23:17:29+00:00: verify a:ct/9001/2026-11-21T23:16:00Z",
            "2026-11-21T23:17:29+00:00: verify a:ct/9001/2026-11-21T23:16:00Z/root.pxar.didx failed: chunks could not be verified",
        ];
        let reason = verdict("verification failed", &failed, &log).reason.unwrap();
        assert!(reason.contains("root.pxar.didx failed: chunks could not"), "{reason}");
        assert!(reason.contains("back the guest up again"), "{reason}");
    }

    #[test]
    fn what_may_be_better_the_next_time_is_tried_again_and_nothing_else() {
        let old = state(Some((VerifyState::Ok, upid(1, 50))));
        let again = |exitstatus: &str, log: &[&str]| verdict(exitstatus, &old, log).again;
        assert!(again("unknown", &[]));
        assert!(again("Server shutdown requested - aborting task", &[]));
        assert!(again("OK", &["SKIPPED: verify a - could not acquire snapshot lock"]));
        assert!(!again("abort requested - aborting task", &[]), "a person has stopped it");
        assert!(!again("verification failed", &[]));
        let gone = refused(400, "unable to load blob: No such file");
        let log = ["SKIPPED: verify a - snapshot does not exist (anymore)."];
        let verdict = verdict("OK", &gone, &log);
        assert_eq!((verdict.outcome, verdict.again), (VerifyOutcome::Skipped, false));
    }

    #[test]
    fn what_could_not_be_written_down_is_no_damage() {
        let line = "x: verify a:ct/1/b - manifest update error: unable to acquire manifest lock";
        let old = state(Some((VerifyState::Ok, upid(1, 50))));
        let of = |log: &[&str]| verdict("verification failed - please check the log", &old, log);
        let locked = of(&[line]);
        assert_eq!((locked.outcome, locked.again), (VerifyOutcome::Unknown, true));
        assert!(!locked.reason.unwrap().contains("back the guest up"));
        let damaged = of(&["x: verify a:ct/1/b/root.pxar.didx failed: chunks", line]);
        assert_eq!((damaged.outcome, damaged.again), (VerifyOutcome::Failed, false));
    }

    #[test]
    fn data_that_is_not_encrypted_is_named() {
        let file = |name: &str, mode: &str| SnapshotFile {
            filename: name.into(),
            crypt_mode: Some(mode.into()),
            size: None,
        };
        let state = |files| State { files, verification: None, fingerprint: None };
        let encrypted = state(vec![
            file("root.pxar.didx", "encrypt"),
            file("index.json.blob", "sign-only"),
            file("rsa-encrypted.key.blob", "none"),
        ]);
        assert_eq!(not_encrypted(&encrypted, "offsite"), None);
        let open = state(vec![file("root.pxar.didx", "encrypt"), file("pct.conf.blob", "none")]);
        let verdict = not_encrypted(&open, "offsite").unwrap();
        assert_eq!(verdict.outcome, VerifyOutcome::Failed);
        let reason = verdict.reason.unwrap();
        assert!(reason.contains("pct.conf.blob") && !reason.contains("root.pxar"), "{reason}");
        assert!(not_encrypted(&state(Vec::new()), "offsite").is_some(), "nothing is known");
    }
}
