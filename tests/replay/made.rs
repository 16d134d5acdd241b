//! Scenarios made from the recordings.

use std::path::Path;

use stillpoint_sim::vzdump::trace::{Call, Scenario};

fn file() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/vzdump/traces.json"))
}

/// All recordings.
pub fn recordings() -> Vec<Scenario> {
    Scenario::load_all(file()).unwrap()
}

/// One recording.
pub fn recording(name: &str) -> Scenario {
    Scenario::load(file(), name).unwrap()
}

/// The index of the first call of that phase.
pub fn at(scenario: &Scenario, phase: &str) -> usize {
    scenario.calls.iter().position(|call| call.phase() == phase).unwrap()
}

/// A copy of a call with another phase.
pub fn like(call: &Call, phase: &str) -> Call {
    let mut call = call.clone();
    call.argv[0] = phase.to_string();
    call
}

/// Ends the recording with a SIGKILL of the worker, after the call of that phase has returned and
/// vzdump has printed the line with that beginning.
pub fn killed_after(mut scenario: Scenario, phase: &str, line: &str) -> Scenario {
    let last = at(&scenario, phase);
    scenario.calls.truncate(last + 1);
    let printed = scenario.task_log.iter().position(|text| text.starts_with(line)).unwrap();
    scenario.task_log.truncate(printed + 1);
    let mark = format!("<<< {} kill9-worker worker=1 cli=1 >>>", scenario.calls[last].t);
    scenario.task_log.push(mark);
    scenario
}

/// The calls of the scenario's only guest, copied for another guest that follows it.
pub fn second_guest(scenario: &Scenario, vmid: u32) -> Vec<Call> {
    let first = scenario.calls.iter().find_map(Call::vmid).unwrap().to_string();
    let its = scenario.calls.iter().filter(|call| call.vmid().is_some());
    let mut its: Vec<Call> = its.cloned().collect();
    for call in &mut its {
        call.argv[2] = vmid.to_string();
        for value in call.env.values_mut() {
            *value = value.replace(&first, &vmid.to_string());
        }
    }
    its
}
