//! A guest: its configuration in the cluster, and the running thing.

mod config;
mod revive;
mod running;

pub use config::{Config, Mount, Place};
pub use revive::{lift_lock, start, thaw};
pub use running::{Guest, State};
