use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::client::{CONTAINER_LIMIT, Engine, Error, not_understood};
use crate::sys::text;

/// An engine reports four or five components.
const MOST_COMPONENTS: usize = 16;

/// The longest name or version that is kept, in characters.
const LONGEST: usize = 80;

/// Podman's name among its components.
const PODMAN: &str = "Podman Engine";

/// What starts a guest's containers: the versions of the engine and its runtime.
///
/// Docker asks containerd and runs `runc --version` for each answer, so an update is visible at
/// once, even if the engine was not restarted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The engine's socket in the guest.
    pub socket: String,
    /// The engine's own id; empty for Podman, which makes a new one for each answer.
    pub engine: String,
    /// The runtime that starts the container: its own, else that of the engine.
    pub runtime: String,
    /// `containerd 1.7.27`, with the commit if it is known.
    pub components: Vec<String>,
    /// Identifies the programs in the guest and the node's confinement of it: a package can be
    /// rebuilt, or a profile loaded again, without a new version.
    #[serde(default)]
    pub files: Vec<String>,
}

impl Engine {
    /// The versions of what starts its containers, from two requests.
    pub fn versions(&self, deadline: Instant) -> Result<Versions, Error> {
        let answer = self.get("/version", CONTAINER_LIMIT, deadline)?;
        let components = components(&answer.body).map_err(not_understood)?;
        let info = self.info(deadline)?;
        let podman = components.iter().any(|component| component.starts_with(PODMAN));
        let engine = if podman { String::new() } else { info.id };
        let socket = self.socket().to_string();
        let (runtime, files) = (info.default_runtime, Vec::new());
        Ok(Versions { socket, engine, runtime, components, files })
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |component: &String| {
            let named = component.split(" (commit ").next().unwrap_or_default();
            text::printable(named, 2 * LONGEST)
        };
        f.write_str(&self.components.iter().map(plain).collect::<Vec<_>>().join(", "))
    }
}

/// The components in the answer to `GET /version`; an engine that reports none counts as one
/// itself.
fn components(answer: &[u8]) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        version: String,
        #[serde(default)]
        components: Option<Vec<Component>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Component {
        #[serde(default)]
        name: String,
        #[serde(default)]
        version: String,
        #[serde(default)]
        details: Option<Details>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Details {
        #[serde(default)]
        git_commit: String,
    }
    let short = |text: &str| text.chars().take(LONGEST).collect::<String>();
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|error| text::excerpt(&error, 300))?;
    let named = |component: &Component| {
        let commit = component.details.as_ref().map_or("", |details| &details.git_commit);
        let commit =
            if commit.is_empty() { String::new() } else { format!(" (commit {})", short(commit)) };
        format!("{} {}{commit}", short(&component.name), short(&component.version))
    };
    let components = answer.components.unwrap_or_default();
    if components.is_empty() {
        return Ok(vec![format!("Engine {}", short(&answer.version))]);
    }
    Ok(components.iter().take(MOST_COMPONENTS).map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_tells_two_builds_of_one_version_apart() {
        let answer = br#"{"Version":"28.5.2","Components":[
            {"Name":"Engine","Version":"28.5.2","Details":null},
            {"Name":"runc","Version":"1.3.3","Details":{"GitCommit":"v1.3.3-0-gd842d77"}}]}"#;
        let components = components(answer).unwrap();
        assert_eq!(components, ["Engine 28.5.2", "runc 1.3.3 (commit v1.3.3-0-gd842d77)"]);
        let versions = Versions { components, ..Versions::default() };
        assert_eq!(versions.to_string(), "Engine 28.5.2, runc 1.3.3");
    }

    #[test]
    fn an_engine_without_components_is_one_itself() {
        assert_eq!(components(br#"{"Version":"18.09"}"#).unwrap(), ["Engine 18.09"]);
        assert!(components(b"OK").is_err());
    }

    #[test]
    fn no_more_is_kept_than_an_engine_has_to_say() {
        let many = vec![r#"{"Name":"x","Version":"1"}"#; 1000].join(",");
        let answer = format!(r#"{{"Components":[{many}]}}"#);
        assert_eq!(components(answer.as_bytes()).unwrap().len(), MOST_COMPONENTS);
        let long = format!(r#"{{"Version":"{}"}}"#, "9".repeat(10_000));
        assert!(components(long.as_bytes()).unwrap()[0].len() < 100);
    }
}
