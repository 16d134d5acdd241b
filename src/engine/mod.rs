//! The Docker Engine API inside a guest, used from the node over its Unix sockets.
//!
//! A guest may have several engines: Docker and Podman, of the system and of its users. Podman
//! serves the same API. Paths have no API version, because guests run anything from 20.10 to 29
//! (FACTS-DOCKER.md, Engine and API). Nothing from the engine is trusted: answers are limited in
//! bytes and time, and an id is checked before it becomes part of a path.

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

pub use backing::{Backing, Volume};
pub use client::{Engine, Error};
pub use container::{Condition, Container, Dependency, Health, Restart, Status};
pub use engines::{Engines, Kind, Unreachable, at_once, client_of};
pub use health::HealthCheck;
pub use info::{CONTAINERD, Info};
pub use kept::{Data, MOST_CONTAINERS};
pub use network::{HostPort, Network};
pub use trial::{Image, ImageConfig};
pub use versions::Versions;
