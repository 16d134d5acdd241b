//! Whether the node's clock is synchronised. Most time services tell the kernel. chrony without
//! `rtcsync` does not, so chrony is asked itself.

use std::process::Command;
use std::time::Duration;

use super::check::Check;
use super::messages::{CLOCK, CLOCK_FREE};
use crate::sys::{self, Root, program};

const CHRONYC_LIMIT: Duration = Duration::from_secs(5);

/// What each source says about the clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// The kernel: synchronised.
    pub kernel: bool,
    /// systemd-timesyncd: synchronised since the boot.
    pub timesyncd: bool,
    /// chrony: synchronised; `None` if it does not run.
    pub chrony: Option<bool>,
}

pub fn look(root: &Root) -> Vec<Check> {
    let kernel = sys::clock::synchronised();
    let timesyncd = root.path("/run/systemd/timesync/synchronized").exists();
    let chrony = if kernel || timesyncd { None } else { chrony(root) };
    vec![clock(Clock { kernel, timesyncd, chrony })]
}

/// One source that says yes is enough.
pub fn clock(clock: Clock) -> Check {
    let right = clock.kernel || clock.timesyncd || clock.chrony == Some(true);
    let message = if right { CLOCK } else { CLOCK_FREE };
    message.check("node.clock", &[])
}

fn chrony(root: &Root) -> Option<bool> {
    let mut chronyc = Command::new(root.path("/usr/bin/chronyc"));
    chronyc.args(["-n", "-c", "tracking"]);
    program::run(&mut chronyc, CHRONYC_LIMIT).ok().map(|said| is_tracking(&said))
}

/// chronyc prints values with commas between; the last one is the leap status.
fn is_tracking(said: &str) -> bool {
    said.trim()
        .rsplit_once(',')
        .is_some_and(|(_, leap)| matches!(leap, "Normal" | "Insert second" | "Delete second"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chrony_says_last_whether_it_is_synchronised() {
        let said = "C0A80101,192.168.1.1,3,1795303376.1,0.000001,-0.0,0.00002,1.0,0.0,0.1,0.01,0.001,64.4,";
        assert!(is_tracking(&format!("{said}Normal\n")));
        assert!(!is_tracking(&format!("{said}Not synchronised\n")));
        assert!(!is_tracking("506 Cannot talk to daemon\n"));
    }

    #[test]
    fn one_who_knows_is_enough() {
        let free = Clock::default();
        assert_eq!(clock(free), CLOCK_FREE.check("node.clock", &[]));
        assert_eq!(clock(Clock { chrony: Some(false), ..free }).level, CLOCK_FREE.level);
        for right in [
            Clock { kernel: true, ..free },
            Clock { timesyncd: true, ..free },
            Clock { chrony: Some(true), ..free },
        ] {
            assert_eq!(clock(right).level, CLOCK.level, "{right:?}");
        }
    }
}
