//! The same faults at random times, each from its own seed.

use std::time::Duration;

use stillpoint_sim::vzdump::replay::{Moment, Victim};

use super::harness::Case;
use super::matrix::{After, Boundary, Fault, MODES};

/// The number of random runs.
const RUNS: u64 = 160;

/// A pseudo-random sequence from a seed (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below that one.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or(0)
    }

    /// A random one of them.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

pub fn cases() -> Vec<Case> {
    (0..RUNS).map(case).collect()
}

fn case(seed: u64) -> Case {
    let mut dice = Dice::new(seed);
    let mode = dice.of(&MODES);
    // Most things happen in these phases.
    let phase = dice.of(&[
        "pre-stop",
        "pre-stop",
        "pre-stop",
        "post-restart",
        "post-restart",
        "backup-start",
        "backup-end",
        "log-end",
        "job-end",
    ]);
    let longest = if matches!(phase, "pre-stop" | "post-restart") { 500 } else { 60 };
    let time = Duration::from_millis(dice.below(longest) as u64);
    let victim = dice.of(&[
        Victim::Hook,
        Victim::Guard,
        Victim::HookAndGuard,
        Victim::Worker,
        Victim::Group,
        Victim::StopButton,
        Victim::Everything,
        Victim::Everything,
    ]);
    let after = dice.of(&[After::Boot, After::BootWithHookscript, After::NextJob]);
    let boundary = Boundary::Moment(phase, Moment::After(time));
    let fault = Fault { mode, boundary, victim, after };
    let name = format!("random-{seed}-{}", fault.name());
    let row = format!("{}, at random", fault.row());
    Case { fault: row, name, weight: fault.weight(), run: Box::new(move || fault.run()) }
}
