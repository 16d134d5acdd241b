//! The states of a run, and the events that lead from one to the next. Nothing else changes a
//! state.
//!
//! ```text
//! of a backup
//!   PreStop     not-come ──look──> looked
//!   DataCopy    pending ──done──> done ──return_guest──> guest-returned
//!   Proof       not-due ──fall_due──> due ──done──> done
//!   Shutdown    not-asked ──hand_over──> handed-over ──see_down──> seen-down ──start──> returned
//!               not-asked ──withhold──> withheld          (vzdump had died by then)
//!   Journalled  no ──begin──> writing ──done──> yes
//! of its containers
//!   Rest        planned ──begin──> stopping ──finish──> at-rest       any of them ──give_up──> given-up
//!   Resuming    not-begun ──begin──> begun ──start──> started
//! of one container
//!   Stop        planned ──request──> requested ──confirm──> stopped ──kill──> (killed)
//!               requested ──refuse──> unprepared
//!               any ──ask_to_yield──> yielding ──yield_up──> as before
//!   Start       not-started ──wait──> waiting ──confirm──> started or watched ──stay_up──> started
//!               started or watched ──end──> not-started
//! ```
//!
//! An event that does not fit its state changes nothing: a phase may come twice, late, or after its
//! process was killed. The run is closed when its file is removed, which is no state. Times are
//! milliseconds on the boot clock.

mod backup;
mod container;
mod rest;
#[cfg(test)]
mod tests;

pub use backup::{DataCopy, GuestBefore, Journalled, PreStop, Proof, Shutdown};
pub use container::{Failures, HealthBefore, Killed, Room, Start, Stop, Stopped};
pub use rest::{Rest, Resuming};
