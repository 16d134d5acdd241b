//! Registers Stillpoint with Proxmox VE, and removes it.
//!
//! vzdump calls its script ([`register`]), PVE the hookscript of a guest ([`enable`]), systemd the
//! drop-in of every guest's unit. What was configured before is kept, called by ours, and put back.

pub mod drop_in;
mod enable;
pub mod kept;
pub mod nodes;
mod register;
pub mod snippet;
pub mod storages;

pub use enable::{Told, Which, disable, enable};
pub use register::{chained_script, register, unregister};
