//! Files, locks, processes, sockets and units: everything that talks to the operating system.

pub mod http;
mod stream;
