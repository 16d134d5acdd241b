//! How a scenario is replayed, and what every replay must keep.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::{GuestSpec, Node};
use stillpoint_sim::vzdump::replay::{Options, replay};
use stillpoint_sim::vzdump::report::Report;
use stillpoint_sim::vzdump::stage::stage;
use stillpoint_sim::vzdump::trace::Scenario;

/// The node that a scenario needs, with the real programs.
pub fn node_for(scenario: &Scenario, adjust: &dyn Fn(&mut GuestSpec)) -> Node {
    let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
    stage(scenario, None, &binaries, adjust).unwrap()
}

/// A machine is one node: two at once would see each other's vzdump in `/proc`.
static ONE_NODE: Mutex<()> = Mutex::new(());

/// Replays a scenario on that node.
pub fn played_on(node: &Node, scenario: &Scenario, options: &Options) -> Report {
    let _one = ONE_NODE.lock().unwrap_or_else(PoisonError::into_inner);
    replay(node, scenario, options).unwrap()
}

/// Replays a scenario on a new node.
pub fn played(scenario: &Scenario) -> Report {
    played_with(scenario, &Options::default())
}

/// The same with options.
pub fn played_with(scenario: &Scenario, options: &Options) -> Report {
    played_on(&node_for(scenario, &|_| {}), scenario, options)
}

/// What must be true whatever happens.
pub fn keeps_its_promises(report: &Report) {
    let text = report.text();
    assert_eq!(report.lost(), Vec::<String>::new(), "{text}");
    for call in &report.calls {
        assert!(call.signal.is_some() || call.exit == Some(0), "{:?}\n{text}", call.argv);
    }
    let guests = report.calls.iter().filter_map(|call| call.argv.get(2));
    let guests: BTreeSet<u64> = guests.map(|vmid| vmid.parse().unwrap()).collect();
    let records = report.records("backup");
    for vmid in guests {
        let its = records.iter().filter(|record| record["vmid"] == vmid).count();
        assert_eq!(its, 1, "backup records of guest {vmid}\n{text}");
    }
    for guest in report.guests.iter() {
        assert!(!guest.frozen_after, "{text}");
        assert_eq!(guest.running_after, guest.running_before, "{text}");
    }
    for container in &report.containers {
        let guest = report.guests.iter().find(|guest| guest.vmid == container.guest).unwrap();
        if !guest.running_before {
            assert_eq!(container.stops + container.starts + container.pauses, 0, "{text}");
        }
        // A container that was down before does not count.
        if !container.running_before {
            assert_eq!((container.starts, container.running_after), (0, false), "{text}");
        }
    }
    assert_eq!(report.runs_left, Vec::<String>::new(), "{text}");
    assert_eq!(report.processes_left, Vec::<String>::new(), "{text}");
}
