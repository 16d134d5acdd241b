//! A guest: its configuration in the cluster, and the running thing.

mod cgroup;
mod cluster;
mod config;
pub mod edit;
mod idmap;
mod mounts;
mod net;
mod processes;
mod reboot;
mod reported;
mod revive;
mod running;
mod sites;
mod volumes;

pub use cluster::{Member, members, node_name};
pub use config::{Config, Mount, Place};
pub use mounts::{Medium, Mounted, Mounts};
pub use net::{Family, Mac, Net, Segment};
pub use processes::{Process, Processes};
pub use reboot::asked_to_reboot;
pub use reported::reported;
pub use revive::{lift_lock, set_hookscript, start, start_command, thaw, way_to_start};
pub use running::{Guest, State};
pub use sites::{Holder, Site, Sites, of_mounted, server};
pub use volumes::{LeftOut, Volumes};
