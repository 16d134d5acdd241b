//! Bringing a guest's containers to rest for the instant of the copy, and always back.

mod bring_back;
mod damaged;
mod effort;
mod finish;
mod foreground;
mod grade;
mod guard;
mod left;
mod left_out;
mod note;
mod order;
mod plan;
mod prove;
mod resume;
mod revive;
mod settle;
mod stop;
mod survey;
mod unordered;
mod way_back;

pub use bring_back::{BroughtBack, Errand, bring_back, bring_back_locked};
pub use finish::{finish, give_up, journal, recovered};
pub use grade::grade;
pub use guard::{bring_back_and_unlock, guard, recover, recover_guest, watch};
pub use left::{forget, look_for_removed, sight, sight_locked, tell, try_again};
pub use note::run_of;
pub use plan::{Plan, plan};
pub use resume::{look_again, resume, start_order};
pub use revive::{lock_in_words, thaw, went_down};
pub use settle::settle;
pub use stop::{Quiesced, arm, note_running, quiesce};
pub use survey::{Survey, survey};
