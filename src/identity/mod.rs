//! Gives a restored copy its own identity when it starts.
//!
//! [`decide`] is the whole decision, a pure function. [`Survey`] gathers its input, [`Change`] is
//! what a copy gets, and [`Records`] stores which guest owns which hardware address, for the whole
//! cluster.

mod adopt;
mod appearance;
mod apply;
mod change;
pub mod copies;
mod decide;
mod doubt;
pub mod inside;
mod origin;
mod owner;
mod restores;
mod start;
mod survey;

pub use adopt::adopt;
pub use appearance::{Appearance, Known, Rival, rivals};
pub use change::{Change, hostname, new_mac};
pub use decide::{Case, Decision, Due, Recorded, Verdict, decide};
pub use origin::{Copied, Neighbour, Provenance, copied, copied_from};
pub use owner::{Changed, NetLine, Outward, Owned, Records};
pub use restores::{Restored, Restores};
pub use start::{Outlook, foresee, pre_start, remember, remember_all, way_out_of_doubt};
pub use survey::Survey;
