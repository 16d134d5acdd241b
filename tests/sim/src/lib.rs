//! A simulated Proxmox VE node: its directories, a Docker engine in each guest, a backup server,
//! and a vzdump that calls the real hook exactly as in recorded runs of the real one.
//!
//! It runs the installed programs and shares no code with them: a simulation that shared code with
//! what it tests would share its mistakes.

pub mod engine;
pub mod hooks;
pub mod http;
pub mod node;
pub mod pbs;
pub mod process;
pub mod story;
pub mod tls;
pub mod vzdump;
