use super::advice::Advice;
use crate::journal::VerifyOutcome;
use crate::pbs::{
    Ending, Error, Findings, Manifest, NotNow, Skipped, State, Unwritten, Upid, VerifyState,
    unencrypted,
};

/// The verdict on a verify task that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: VerifyOutcome,
    /// The reason, for an admin to act on; `None` if all is well.
    pub reason: Option<String>,
    pub advice: Advice,
    pub retry: Retry,
}

/// Whether starting the verify again may give a better result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Never,
    /// A few times: the same may go wrong each time.
    FewTimes,
    /// For a day: the obstacle is temporary.
    ForADay,
}

impl Verdict {
    fn new(outcome: VerifyOutcome, reason: String, advice: Advice, retry: Retry) -> Verdict {
        Verdict { outcome, reason: Some(reason), advice, retry }
    }

    /// Nothing is known, and another attempt may help.
    fn unknown(reason: String) -> Verdict {
        Verdict::new(VerifyOutcome::Unknown, reason, Advice::VerifyAgain, Retry::FewTimes)
    }

    fn failed(reason: String, advice: Advice) -> Verdict {
        Verdict::new(VerifyOutcome::Failed, reason, advice, Retry::Never)
    }
}

/// Everything known about an ended task and its snapshot.
pub struct Evidence<'a> {
    /// The task.
    pub ours: &'a Upid,
    /// The task that had verified the snapshot before ours was ordered.
    pub before: Option<&'a Upid>,
    pub ending: &'a Ending,
    /// The present state of the snapshot.
    pub state: &'a Result<State, Error>,
    /// What the task's log says; `None` if it is unknown.
    pub log: Option<&'a Findings>,
}

impl Evidence<'_> {
    /// Judges by the snapshot's own state, never by the task's end alone: a task that ends with
    /// `OK` has proved nothing (FACTS-PBS.md, Verify).
    pub fn judge(&self) -> Verdict {
        let state = match self.state {
            Ok(state) => state,
            Err(error) => return self.without_state(error),
        };
        match self.proof(state) {
            Some(VerifyState::Ok) => {
                let (advice, retry) = (Advice::Nothing, Retry::Never);
                Verdict { outcome: VerifyOutcome::Ok, reason: None, advice, retry }
            }
            Some(VerifyState::Failed) => Verdict::failed(self.damage(), Advice::BackUp),
            None => self.without_proof(state),
        }
    }

    /// The result of a verify that read the data as it was when ours was ordered, or later: ours,
    /// or one that began no earlier. Of two concurrent verifies, the one that ends last sets the
    /// state.
    ///
    /// The state from before does not count, whatever the clocks say; nor does a state that a sync
    /// brought from elsewhere.
    fn proof(&self, state: &State) -> Option<VerifyState> {
        let found = state.verification.as_ref()?;
        let later = Some(&found.upid) != self.before
            && found.upid.is_of_the_same_place(self.ours)
            && found.upid.is_no_earlier_than(self.ours);
        (found.upid == *self.ours || later).then_some(found.state)
    }

    /// The verdict if the snapshot's state cannot be read.
    fn without_state(&self, error: &Error) -> Verdict {
        if matches!(error, Error::Unreachable { .. } | Error::Denied { .. })
            || error.not_now().is_some()
        {
            return unanswered(error);
        }
        // A snapshot that was pruned meanwhile does not come back; the damage to its chunks stays.
        let damaged = |log: &Findings| log.is_damaged_apart_from_removal();
        if matches!(error, Error::Gone) && self.log.is_some_and(damaged) {
            let reason = format!("{}; the snapshot was removed since", self.damage());
            return Verdict::failed(reason, Advice::BackUp);
        }
        let skipped = self.log.and_then(|log| log.skipped.as_ref());
        if matches!(error, Error::Gone) || matches!(skipped, Some(Skipped::Gone(_))) {
            return unanswered(&Error::Gone);
        }
        if matches!(self.ending, Ending::Failed(_)) {
            let logged = self.log.and_then(|log| log.manifest.clone());
            if let Some(manifest) = logged.or_else(|| Manifest::of_refusal(error)) {
                return of_manifest(&manifest);
            }
            if self.found_damage() {
                return Verdict::failed(self.damage(), Advice::BackUp);
            }
        }
        Verdict::unknown(format!("the server does not tell the snapshot's state: {error}"))
    }

    /// The verdict if the snapshot's state is not from this verify.
    fn without_proof(&self, state: &State) -> Verdict {
        let nothing = Findings::default();
        let log = self.log.unwrap_or(&nothing);
        if let Some(skipped) = &log.skipped {
            let reason = format!("the server did not look at it: {skipped}");
            let retry = match skipped {
                Skipped::Locked(_) => Retry::ForADay,
                Skipped::Gone(_) | Skipped::Other(_) => Retry::FewTimes,
            };
            return Verdict::new(VerifyOutcome::Skipped, reason, Advice::VerifyAgain, retry);
        }
        match self.ending {
            Ending::Unknown => {
                Verdict::unknown("the server was restarted while it verified".to_owned())
            }
            Ending::Ok if self.is_replaced(state) => Verdict::unknown(
                "a sync has replaced what the server found by what another datastore says"
                    .to_owned(),
            ),
            Ending::Ok => Verdict::unknown(
                "the task ended, but the snapshot's state is not from it".to_owned(),
            ),
            Ending::Aborted(_) => {
                let reason = "somebody has stopped the task on the server".to_owned();
                Verdict { retry: Retry::Never, ..Verdict::unknown(reason) }
            }
            Ending::Failed(text) => self.without_verdict(text),
            Ending::Other(text) => {
                Verdict::unknown(format!("the task ended without a proof: {text}"))
            }
        }
    }

    /// The task found damage, or could not write its result.
    fn without_verdict(&self, text: &str) -> Verdict {
        let Some(log) = self.log else {
            return Verdict::unknown(format!(
                "the server says: {text}; its log, which tells why, could not be read"
            ));
        };
        if self.found_damage() {
            return Verdict::failed(self.damage(), Advice::BackUp);
        }
        if let Some(manifest) = &log.manifest {
            return of_manifest(manifest);
        }
        match &log.unwritten {
            Some(why) => {
                let reason = format!("the server could not write down what it has found: {why}");
                let advice = match why {
                    Unwritten::NoSpace(_) => Advice::Room,
                    Unwritten::Other(_) => Advice::VerifyAgain,
                };
                Verdict { advice, ..Verdict::unknown(reason) }
            }
            None => Verdict::unknown(format!("the server says: {text}; its log names no damage")),
        }
    }

    /// Whether a sync has set the state.
    fn is_replaced(&self, state: &State) -> bool {
        let found = state.verification.as_ref();
        found.is_some_and(|found| !found.upid.is_of_the_same_place(self.ours))
    }

    fn found_damage(&self) -> bool {
        self.log.is_some_and(|log| !log.damaged.is_empty())
    }

    /// What is damaged according to the log, else how the task ended.
    fn damage(&self) -> String {
        let found = self.log.map_or(&[][..], |log| &log.damaged);
        let named = found.get(..MOST_NAMED).unwrap_or(found);
        if named.is_empty() {
            return format!("the server says: {}", self.ending);
        }
        let more = found.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("the server found damage: {}{more}", named.join(", "))
    }
}

