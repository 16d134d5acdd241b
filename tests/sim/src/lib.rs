//! A simulated Proxmox VE node: its directories, a Docker engine in each guest, a backup server, and
//! a vzdump that calls the real hook exactly as recorded runs of the real one do.
//!
//! It drives the programs that are installed on a node and knows nothing of their insides: a
//! simulation that shared code with what it tests would share its mistakes.

pub mod engine;
pub mod hooks;
pub mod http;
pub mod node;
pub mod pbs;
pub mod process;
pub mod story;
pub mod tls;
pub mod vzdump;
