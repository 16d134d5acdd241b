//! Looks at things that may hang in the kernel, from a process that can be left behind.
//!
//! A guest decides how long a look at its file system takes (FUSE, and an overlay over one), and so
//! does a storage's server or the daemon behind `/etc/pve`. A process that waits there may get no
//! signal, not even SIGKILL, and one waiting thread keeps its whole process: its descriptors stay
//! open, and a reader of its pipe waits too.
//!
//! So no process that vzdump, systemd or a person waits for looks there itself. A child does. It
//! has one end of a socket pair and nothing else of ours, lives in a control group that nobody
//! waits for, and returns results and open descriptors within a limit. It ends with the guest's
//! init, so that it does not keep the volumes of a stopped guest mounted. After the limit it is
//! killed and left behind, and while it still exists no other is started for the same thing
//! ([`Watched`]).

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
pub use inside::mark;
pub use kept::{keep, looker};
pub use looker::Looker;
pub use serve::serve_if_asked;
pub(super) use spawn::{fork, is_apart};

pub(super) use wire::deadline_read;
pub use wire::{Answer, Identity, Place, Reply, Request};
