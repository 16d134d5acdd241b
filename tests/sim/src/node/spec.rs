//! The properties of a guest.

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

/// The properties of a guest.
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
    /// Volumes in the backup; 1 means the root only.
    pub volumes: u32,
    /// The containers of its engine.
    pub containers: Vec<Spec>,
    /// Its engine.
    pub engine: EngineConfig,
    /// Whether Stillpoint's hookscript is set: it is called after the guest has started.
    pub hookscript: bool,
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
            hookscript: false,
        }
    }

    /// A running virtual machine.
    pub fn qemu(vmid: u32) -> Self {
        Self { kind: Kind::Qemu, containers: Vec::new(), ..Self::lxc(vmid) }
    }
}
