use std::fmt;

use super::{Guest, Level, ProofState};
use crate::journal::{VerifyOutcome, VerifyState, Word};

/// `45 s`, `12 min`, `3 h`, `2 d`: the largest unit that gives at least one and a half.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5_400 => format!("{} min", seconds / 60),
        5_400..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `3 h ago`
pub fn ago(seconds: u64) -> String {
    format!("{} ago", age(seconds))
}

/// The journal's word.
impl fmt::Display for ProofState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProofState::Pending => "pending",
            ProofState::Known(known) => outcome(*known),
            ProofState::NotAsked(Word::Other(word)) => word,
            ProofState::NotAsked(Word::Known(state)) => match state {
                VerifyState::Started => "started",
                VerifyState::Queued => "queued",
                VerifyState::NotDue => "not-due",
                VerifyState::NotStarted(known) => outcome(*known),
            },
        })
    }
}

fn outcome(outcome: VerifyOutcome) -> &'static str {
    match outcome {
        VerifyOutcome::Ok => "ok",
        VerifyOutcome::Failed => "failed",
        VerifyOutcome::Skipped => "skipped",
        VerifyOutcome::Unknown => "unknown",
        VerifyOutcome::Unreachable => "unreachable",
        VerifyOutcome::Denied => "denied",
    }
}

/// `9001 prod-docker`
pub fn called(guest: &Guest) -> String {
    match &guest.name {
        Some(name) => format!("{} {name}", guest.vmid),
        None => guest.vmid.to_string(),
    }
}

/// The problems of a guest of at least that level, in one sentence.
pub fn problems(guest: &Guest, least: Level) -> String {
    let bad = guest.problems.iter().filter(|problem| problem.level >= least);
    bad.map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ")
}
