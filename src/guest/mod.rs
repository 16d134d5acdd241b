//! A running guest: its processes, its mounts, its freezer.

mod cgroup;
mod mounts;
mod processes;
mod reboot;
mod revive;
mod running;
mod sites;
mod volumes;

pub use mounts::{Medium, Mounted, Mounts};
pub use processes::{Process, Processes};
pub use reboot::asked_to_reboot;
pub use revive::{lift_lock, set_hookscript, start, start_command, thaw, way_to_start};
pub use running::{Guest, State};
pub use sites::{Holder, Site, Sites, of_mounted, server};
pub use volumes::{LeftOut, Volumes};
