//! Looking at what may hang in the kernel: by a process that can be left behind.
//!
//! A guest decides how long a look at its file system takes (FUSE, and an overlay over one), and so does a storage's server or
//! the daemon behind `/etc/pve`. Who waits there may get no signal, not even SIGKILL, and a thread that waits there keeps its whole
//! process: descriptors stay open, and who reads its pipe waits too. So nothing that vzdump, systemd or a person waits for
//! looks by itself. A child does: it has one end of a socket pair and nothing else of ours, lives in a control group that nobody waits for,
//! and hands back results and open descriptors within a limit. It ends with the guest's init, so that nothing of a guest that has
//! stopped stays mounted because of it. Past the limit it is killed and left, and while it still
//! exists no other is started for the same ([`Watched`]).

mod cgroup;
mod hung;
mod inside;
mod kept;
mod links;
mod looker;
mod rights;
mod serve;
mod spawn;
mod wire;

pub use hung::Watched;
pub use kept::{keep, looker};
pub use looker::Looker;
pub use serve::serve_if_asked;
pub(super) use spawn::{fork, is_apart};

pub(super) use wire::deadline_read;
pub use wire::{Answer, Identity, Place, Reply, Request};
