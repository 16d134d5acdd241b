//! Telling people: lines in the task log, the system's log, mail.

pub mod lines;
pub mod log;
pub mod record;
