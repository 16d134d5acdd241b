//! What stands in the way of good backups on this node, and how to mend it.

mod check;

pub use check::{Check, Level};
