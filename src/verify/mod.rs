//! Proving a backup on the Proxmox Backup Server: a verify is started for that one snapshot, and its outcome is
//! read from the snapshot's own state.

pub mod by_hand;
mod collect;
mod judge;
mod pending;

pub use collect::{Collected, collect};
pub use pending::{Pending, start};
