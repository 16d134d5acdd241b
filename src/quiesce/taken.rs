//! Configured addresses and ports that another container got while their own container was down.

use std::net::IpAddr;
use std::time::Instant;

use super::addresses::is_fixed;
use crate::config::Strategy;
use crate::engine::{Container, Engine, Error, HostPort, Network};
use crate::run::{Fate, Step};

/// The errors of Docker ("Address already in use" for an address, "Bind for 0.0.0.0:80 failed: port
/// is already allocated" and "bind: address already in use" for a port) and Podman ("requested ip
/// address 10.89.0.110 is already allocated to container ID ...", with CNI "requested IP address
/// 10.89.0.7 is not available in range set ...").
const WORDS: [&str; 3] =
    ["address already in use", "is already allocated", "is not available in range set"];

/// Whether an engine refused to start a container because another one has what it needs.
pub fn is_taken(refusal: &str) -> bool {
    let refusal = refusal.to_lowercase();
    WORDS.iter().any(|words| refusal.contains(words))
}

/// The running container that has what this one needs, if there is one in the same engine. Podman
/// does not show configured addresses, but its error names the container that has one.
pub fn holder(
    engine: &Engine,
    wanting: &Container,
    refusal: &str,
    deadline: Instant,
) -> Result<Option<Container>, Error> {
    for id in engine.running(deadline)? {
        match engine.inspect(&id, deadline) {
            Ok(container)
                if refusal.contains(&container.id)
                    || held(&container, wanting) != Held::Nothing =>
            {
                return Ok(Some(container));
            }
            Ok(_) | Err(Error::Gone) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The step of the holder, if it may be asked to give it up: this run had stopped it, whoever has
/// started it again, and any other address would do for it.
pub fn may_yield(holder: &Container, wanting: &Container, steps: &[Step]) -> Option<usize> {
    // A holder with a fixed address elsewhere might lose that one in exchange.
    let has_own = holder.networks.iter().any(|network| is_fixed(holder, network));
    let yields = held(holder, wanting) != Held::ByRight && !has_own;
    let ours = |step: &Step| {
        step.id == holder.id
            && step.action == Strategy::Stop
            && step.fate == Fate::Back
            && (step.start.ms().is_some() || step.stop.ms().is_some())
    };
    steps.iter().position(ours).filter(|_| yields)
}

#[derive(Debug, PartialEq, Eq)]
enum Held {
    Nothing,
    /// It is in its own configuration too.
    ByRight,
    ByChance,
}

/// What one container has of what another needs.
fn held(holder: &Container, wanting: &Container) -> Held {
    let fixed = |port: &&HostPort| port.spread() == 0;
    let ports = wanting.ports.iter().filter(fixed);
    let mut held = Held::Nothing;
    for port in ports.filter(|port| holder.taken_ports.iter().any(|taken| taken.overlaps(port))) {
        if holder.ports.iter().filter(fixed).any(|own| own.overlaps(port)) {
            return Held::ByRight;
        }
        held = Held::ByChance;
    }
    for wanted in &wanting.networks {
        let shared = holder.networks.iter().filter(|network| network.name == wanted.name);
        for network in shared.filter(|network| has_one_of(network, &wanted.fixed)) {
            if is_fixed(holder, network) {
                return Held::ByRight;
            }
            held = Held::ByChance;
        }
    }
    held
}

/// An IPv6 address has several notations.
fn has_one_of(network: &Network, addresses: &[String]) -> bool {
    let parsed = |text: &String| text.parse::<IpAddr>().ok();
    network
        .assigned
        .iter()
        .filter_map(parsed)
        .any(|assigned| addresses.iter().filter_map(parsed).any(|address| address == assigned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{QuiescedContainer, Start, Stop, Stopped};

    fn container(fixed: &[&str], assigned: &[&str]) -> Container {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        let network =
            Network { fixed: texts(fixed), assigned: texts(assigned), ..Network::default() };
        let json = br#"{"Id":"3b1f0c2d4e5f","Name":"/x","State":{"Status":"running"}}"#;
        Container { networks: vec![network], ..Container::parse(json).unwrap() }
    }

    fn publishes(wanted: (u16, u16), taken: u16) -> Container {
        let port = |(first, last)| HostPort {
            protocol: "tcp".to_string(),
            address: String::new(),
            first,
            last,
        };
        let plain = container(&[], &[]);
        Container { ports: vec![port(wanted)], taken_ports: vec![port((taken, taken))], ..plain }
    }

    fn step_of(container: &Container) -> Step {
        Step::from(QuiescedContainer {
            id: container.id.clone(),
            engine: String::new(),
            name: "app".to_string(),
            project: None,
            service: None,
            action: Strategy::Stop,
            started_at: String::new(),
            after: Vec::new(),
            not_in_backup: Vec::new(),
        })
    }

    #[test]
    fn a_refusal_is_known_by_the_engines_words() {
        for refusal in [
            "failed to set up container networking: Address already in use",
            "requested ip address 10.89.0.110 is already allocated to container ID aba087df711bb3",
            "failed to allocate for range 0: requested IP address 10.89.0.7 is not available in range set 10.89.0.1-10.89.255.254",
            "driver failed programming external connectivity on endpoint web: Bind for 0.0.0.0:80 failed: port is already allocated",
            "failed to bind host port 0.0.0.0:80/tcp: address already in use",
        ] {
            assert!(is_taken(refusal), "{refusal}");
        }
        assert!(!is_taken("OCI runtime create failed: permission denied"));
    }

    #[test]
    fn who_has_an_address_by_chance_yields() {
        let proxy = container(&["172.30.0.2", "fd00::0002"], &[]);
        assert_eq!(held(&container(&[], &["172.30.0.2"]), &proxy), Held::ByChance);
        assert_eq!(held(&container(&[], &["172.30.0.9", "fd00::2"]), &proxy), Held::ByChance);
        assert_eq!(held(&container(&[], &["172.30.0.3"]), &proxy), Held::Nothing);
        assert_eq!(held(&container(&["172.30.0.2"], &["172.30.0.2"]), &proxy), Held::ByRight);
        let web = publishes((8080, 8080), 8080);
        assert_eq!(held(&publishes((8000, 8100), 8080), &web), Held::ByChance);
        assert_eq!(held(&publishes((8080, 8080), 8080), &web), Held::ByRight);
        assert_eq!(held(&publishes((8000, 8100), 8001), &web), Held::Nothing);
    }

    #[test]
    fn whom_the_engine_names_yields_unless_it_has_an_address_of_its_own() {
        let (proxy, app) = (container(&[], &[]), container(&[], &[]));
        let step = Step { fate: Fate::Back, start: Start::Started { ms: 1 }, ..step_of(&app) };
        assert_eq!(may_yield(&app, &proxy, std::slice::from_ref(&step)), Some(0));
        let dns = container(&["172.30.0.3"], &["172.30.0.3"]);
        assert_eq!(may_yield(&dns, &proxy, &[step]), None);
    }

    #[test]
    fn only_what_this_run_has_stopped_is_asked_to_yield() {
        let (proxy, app) = (container(&["172.30.0.2"], &[]), container(&[], &["172.30.0.2"]));
        let back = Step { fate: Fate::Back, start: Start::Started { ms: 1 }, ..step_of(&app) };
        assert_eq!(may_yield(&app, &proxy, std::slice::from_ref(&back)), Some(0));
        let stop = Stop::Stopped(Stopped { ms: 1, killed: None });
        let by_somebody = Step { start: Start::NotStarted, stop, ..back.clone() };
        assert_eq!(may_yield(&app, &proxy, &[by_somebody]), Some(0));
        let untouched = Step { start: Start::NotStarted, ..back.clone() };
        let paused = Step { action: Strategy::Pause, ..back.clone() };
        let other = Step { id: "0".to_string(), ..back };
        assert_eq!(may_yield(&app, &proxy, &[untouched, paused, other]), None);
    }
}
