//! The steps of a verify task, in order.

use std::collections::VecDeque;

use super::access::owns;
use super::snapshot::{SnapshotId, Verification};
use super::store::{Datastore, Group, namespace_path};

/// What is to be verified.
#[derive(Debug, Clone)]
pub enum Target {
    /// One snapshot.
    Snapshot(SnapshotId),
    /// A new snapshot, verified because of the datastore's setting.
    New(SnapshotId),
    /// All snapshots of a group: namespace, type and id.
    Group(String, String, String),
    /// Everything in a namespace and below.
    Namespace(String),
}

impl Target {
    /// The task's type and worker id.
    pub fn worker(&self, store: &str) -> (&'static str, String) {
        match self {
            Target::Snapshot(SnapshotId { ns, kind, id, time, .. }) => {
                let ns = namespace_path(ns);
                let id = format!("{store}:{ns}/{kind}/{id}/{time:08X}");
                ("verify_snapshot", id)
            }
            Target::New(id) => {
                let id = format!("{store}:{}/{}/{:08X}", id.kind, id.id, id.time);
                ("verify", id)
            }
            Target::Group(ns, kind, id) => {
                let ns = namespace_path(ns);
                ("verify_group", format!("{store}:{ns}/{kind}/{id}"))
            }
            Target::Namespace(ns) if ns.is_empty() => ("verify", store.to_owned()),
            Target::Namespace(ns) => ("verify", format!("{store}:{}", namespace_path(ns))),
        }
    }
}

/// Which snapshots to skip.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Skip snapshots that were verified before, whatever the result.
    pub ignore_verified: bool,
    /// Days after which a verified snapshot is verified again anyway.
    pub outdated_after: Option<i64>,
    /// Only groups of this owner.
    pub owner: Option<String>,
}

impl Filter {
    /// Whether a snapshot with this last verify is skipped.
    pub fn passes_over(&self, last: Option<&Verification>, now: i64) -> bool {
        let Some(last) = last.filter(|_| self.ignore_verified) else {
            return false;
        };
        let days = (now - last.starttime) / 86_400;
        self.outdated_after.is_none_or(|age| days <= age)
    }
}

/// One step of a task.
#[derive(Debug, Clone)]
pub enum Step {
    /// Log this line.
    Line(String),
    /// Verify this snapshot, or skip it.
    Verify(SnapshotId),
}

fn snapshot_ids(store: &str, group: &Group) -> Vec<SnapshotId> {
    let mut times: Vec<i64> = group.snapshots.iter().map(|one| one.time).collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    let id = |time| SnapshotId::new(store, &group.ns, &group.kind, &group.id, time);
    times.into_iter().map(id).collect()
}

/// The steps of a task.
pub fn plan(store: &Datastore, target: &Target, filter: &Filter) -> VecDeque<Step> {
    let name = &store.name;
    let mut steps = VecDeque::new();
    let mut line = |text: String| steps.push_back(Step::Line(text));
    match target {
        Target::Snapshot(id) => steps.push_back(Step::Verify(id.clone())),
        Target::New(id) => {
            line("Automatically verifying newly added snapshot".to_owned());
            steps.push_back(Step::Verify(id.clone()));
        }
        Target::Group(ns, kind, id) => match store.group(ns, kind, id) {
            Some(group) => add_group(&mut steps, name, group, 0, 1),
            None => {
                let place = match ns.as_str() {
                    "" => "root namespace".to_owned(),
                    ns => format!("namespace '{ns}'"),
                };
                line(format!(
                    "verify datastore '{name}', {place}, group {kind}/{id} - unable to list \
                     backups: ENOENT: No such file or directory"
                ));
            }
        },
        Target::Namespace(ns) => {
            let below = format!("{ns}/");
            let inside =
                |group: &&Group| ns.is_empty() || group.ns == *ns || group.ns.starts_with(&below);
            let wanted = |group: &&Group| {
                let owner = filter.owner.as_deref();
                owner.is_none_or(|owner| owns(owner, &group.owner))
            };
            let groups = store.groups.iter().filter(inside).filter(wanted);
            let mut groups: Vec<&Group> = groups.collect();
            groups.sort_by_key(|group| {
                let number = group.id.parse::<u64>().unwrap_or(u64::MAX);
                (group.kind.clone(), number, group.id.clone(), group.ns.clone())
            });
            line(format!("verify datastore {name}"));
            if let Some(owner) = &filter.owner {
                line(format!("limiting to backups owned by {owner}"));
            }
            line(format!("found {} groups", groups.len()));
            line("using 1 read and 4 verify thread(s)".to_owned());
            for (at, group) in groups.iter().enumerate() {
                add_group(&mut steps, name, group, at, groups.len());
            }
        }
    }
    steps
}

fn add_group(steps: &mut VecDeque<Step>, store: &str, group: &Group, at: usize, groups: usize) {
    let ids = snapshot_ids(store, group);
    let count = ids.len();
    steps.push_back(Step::Line(format!(
        "verify group {store}:{}/{} ({count} snapshots)",
        group.kind, group.id
    )));
    for (done, id) in (1..).zip(ids) {
        steps.push_back(Step::Verify(id));
        let percent = 100.0 * (at as f64 + done as f64 / count as f64) / groups as f64;
        let progress = if groups == 1 {
            format!("{done}/{count} snapshots")
        } else if done == count {
            format!("{}/{groups} groups", at + 1)
        } else {
            format!("{at}/{groups} groups, {done}/{count} snapshots in group #{}", at + 1)
        };
        steps.push_back(Step::Line(format!("percentage done: {percent:.2}% ({progress})")));
    }
}
