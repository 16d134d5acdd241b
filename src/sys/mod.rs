//! Files, locks, processes, sockets and units: every system call of Stillpoint is in this room.

#![allow(unsafe_code, reason = "system calls")]

pub mod bounded;
pub mod clock;
pub mod detach;
pub mod failpoint;
pub mod file;
pub mod http;
pub mod journald;
pub mod lock;
pub mod look;
pub mod outside;
pub mod process;
pub mod program;
pub mod random;
mod root;
pub mod sha256;
pub mod signal;
mod stream;
pub mod terminal;
pub mod text;
pub mod tree;
mod url;
#[cfg(test)]
pub mod walk;

pub use root::Root;
pub use url::{NoUrl, Url};
