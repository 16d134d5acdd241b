use serde::{Deserialize, Serialize};

use crate::sys::sha256::Sha256;

/// A place in the journal, between two lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The number of the file, 0 before the first.
    pub(super) segment: u64,
    /// The line before it, from 1.
    pub(super) line: u64,
    /// In bytes.
    pub(super) offset: u64,
    pub(super) last: Option<LastLine>,
}

/// The line before a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastLine {
    /// Where it begins, in bytes.
    pub(super) begin: u64,
    /// Of the line without its end.
    pub(super) hash: Sha256,
}

impl Position {
    /// Whether nothing lies before it.
    pub fn is_beginning(&self) -> bool {
        self.segment == 0
    }

    pub(super) fn beginning_of(segment: u64) -> Position {
        Position { segment, ..Position::default() }
    }

    /// The SHA-256 of the line before it.
    pub fn head(&self) -> Option<Sha256> {
        self.last.as_ref().map(|last| last.hash)
    }
}
