//! Start order for fixed addresses and ports: they must still be free when their container starts.
//!
//! An engine does not reserve an address for a container that is down: while many start at once,
//! one without a fixed address may get it (FACTS-DOCKER.md, Stop and start).

use std::collections::{HashMap, HashSet};

use super::order::{acyclic, sorted, turned_round};
use crate::engine::{Container, HostPort, Network};
use crate::run::MOST_DEPENDENCIES;

/// How many pairs of published ports are compared; a guest with a thousand ports, some in ranges,
/// has fewer.
const MOST_PAIRS: usize = 1_000_000;

/// For each container those that must start before it, so that it does not take their address or
/// port. `None` stands for a container that nothing is known of.
pub fn first_come(containers: &[Option<&Container>]) -> Vec<Vec<usize>> {
    let mut before = vec![Vec::new(); containers.len()];
    let mut room = MOST_DEPENDENCIES;
    by_network(containers, &mut before, &mut room);
    by_port(containers, &mut before, &mut room);
    for before in &mut before {
        before.sort_unstable();
        before.dedup();
    }
    acyclic(&mut before);
    before
}

fn by_network(containers: &[Option<&Container>], before: &mut [Vec<usize>], room: &mut usize) {
    /// Those with an address of their own; those that only have a hardware address of their own,
    /// and are given whichever address is free; all others.
    #[derive(Default)]
    struct Members {
        fixed: Vec<usize>,
        fixed_mac: Vec<usize>,
        others: Vec<usize>,
    }
    let mut networks: HashMap<(&str, &str), Members> = HashMap::new();
    for (index, container) in containers.iter().enumerate() {
        let Some(container) = container else { continue };
        for network in &container.networks {
            let members = networks.entry((&container.engine, &network.name)).or_default();
            let own_mac = network.odd_mac || is_fixed(container, network);
            let list = match (network.fixed.is_empty(), own_mac) {
                (false, _) => &mut members.fixed,
                (true, true) => &mut members.fixed_mac,
                (true, false) => &mut members.others,
            };
            list.push(index);
        }
    }
    for members in networks.values() {
        for other in &members.fixed_mac {
            add(&members.fixed, *other, before, room);
        }
        for other in &members.others {
            add(&members.fixed, *other, before, room);
            add(&members.fixed_mac, *other, before, room);
        }
    }
}

/// The one with the smaller choice of ports goes first.
fn by_port(containers: &[Option<&Container>], before: &mut [Vec<usize>], room: &mut usize) {
    let ports: Vec<(usize, &HostPort)> = containers
        .iter()
        .enumerate()
        .flat_map(|(index, container)| {
            container
                .iter()
                .flat_map(move |container| &container.ports)
                .map(move |port| (index, port))
        })
        .collect();
    let mut pairs = MOST_PAIRS;
    for (choosy, wide) in ports.iter().filter(|(_, port)| port.spread() > 0) {
        for (index, narrow) in &ports {
            if pairs == 0 {
                return;
            }
            pairs -= 1;
            if index != choosy && narrow.spread() < wide.spread() && narrow.overlaps(wide) {
                add(&[*index], *choosy, before, room);
            }
        }
    }
}

fn add(first: &[usize], then: usize, before: &mut [Vec<usize>], room: &mut usize) {
    let fits = first.len().min(*room);
    *room -= fits;
    before[then].extend(&first[..fits]);
}

/// Whether a container can have only one address in that network.
pub fn is_fixed(container: &Container, network: &Network) -> bool {
    container.fixed_mac || network.fixed_mac || !network.fixed.is_empty()
}

/// Puts containers that were refused their own address before all others that are down: somebody
/// has made room for them.
pub fn make_way(
    first_come: &mut [Vec<usize>],
    refused: &HashSet<usize>,
    down: &[Option<&Container>],
) {
    let mut refused: Vec<usize> =
        refused.iter().copied().filter(|index| *index < down.len()).collect();
    refused.sort_unstable();
    for (index, before) in first_come.iter_mut().enumerate() {
        if refused.binary_search(&index).is_ok() {
            before.clear();
        } else if down[index].is_some() {
            before.extend(&refused);
            before.sort_unstable();
            before.dedup();
        }
    }
}

/// Combines the order of dependencies with the order of addresses. If they contradict each other,
/// the address wins: a start that comes too early is repeated, but a taken address stays taken.
///
/// Neither may contain a circle.
pub fn joined(mut dependencies: Vec<Vec<usize>>, first_come: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let awaited = awaited(first_come);
    // First drops dependencies of a container with a fixed address on one without, which is the
    // contradiction itself. Only if that is not enough, drops the other dependencies of those with
    // fixed addresses.
    for all in [false, true] {
        let circled = circled(&union(&dependencies, first_come));
        if !circled.contains(&true) {
            break;
        }
        for (index, waits_for) in dependencies.iter_mut().enumerate() {
            if circled[index] && awaited[index] {
                waits_for.retain(|other| !circled[*other] || awaited[*other] && !all);
            }
        }
    }
    let mut both = union(&dependencies, first_come);
    acyclic(&mut both);
    both
}

/// Which of them others wait for, so that they get their addresses.
pub fn awaited(first_come: &[Vec<usize>]) -> Vec<bool> {
    turned_round(first_come).iter().map(|others| !others.is_empty()).collect()
}

fn union(one: &[Vec<usize>], other: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let both = one.iter().zip(other).map(|(one, other)| {
        let mut both = [one.as_slice(), other.as_slice()].concat();
        both.sort_unstable();
        both.dedup();
        both
    });
    both.collect()
}

