//! The protocol of a run, explored: every order in which hook, guard and whoever else can act on one guest, with at most one
//! thing going wrong: a death at any step, an answer of the engine that is lost, a disk that is full.
//!
//! The actors are the production functions. What they ask of the node comes from a [`World`](world::World) in memory
//! ([`crate::sys::walk`]). The walk asserts of each end that can be reached: what ran runs, what did not run does not, the guest
//! is neither down nor frozen, no run is left, and no run has two records.
//!
//! Bounds: a guest with two or three containers; two actors at a time besides vzdump's worker; one thing that goes wrong. A
//! step ends before the next thing that others can see: a lock, a write of the run, a record, a stop, a start, a sleep. What is
//! only looked at is seen in the same step.

mod actors;
mod explore;
mod step;
mod world;

use std::time::{Duration, Instant};

use self::explore::{Other, Scenario, Second, explore};
use self::world::{Container, Status};
use crate::config::Settings;
use crate::vzdump::Mode;

/// Some walks are long, or are with something going wrong: they are walked where all faults are asked for.
fn all() -> bool {
    std::env::var_os("STILLPOINT_FAULTS").is_some_and(|value| value == "all")
}

fn scenario(name: &'static str, mode: Mode, second: Second) -> Scenario {
    Scenario {
        name,
        mode,
        containers: vec![
            Container::new('a', "web", Status::Running),
            Container::new('b', "db", Status::Running),
        ],
        second,
        faults: 1,
        disk_fills: true,
        settings: Settings::default(),
        removed: None,
    }
}

fn walk(scenario: &Scenario) {
    let began = Instant::now();
    let walked = explore(scenario);
    println!(
        "{:40} {:8} states {:7} ends {:10.3e} interleavings {:4} steps {:6.1} s",
        scenario.name,
        walked.states,
        walked.ends,
        walked.interleavings,
        walked.depth,
        began.elapsed().as_secs_f64()
    );
    assert!(
        walked.wrong.is_empty(),
        "after {} states: {}",
        walked.states,
        walked.wrong.join("\n\n")
    );
}

#[test]
fn whatever_happens_to_hook_and_guard_what_ran_runs_again() {
    walk(&scenario("hook and guard, snapshot", Mode::Snapshot, Second::Nobody));
}

#[test]
fn a_guest_that_is_shut_down_for_its_backup_comes_back_with_all_that_ran() {
    let mut scenario = scenario("hook and guard, stop", Mode::Stop, Second::Nobody);
    scenario.containers[1].kept_up = false;
    // What cannot be written down is left to the restart policies, and the hook says so.
    scenario.disk_fills = false;
    scenario.faults = usize::from(all());
    walk(&scenario);
}

#[test]
fn a_person_may_ask_for_the_containers_at_any_time() {
    let mut meanwhile =
        scenario("hook and person", Mode::Snapshot, Second::Meanwhile(Other::Person));
    meanwhile.faults = usize::from(all());
    walk(&meanwhile);
    walk(&scenario("guard and person", Mode::Snapshot, Second::AfterDeath(Other::Person)));
}

#[test]
fn the_next_job_may_begin_at_any_time_after_a_death() {
    walk(&scenario("guard and next job", Mode::Snapshot, Second::AfterDeath(Other::NextJob)));
}

#[test]
fn the_node_may_boot_at_any_time_after_a_death() {
    walk(&scenario("boot", Mode::Snapshot, Second::AfterDeath(Other::Boot)));
}

#[test]
fn a_second_guard_makes_nothing_worse() {
    walk(&scenario("two guards", Mode::Snapshot, Second::AfterDeath(Other::Guard)));
}

#[test]
fn guards_that_come_when_containers_were_held_for_too_long_disturb_nobody() {
    let mut scenario = scenario("hold limit", Mode::Snapshot, Second::Nobody);
    scenario.settings.quiesce.hold_limit = Duration::ZERO;
    scenario.faults = usize::from(all());
    walk(&scenario);
}

#[test]
fn a_replica_that_did_not_run_is_not_started_in_the_place_of_one_that_was_removed() {
    let mut scenario = scenario("removed", Mode::Snapshot, Second::Nobody);
    scenario.containers.push(Container::new('c', "db", Status::Exited));
    scenario.removed = Some(1);
    scenario.faults = usize::from(all());
    walk(&scenario);
}
