//! Containers that can start only while others run: they join their namespaces
//! (`network_mode: container:ID`, or `service:NAME` in compose; likewise for processes and IPC), or
//! are linked to them.

use std::collections::HashMap;

use crate::config::Strategy;
use crate::engine::{Container, Status};

/// The shortest prefix of an id that counts as the id.
const SHORT_ID: usize = 12;

/// For each container, the indices of those that must run when it starts; `None` stands for one
/// that does not run.
pub struct Needs(Vec<Vec<Need>>);

struct Need {
    owner: Option<usize>,
    /// It joins the other's namespace, and is not merely linked to it.
    shares: bool,
}

impl Needs {
    /// Finds the needs among the containers of one survey; no others run.
    pub fn of(containers: &[Container]) -> Needs {
        let mut places: HashMap<(&str, &str), usize> = HashMap::new();
        for (index, container) in containers.iter().enumerate() {
            let short = container.id.get(..SHORT_ID).unwrap_or_default();
            for reference in [container.name.as_str(), short, &container.id] {
                places.insert((&container.engine, reference), index);
            }
        }
        // A container that somebody has paused must stay paused, and one that joins a frozen
        // process would wait for it.
        let runs = |index: &usize| containers[*index].status == Status::Running;
        let needs = containers.iter().map(|container| {
            let need = |reference: &String, shares| {
                let place = places.get(&(container.engine.as_str(), reference.as_str()));
                Need { owner: place.copied().filter(runs), shares }
            };
            let joins = container.joins.iter().map(|other| need(other, true));
            joins.chain(container.links.iter().map(|other| need(other, false))).collect()
        });
        Needs(needs.collect())
    }

    /// The running containers that this one needs.
    pub fn owners(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        self.0[index].iter().filter_map(|need| need.owner)
    }

    /// Whether it needs one that does not run: then it could not start again.
    pub fn is_orphan(&self, index: usize) -> bool {
        self.0[index].iter().any(|need| need.owner.is_none())
    }

    /// Changes `Stop` to `Pause` for each container whose namespace is joined by one that is not
    /// stopped: a restarted network is not the one that the other has joined, and the end of a
    /// process namespace ends its processes. `actions` has one entry for each container, `None` for
    /// one that is not touched. Returns the changed containers.
    pub fn spare_owners(&self, actions: &mut [Option<Strategy>]) -> Vec<usize> {
        let mut spared = Vec::new();
        let mut stays: Vec<usize> =
            (0..actions.len()).filter(|index| actions[*index] != Some(Strategy::Stop)).collect();
        while let Some(index) = stays.pop() {
            for need in self.0[index].iter().filter(|need| need.shares) {
                let Some(owner) = need.owner else { continue };
                if actions[owner] == Some(Strategy::Stop) {
                    actions[owner] = Some(Strategy::Pause);
                    spared.push(owner);
                    stays.push(owner);
                }
            }
        }
        spared.sort_unstable();
        spared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, joins: &[&str]) -> Container {
        let json = format!(
            r#"{{"Id":"{:0<64}","Name":"/{name}","State":{{"Status":"running"}}}}"#,
            name.len()
        );
        let joins = joins.iter().map(|other| other.to_string()).collect();
        Container { joins, ..Container::parse(json.as_bytes()).unwrap() }
    }

    #[test]
    fn the_owner_is_found_by_id_and_by_name() {
        let vpn = container("vpn", &[]);
        let app = container("torrent", &[&vpn.id]);
        let by_short = container("short-one", &[&vpn.id[..12]]);
        let by_name = container("by-its-name", &["vpn"]);
        let needs = Needs::of(&[vpn, app, by_short, by_name]);
        for index in 1..4 {
            assert_eq!(needs.owners(index).collect::<Vec<_>>(), [0]);
            assert!(!needs.is_orphan(index));
        }
    }

    #[test]
    fn who_is_in_the_namespace_of_one_that_does_not_run_is_an_orphan() {
        let gone = container("app", &["3b1f0c2d4e5f"]);
        let restarting = Container { status: Status::Restarting, ..container("vpn", &[]) };
        let other = container("other", &["vpn"]);
        let linked = Container { links: vec!["db".to_string()], ..container("linked", &[]) };
        let needs = Needs::of(&[gone, restarting, other, linked]);
        assert!(
            needs.is_orphan(0) && !needs.is_orphan(1) && needs.is_orphan(2) && needs.is_orphan(3)
        );
    }

    #[test]
    fn whose_namespace_goes_on_being_used_is_not_stopped() {
        let containers = [
            container("host", &[]),
            container("middle", &["host"]),
            container("leaf-one", &["middle"]),
            container("alone-one", &[]),
        ];
        let needs = Needs::of(&containers);
        let stop = Some(Strategy::Stop);
        let mut all = [stop; 4];
        assert!(needs.spare_owners(&mut all).is_empty());
        let mut actions = [stop, stop, Some(Strategy::None), stop];
        assert_eq!(needs.spare_owners(&mut actions), [0, 1]);
        assert_eq!(
            actions,
            [Some(Strategy::Pause), Some(Strategy::Pause), Some(Strategy::None), stop]
        );
    }
}
