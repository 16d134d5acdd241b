//! What a restored guest has lost, because the backup did not contain it.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::DateTime;

use crate::engine::{Engine, Engines, at_once};
use crate::guest::State;
use crate::identity::{Restored, Restores};
use crate::run::{Fate, Run, Step};
use crate::sys::text::{count, printable};
use crate::sys::{Root, clock};

/// For asking the engines how many containers they have.
const LIMIT: Duration = Duration::from_secs(5);

/// How many containers are named.
const MOST: usize = 20;

/// After a guest has settled by its note: what the backup did not contain, one sentence each.
pub fn lost(root: &Root, run: &Run) -> Vec<String> {
    let steps: Vec<&Step> = run.quiesce.iter().flat_map(|quiesce| &quiesce.steps).collect();
    let all_gone = !steps.is_empty() && steps.iter().all(|step| step.fate == Fate::Gone);
    if all_gone && has_no_container(root, run) {
        let containers = count(steps.len(), "container");
        let mut directories: BTreeSet<&str> = BTreeSet::new();
        let common = |path: &&String| steps.iter().all(|step| step.not_in_backup.contains(path));
        for step in &steps {
            directories.extend(step.not_in_backup.iter().filter(common).map(String::as_str));
        }
        let why = match directories.first() {
            Some(directory) => format!(": {} was not in the backup", printable(directory, 200)),
            None => String::new(),
        };
        return vec![format!(
            "the engine has no container, and {containers} ran when it was backed up{why}"
        )];
    }
    if !is_restored(root, run) {
        return Vec::new();
    }
    let named = steps.iter().filter(|step| !step.not_in_backup.is_empty()).take(MOST);
    let sentence = |step: &&Step| {
        let paths: Vec<String> =
            step.not_in_backup.iter().take(3).map(|path| printable(path, 200)).collect();
        format!(
            "data of {} was not in the backup, and what lies there now is not of that time: {}",
            printable(&step.name, 80),
            paths.join(", ")
        )
    };
    named.map(sentence).collect()
}

/// Whether the guest was restored since its note was written, as far as is known.
fn is_restored(root: &Root, run: &Run) -> bool {
    let noted = DateTime::parse_from_rfc3339(&run.opened).map_or(0, |time| time.timestamp());
    run.noted.is_some_and(|noted| noted != run.vmid)
        || Restores::read(root).is_ok_and(
            |restores| matches!(restores.of(run.vmid), Restored::At(time) if time > noted),
        )
}

fn has_no_container(root: &Root, run: &Run) -> bool {
    let Ok(State::Running(guest)) = State::of(root, run.vmid) else { return false };
    let Ok(engines) = Engines::of(&guest) else { return false };
    let deadline = clock::instant() + LIMIT;
    let reachable: Vec<Engine> = engines.reachable().cloned().collect();
    let answers = at_once(&reachable, |engine| engine.info(deadline));
    !answers.is_empty()
        && answers.iter().all(|info| matches!(info, Ok(info) if info.containers == 0))
}
