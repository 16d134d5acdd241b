//! Addresses and ports of containers: assigned at the start, free again at the end. A container's
//! configured address is not reserved while it is down.

use super::State;
use super::container::Container;

/// Why a start is refused because of an address, a port or a namespace: status and message.
pub type Refusal = (u16, String);

/// A network that a container is in.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The configured address of the container.
    pub fixed: Option<String>,
}

impl Network {
    /// A network with any free address.
    pub fn any(name: &str) -> Self {
        Self { name: name.to_owned(), fixed: None }
    }

    /// A network with only this address.
    pub fn fixed(name: &str, address: &str) -> Self {
        Self { name: name.to_owned(), fixed: Some(address.to_owned()) }
    }
}

/// A container's addresses and ports while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    /// One for each of its networks.
    pub addresses: Vec<(String, String)>,
    /// One for each port that it publishes.
    pub ports: Vec<u16>,
}

/// Assigns what a container gets at its start.
pub(super) fn lease(state: &State, container: &Container) -> Result<Lease, Refusal> {
    joins(state, container)?;
    let others = || state.containers.iter().filter(|other| other.id != container.id);
    let mut lease = Lease::default();
    for network in &container.spec.networks {
        let free = |address: &String| {
            let mut leases = others().flat_map(|other| &other.lease.addresses);
            !leases.any(|(name, taken)| *name == network.name && taken == address)
        };
        let address = match &network.fixed {
            Some(fixed) if free(fixed) => fixed.clone(),
            Some(_) => {
                let message = "failed to set up container networking: Address already in use";
                return Err((403, message.to_owned()));
            }
            None => (2..255).map(|host| format!("172.30.0.{host}")).find(free).unwrap_or_default(),
        };
        lease.addresses.push((network.name.clone(), address));
    }
    for (first, last) in &container.spec.ports {
        let free = |port: &u16| {
            let mut leases = others().flat_map(|other| &other.lease.ports);
            !leases.any(|taken| taken == port) && !lease.ports.contains(port)
        };
        match (*first..=*last).find(free) {
            Some(port) => lease.ports.push(port),
            None => {
                let message = format!(
                    "failed to set up container networking: driver failed programming external connectivity on endpoint \
                     {} ({}): Bind for 0.0.0.0:{first} failed: port is already allocated",
                    container.spec.name, container.id
                );
                return Err((500, message));
            }
        }
    }
    Ok(lease)
}

/// Whether the container whose network it joins exists and runs.
fn joins(state: &State, container: &Container) -> Result<(), Refusal> {
    let Some(other) = container.spec.network_mode.strip_prefix("container:") else {
        return Ok(());
    };
    let Some(at) = state.find(other) else {
        return Err((404, format!("No such container: {other}")));
    };
    let owner = &state.containers[at];
    if owner.status.is_alive() {
        return Ok(());
    }
    let message = format!(
        "cannot join network namespace of a non running container: container {} is {}",
        owner.spec.name,
        owner.status.name()
    );
    Err((409, message))
}

/// Assigns addresses to containers that run already: configured ones first, as if they had been
/// started in that order.
pub(super) fn lease_to_all(state: &mut State) {
    let is_fixed = |container: &Container| {
        container.spec.networks.iter().any(|network| network.fixed.is_some())
    };
    for fixed in [true, false] {
        for at in 0..state.containers.len() {
            let container = &state.containers[at];
            if !container.status.is_alive() || is_fixed(container) != fixed {
                continue;
            }
            if let Ok(lease) = lease(state, container) {
                state.containers[at].lease = lease;
            }
        }
    }
}
