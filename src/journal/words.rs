//! The words that the records of the journal are made of.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::VerifyOutcome;
use crate::config::Strategy;

/// A word that this version knows, or one that another version has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word<T> {
    Known(T),
    Other(String),
}

impl<T: Copy> Word<T> {
    /// The word, if this version knows it.
    pub fn known(&self) -> Option<T> {
        match self {
            Word::Known(word) => Some(*word),
            Word::Other(_) => None,
        }
    }
}

impl<T> From<T> for Word<T> {
    fn from(word: T) -> Word<T> {
        Word::Known(word)
    }
}

/// How a container was brought to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Stop,
    Pause,
    /// It was left running.
    None,
    /// The whole guest was shut down.
    Shutdown,
}

impl From<Strategy> for Action {
    fn from(strategy: Strategy) -> Action {
        match strategy {
            Strategy::Stop => Action::Stop,
            Strategy::Pause => Action::Pause,
            Strategy::None => Action::None,
        }
    }
}

/// What became of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerFate {
    Back,
    /// It was started again and has done its work.
    Finished,
    /// It was removed.
    Gone,
    /// Somebody else has dealt with it.
    Left,
    Failed,
    /// It would write to what another guest has too.
    HeldBack,
    /// It is not back yet.
    Open,
}

/// Who acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    Guard,
    JobStart,
    JobEnd,
    /// The start of the guest.
    Settle,
    /// The boot of the node.
    Recover,
    Person,
    /// Somebody: a container was seen running, or removed.
    Somebody,
    /// The process that found a run that cannot be read.
    #[serde(rename = "damaged run")]
    DamagedRun,
    /// The backup server, without a verify of ours: a later check found that its state of the
    /// snapshot has changed.
    Server,
}

/// What was done to a guest after vzdump had died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestAction {
    Thawed,
    Unlocked,
    Started,
}

impl fmt::Display for GuestAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GuestAction::Thawed => "thawed",
            GuestAction::Unlocked => "unlocked",
            GuestAction::Started => "started",
        })
    }
}

/// How the verify of a backup began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyState {
    Started,
    /// Behind others of the datastore.
    Queued,
    /// The settings do not ask for it this time.
    NotDue,
    /// It could not be started; the outcome so far.
    #[serde(untagged)]
    NotStarted(VerifyOutcome),
}

impl VerifyState {
    /// Whether the server was asked, or will be as soon as it is its turn.
    pub fn is_under_way(self) -> bool {
        matches!(self, VerifyState::Started | VerifyState::Queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_str, to_string};

    fn same<T: Serialize + for<'a> Deserialize<'a>>(word: &str) -> Word<T> {
        let json = format!("\"{word}\"");
        let read: Word<T> = from_str(&json).unwrap();
        assert_eq!(to_string(&read).unwrap(), json, "it is written as it was read");
        read
    }

    #[test]
    fn every_word_is_written_as_it_is_read() {
        let words = ["back", "finished", "gone", "left", "failed", "held-back", "open"];
        assert!(words.iter().all(|word| same::<ContainerFate>(word).known().is_some()));
        let words = ["stop", "pause", "none", "shutdown"];
        assert!(words.iter().all(|word| same::<Action>(word).known().is_some()));
        let words = ["guard", "job-start", "job-end", "settle", "recover", "person", "server"];
        let rare = ["somebody", "damaged run"];
        assert!(rare.iter().all(|word| same::<Actor>(word).known().is_some()));
        assert!(words.iter().all(|word| same::<Actor>(word).known().is_some()));
        for done in [GuestAction::Thawed, GuestAction::Unlocked, GuestAction::Started] {
            assert_eq!(same::<GuestAction>(&done.to_string()).known(), Some(done));
        }
        assert_eq!(same("not-due"), Word::Known(VerifyState::NotDue));
        let denied = VerifyState::NotStarted(VerifyOutcome::Denied);
        assert_eq!(same("denied"), Word::Known(denied));
        assert_eq!(same::<ContainerFate>("thrown-away"), Word::Other("thrown-away".to_string()));
    }
}
