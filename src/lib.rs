//! Stillpoint makes Proxmox backups of Docker-in-LXC guests consistent, proven and restorable.
//!
//! Proxmox VE calls the hooks, systemd and people call the command; both are thin and hand the call to this
//! library. Rooms, from what Stillpoint does down to the system; a room uses only rooms below it:
//!
//! ```text
//! hook, command                                what a call of a hook, or of a person, comes to
//! doctor                                       what stands in the way on a node
//! setup                                        having Proxmox VE call Stillpoint
//! quiesce   verify   identity   inventory      what Stillpoint does
//! report                                       telling people
//! journal   run                                what it remembers
//! vzdump    guest    engine     pbs            the four outside worlds, typed
//! config                                       settings
//! sys                                          files, locks, processes, sockets, units
//! ```
//!
//! What the code says of the four outside worlds was measured: on Proxmox VE 9.2.11, Proxmox Backup Server 4.2.3 and
//! Docker 20.10 to 29. The recorded runs and exchanges are in `tests/fixtures/`.

pub mod command;
pub mod config;
pub mod doctor;
pub mod engine;
pub mod guest;
pub mod hook;
pub mod identity;
pub mod inventory;
pub mod journal;
pub mod pbs;
pub mod quiesce;
pub mod report;
pub mod run;
pub mod setup;
pub mod sys;
pub mod verify;
pub mod vzdump;
