//! Stacks whose labels give no stop order: compose v1 and podman-compose write no dependencies.
//! Their databases are stopped last and started first.

use std::collections::{BTreeMap, HashSet};

use crate::engine::Container;
use crate::run::MOST_DEPENDENCIES;
use crate::sys::text::printable;

/// Compose v2 writes it for every container, empty for one that depends on nothing.
const DEPENDS_ON: &str = "com.docker.compose.depends_on";

/// How many databases a note names.
const MOST_NAMES: usize = 5;

/// Makes the databases of such stacks stop after everything else of their stack: `after` has for
/// each container those that are stopped before it. An unknown order is noted.
pub fn databases_last(
    containers: &[&Container],
    after: &mut [Vec<usize>],
    notes: &mut Vec<String>,
) {
    let mut count: usize = after.iter().map(Vec::len).sum();
    for ((_, project), indices) in stacks(containers) {
        let databases: Vec<usize> =
            indices.iter().filter(|index| containers[**index].database).copied().collect();
        let others: Vec<usize> =
            indices.iter().filter(|index| !containers[**index].database).copied().collect();
        count = count.saturating_add(databases.len().saturating_mul(others.len()));
        if count > MOST_DEPENDENCIES {
            notes.push("there are too many dependencies; some are ignored".to_string());
            return;
        }
        let names: Vec<String> = databases
            .iter()
            .take(MOST_NAMES)
            .map(|index| printable(&containers[*index].name, 80))
            .collect();
        let what = match (names.is_empty(), others.is_empty()) {
            (false, false) => {
                format!("its databases ({}) are stopped last and started first", names.join(", "))
            }
            _ => "all of it is stopped, and started, at once".to_string(),
        };
        notes.push(format!(
            "order unknown: stack {} does not say what depends on what ({DEPENDS_ON} is missing, as \
             compose v1 leaves it): {what}",
            printable(project, 80)
        ));
        for database in databases {
            let known: HashSet<usize> = after[database].iter().copied().collect();
            after[database].extend(others.iter().filter(|other| !known.contains(other)));
        }
    }
}

/// The stacks, by engine and project, with those of their containers whose labels give no
/// dependencies; only stacks with several running services, because one alone needs no order.
fn stacks<'a>(containers: &[&'a Container]) -> BTreeMap<(&'a str, &'a str), Vec<usize>> {
    let mut stacks: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (index, container) in containers.iter().enumerate() {
        let Some(project) = container.project().filter(|_| container.label(DEPENDS_ON).is_none())
        else {
            continue;
        };
        stacks.entry((&container.engine, project)).or_default().push(index);
    }
    stacks.retain(|_, indices| {
        let services: HashSet<_> =
            indices.iter().map(|index| containers[*index].service()).collect();
        services.len() > 1
    });
    stacks
}
