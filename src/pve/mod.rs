//! The configuration of Proxmox VE: each of its files is read here, in one place, as Proxmox VE reads it.

mod cluster;
pub mod edit;
mod guest;
mod net;
mod reported;
pub mod storage;
pub mod vzdump_conf;

pub use cluster::{Member, members, node_name};
pub use guest::{Config, Mount, Place};
pub use net::{Family, Mac, Net, Segment};
pub use reported::reported;
