//! How a guest is made.

use crate::engine::EngineConfig;
use crate::engine::container::Spec;

/// Container or virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container, with an engine inside.
    Lxc,
    /// A virtual machine: nobody looks into it.
    Qemu,
}

/// How a guest is made.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// Its number.
    pub vmid: u32,
    /// Container or virtual machine.
    pub kind: Kind,
    /// Its host name.
    pub hostname: String,
    /// Whether it runs when the simulation begins.
    pub running: bool,
    /// Volumes that are in the backup: 1 is the root alone.
    pub volumes: u32,
    /// What its engine runs.
    pub containers: Vec<Spec>,
    /// Its engine.
    pub engine: EngineConfig,
}

impl GuestSpec {
    /// A running container with the stack [`shop`](crate::engine::stack::shop).
    pub fn lxc(vmid: u32) -> Self {
        Self {
            vmid,
            kind: Kind::Lxc,
            hostname: format!("guest-{vmid}"),
            running: true,
            volumes: 1,
            containers: crate::engine::stack::shop(),
            engine: EngineConfig::default(),
        }
    }

    /// A running virtual machine.
    pub fn qemu(vmid: u32) -> Self {
        Self { kind: Kind::Qemu, containers: Vec::new(), ..Self::lxc(vmid) }
    }
}