/// Which ones wait in a circle, or on a path between two circles.
fn circled(waits_for: &[Vec<usize>]) -> Vec<bool> {
    let mut circled = vec![true; waits_for.len()];
    let turned = turned_round(waits_for);
    for index in sorted(waits_for).into_iter().chain(sorted(&turned)) {
        circled[index] = false;
    }
    circled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_network(name: &str, fixed: &[&str]) -> Network {
        let fixed = fixed.iter().map(|address| address.to_string()).collect();
        Network { name: name.to_string(), fixed, ..Network::default() }
    }

    fn container(networks: Vec<Network>, ports: &[(u16, u16)]) -> Container {
        let ports = ports.iter().map(|(first, last)| HostPort {
            protocol: "tcp".to_string(),
            address: String::new(),
            first: *first,
            last: *last,
        });
        let json = br#"{"Id":"3b1f0c2d4e5f","Name":"/x","State":{"Status":"exited"}}"#;
        let plain = Container::parse(json).unwrap();
        Container { networks, ports: ports.collect(), ..plain }
    }

    fn edges(containers: &[Container]) -> Vec<Vec<usize>> {
        let containers: Vec<Option<&Container>> = containers.iter().map(Some).collect();
        first_come(&containers)
    }

    fn order(dependencies: &[&[usize]], containers: &[Container]) -> Vec<usize> {
        let dependencies = dependencies.iter().map(|others| others.to_vec()).collect();
        let joined = joined(dependencies, &edges(containers));
        let order = sorted(&joined);
        assert_eq!(order.len(), containers.len(), "{joined:?}");
        order
    }

    #[test]
    fn a_fixed_address_goes_before_the_others_of_its_network() {
        let proxy = container(vec![in_network("edge", &["172.30.0.2"])], &[]);
        let app = container(vec![in_network("edge", &[])], &[]);
        let elsewhere = container(vec![in_network("shop", &[])], &[]);
        assert_eq!(edges(&[app.clone(), proxy.clone(), elsewhere]), [vec![1], vec![], vec![]]);
        let mac = Container { fixed_mac: true, ..app.clone() };
        assert_eq!(edges(&[app.clone(), mac.clone()]), [vec![1], vec![]]);
        // It is given an address too, which may be the proxy's.
        assert_eq!(edges(&[mac, proxy.clone()]), [vec![1], vec![]]);
        let of_endpoint = Network { fixed_mac: true, ..in_network("edge", &[]) };
        assert_eq!(edges(&[app.clone(), container(vec![of_endpoint], &[])]), [vec![1], vec![]]);
        let ipv6 = container(vec![in_network("edge", &["fd00::2"])], &[]);
        assert_eq!(edges(&[app, ipv6, proxy]), [vec![1, 2], vec![], vec![]]);
    }

    #[test]
    fn nothing_waits_for_what_is_not_known() {
        assert_eq!(first_come(&[None, None]), [vec![], vec![]] as [Vec<usize>; 2]);
    }

    #[test]
    fn a_port_that_is_fixed_goes_before_one_that_may_be_any() {
        let web = container(vec![], &[(8080, 8080)]);
        let any = container(vec![], &[(1, u16::MAX)]);
        let range = container(vec![], &[(8000, 8100)]);
        let other = container(vec![], &[(9000, 9010)]);
        assert_eq!(edges(&[any, range, web, other]), [vec![1, 2, 3], vec![2], vec![], vec![]]);
    }

    #[test]
    fn an_address_wins_against_a_dependency() {
        let proxy = container(vec![in_network("edge", &["172.30.0.2"])], &[]);
        let app = container(vec![in_network("edge", &[])], &[]);
        // proxy depends on app, app on db.
        let stack = [proxy.clone(), app.clone(), app.clone()];
        assert_eq!(order(&[&[1], &[2], &[]], &stack), [0, 2, 1]);
        // dns and proxy have fixed addresses, proxy depends on dns and dns on app: only the
        // dependency of dns on app is dropped.
        let stack = [proxy.clone(), proxy.clone(), app];
        assert_eq!(order(&[&[1], &[2], &[]], &stack), [1, 0, 2]);
    }

    #[test]
    fn who_was_refused_goes_first() {
        let app = container(vec![in_network("edge", &[])], &[]);
        let down = [Some(&app), Some(&app), None];
        let mut first_come = vec![vec![], vec![0], vec![]];
        make_way(&mut first_come, &HashSet::from([1]), &down);
        assert_eq!(first_come, [vec![1], vec![], vec![]]);
    }

    #[test]
    fn two_networks_that_contradict_each_other_end_in_no_circle() {
        let one = container(vec![in_network("a", &["10.0.0.2"]), in_network("b", &[])], &[]);
        let other = container(vec![in_network("b", &["10.1.0.2"]), in_network("a", &[])], &[]);
        assert_eq!(order(&[&[1], &[]], &[one.clone(), other.clone()]).len(), 2);
        assert_eq!(order(&[&[], &[0]], &[one, other]).len(), 2);
    }

    #[test]
    fn ten_thousand_containers_are_ordered() {
        let fixed = |index: usize| if index.is_multiple_of(2) { vec!["10.0.0.2"] } else { vec![] };
        let containers: Vec<Container> = (0..10_000)
            .map(|index| container(vec![in_network("edge", &fixed(index))], &[(1, u16::MAX)]))
            .collect();
        let chain = (0..10_000).map(|index| if index > 0 { vec![index - 1] } else { vec![] });
        let joined = joined(chain.collect(), &edges(&containers));
        assert_eq!(sorted(&joined).len(), 10_000);
    }
}