/// How many damaged files of a snapshot are named.
const MOST_NAMED: usize = 3;

/// The verdict on a snapshot whose manifest the server cannot load.
pub fn of_manifest(manifest: &Manifest) -> Verdict {
    match manifest {
        Manifest::Damaged(why) => {
            Verdict::failed(format!("the snapshot's manifest is damaged: {why}"), Advice::Forget)
        }
        // The next backup treats it as unfinished.
        Manifest::Missing(why) => {
            Verdict::failed(format!("the snapshot has no manifest: {why}"), Advice::BackUp)
        }
        Manifest::Unreadable(why) => {
            Verdict::unknown(format!("the server cannot read the snapshot's manifest: {why}"))
        }
    }
}

/// The failure of a snapshot with unencrypted data, if its policy requires encryption.
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
    Some(Verdict::failed(reason, Advice::Nothing))
}

/// The outcome if the server did not answer a request.
pub fn unanswered(error: &Error) -> Verdict {
    let reason = match error {
        Error::Denied { status: 401, .. } => format!("the login is not accepted: {error}"),
        _ => error.to_string(),
    };
    let of = |outcome, advice, retry| Verdict::new(outcome, reason, advice, retry);
    match (error, error.not_now()) {
        (Error::Unreachable { .. }, _) => {
            of(VerifyOutcome::Unreachable, Advice::Doctor, Retry::ForADay)
        }
        (Error::Denied { .. }, _) => {
            let foreign = error.foreign_owner().is_some();
            let advice = if foreign { Advice::ChangeOwner } else { Advice::Doctor };
            of(VerifyOutcome::Denied, advice, Retry::Never)
        }
        (Error::Gone, _) => of(VerifyOutcome::Skipped, Advice::LookThere, Retry::Never),
        (_, Some(NotNow::NotMounted)) => {
            of(VerifyOutcome::Unreachable, Advice::Mount, Retry::ForADay)
        }
        (_, Some(NotNow::NoDirectory)) => {
            of(VerifyOutcome::Unreachable, Advice::FileSystem, Retry::ForADay)
        }
        (_, Some(NotNow::Maintenance | NotNow::Server)) => {
            of(VerifyOutcome::Unreachable, Advice::Nothing, Retry::ForADay)
        }
        _ => of(VerifyOutcome::Unknown, Advice::VerifyAgain, Retry::Never),
    }
}

#[cfg(test)]
mod tests;
