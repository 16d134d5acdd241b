//! The Docker Engine API inside a guest, spoken over its Unix sockets from the node.
//!
//! A guest may have several engines: Docker and Podman, of the system and of its users. Podman serves the same API. Paths are unversioned: guests run anything from 20.10 to 29.
//! Nothing the engine says is trusted: answers are bounded in bytes and time, and an id goes into a path only
//! after it was seen to be one.

mod backing;
mod client;
mod container;
mod database;
mod engines;
mod exec;
mod health;
mod info;
mod kept;
mod lan;
mod network;
mod standing;
mod trial;
mod versions;

pub use backing::Backing;
pub use client::{Engine, Error};
pub use container::{Condition, Container, Dependency, Health, Restart, Status};
pub use engines::{Engines, Kind, Unreachable, at_once, client_of};
pub use health::HealthCheck;
pub use info::Info;
pub use kept::{Data, MOST_CONTAINERS};
pub use network::{HostPort, Network};
pub use trial::{Image, ImageConfig};
pub use versions::Versions;
