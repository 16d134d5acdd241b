//! Proxmox Backup Server: a client for it, its snapshots and its tasks.

mod certificate;
mod client;
mod list;
pub mod look;
mod progress;
#[cfg(test)]
mod recorded;
mod snapshot;
mod task;
pub mod tls;
mod words;

pub use certificate::Certificate;
pub use client::{Error, Pbs, SECOND_FACTOR};
pub use list::Choice;
pub use snapshot::{
    BackupType, Entry, Snapshot, SnapshotFile, State, Verification, VerifyState, encrypted,
    unencrypted,
};
pub use task::{TaskStatus, Upid};
pub use words::{Ending, Findings, Manifest, NotNow, Skipped, Unwritten};

use crate::sys::text::percent_encoded;

/// A query or form with these fields.
fn fields(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_is_the_one_the_server_was_asked_with() {
        assert_eq!(
            percent_encoded(r"UPID:vm:00005DF6:x\x2d:felhom@pbs!n100:"),
            "UPID%3Avm%3A00005DF6%3Ax%5Cx2d%3Afelhom%40pbs%21n100%3A"
        );
        assert_eq!(percent_encoded("a/b ä"), "a%2Fb%20%C3%A4");
        assert_eq!(fields(&[("ns", "a&b=c"), ("x", "1")]), "ns=a%26b%3Dc&x=1");
    }
}
