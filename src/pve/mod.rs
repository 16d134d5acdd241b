//! The configuration of Proxmox VE: each of its files is parsed here, once, as Proxmox VE parses
//! it.
//!
//! | file | where |
//! |---|---|
//! | `/etc/pve/lxc/VMID.conf`, `/etc/pve/qemu-server/VMID.conf` | [`Config`], [`Place`], [`members`]; changed by [`edit`] |
//! | `/var/lib/lxc/VMID/config` | [`lxc`] |
//! | `/etc/pve/storage.cfg` | [`storage`] |
//! | `/etc/pve/jobs.cfg` | [`jobs`] |
//! | `/etc/vzdump.conf` | [`vzdump_conf`] |
//! | `/etc/pve/datacenter.cfg` | [`datacenter`] |
//! | `/etc/pve/.members` | [`Nodes`] |
//! | `/etc/pve/.rrd` | [`reported`] |
//! | the drop-in of `pve-container@`, and everything else that calls us | [`OnStart`], [`is_vzdump_hook`] |
//!
//! The rules come from Proxmox VE's sources. Of two lines with one key the last counts, except in
//! storage.cfg and jobs.cfg, where the first counts.

mod callers;
mod cluster;
pub mod datacenter;
pub mod edit;
mod guest;
pub mod jobs;
pub mod lxc;
mod net;
mod nodes;
mod options;
mod reported;
mod sections;
pub mod storage;
pub mod vzdump_conf;

pub use callers::{
    DROP_INS, GUEST_HOOK, OnStart, SNIPPET, VZDUMP_HOOK, drop_in_calls, is_our_snippet,
    is_vzdump_hook,
};
pub use cluster::{Member, members, node_name};
pub use guest::{Config, Mount, Place};
pub use net::{Family, Mac, Net, Segment};
pub use nodes::Nodes;
pub use reported::reported;
