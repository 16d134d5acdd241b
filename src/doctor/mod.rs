//! What stands in the way of good backups on this node, and how to mend it.

mod check;
mod storage;
mod storage_files;
mod storage_rights;
mod storage_server;

pub use check::{Check, Level};
pub use storage::storage;
