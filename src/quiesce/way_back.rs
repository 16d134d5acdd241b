//! The command that creates a removed stack again, from compose's labels on its containers.

use crate::engine::{Container, client_of};
use crate::sys::text::quoted;

const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
const VERSION: &str = "com.docker.compose.version";
const ENVIRONMENT_FILE: &str = "com.docker.compose.project.environment_file";

/// The files that compose uses by default in its working directory.
const DEFAULT_FILES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// The longest command in bytes; nobody copies a longer one.
const LONGEST: usize = 1000;

/// `cd DIR && docker compose up -d`, for a shell in the guest; `None` if the labels do not say
/// where, or contain something that is no path. The guest chooses its labels: each is quoted as one
/// word of the command.
pub fn way_back(container: &Container) -> Option<String> {
    let directory = container.label(WORKING_DIR).filter(|path| is_path(path))?;
    let mut command = format!("cd {} && {}", quoted(directory, LONGEST), compose(container));
    let files: Vec<&str> = container
        .label(CONFIG_FILES)
        .map(|files| files.split(',').filter(|file| !file.is_empty()).collect())
        .unwrap_or_default();
    let defaults = DEFAULT_FILES.map(|file| format!("{}/{file}", directory.trim_end_matches('/')));
    if files.len() > 1 || files.iter().any(|file| !defaults.iter().any(|default| default == file)) {
        for file in files {
            command.push_str(&format!(" -f {}", is_path(file).then(|| quoted(file, LONGEST))?));
        }
    }
    if let Some(file) = container.label(ENVIRONMENT_FILE).filter(|file| !file.is_empty()) {
        command.push_str(&format!(" --env-file {}", is_path(file).then(|| quoted(file, LONGEST))?));
    }
    // Compose names a project after its directory unless it was given another name.
    let last = directory.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if let Some(project) = container.project().filter(|project| *project != last) {
        command.push_str(&format!(" -p {}", quoted(project, LONGEST)));
    }
    command.push_str(" up -d");
    (command.len() <= LONGEST).then_some(command)
}

/// The client of compose for the engine that has the container. Podman's own command finds
/// whichever compose is there, and leads it to Podman.
fn compose(container: &Container) -> String {
    let client = client_of(&container.engine);
    let is_old = container.label(VERSION).is_some_and(|version| version.starts_with("1."));
    match client.strip_prefix("docker").filter(|_| is_old) {
        Some(options) => format!("docker-compose{options}"),
        None => format!("{client} compose"),
    }
}

/// An absolute path without control characters.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && !path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn command(labels: &[(&str, &str)]) -> Option<String> {
        let labels: HashMap<&str, &str> = labels.iter().copied().collect();
        let answer = serde_json::json!({
            "Id": "7".repeat(64), "Name": "/x", "State": { "Status": "running" },
            "Config": { "Labels": labels },
        });
        way_back(&Container::parse(answer.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn the_labels_say_how_a_stack_is_made_anew() {
        let project = ("com.docker.compose.project", "harbor");
        let file = (CONFIG_FILES, "/opt/harbor/docker-compose.yml");
        assert_eq!(command(&[project]), None);
        assert_eq!(
            command(&[project, (WORKING_DIR, "/opt/harbor"), file]).unwrap(),
            "cd /opt/harbor && docker compose up -d"
        );
        assert_eq!(
            command(&[project, (WORKING_DIR, "/srv/my stack"), file]).unwrap(),
            "cd '/srv/my stack' && docker compose -f /opt/harbor/docker-compose.yml -p harbor up -d"
        );
    }

    #[test]
    fn a_stack_of_podman_is_made_anew_by_podman() {
        let answer = serde_json::json!({
            "Id": "7".repeat(64), "Name": "/x", "State": { "Status": "running" },
            "Config": { "Labels": { WORKING_DIR: "/opt/harbor" } },
        });
        let container = Container::parse(answer.to_string().as_bytes()).unwrap();
        for (socket, client) in [
            ("/run/podman/podman.sock", "podman"),
            ("/run/user/1000/docker.sock", "docker -H unix:///run/user/1000/docker.sock"),
            (
                "/run/user/1000/podman/podman.sock",
                "podman --url unix:///run/user/1000/podman/podman.sock",
            ),
        ] {
            let container = Container { engine: socket.into(), ..container.clone() };
            let expected = format!("cd /opt/harbor && {client} compose up -d");
            assert_eq!(way_back(&container).unwrap(), expected);
        }
    }

    #[test]
    fn compose_v1_is_a_program_of_its_own() {
        let labels = [(WORKING_DIR, "/opt/harbor"), (VERSION, "1.29.2")];
        assert_eq!(command(&labels).unwrap(), "cd /opt/harbor && docker-compose up -d");
        let labels = [(WORKING_DIR, "/opt/harbor"), (VERSION, "2.39.1")];
        assert_eq!(command(&labels).unwrap(), "cd /opt/harbor && docker compose up -d");
    }

    #[test]
    fn a_label_is_never_more_than_one_word() {
        let evil = "/x'; rm -rf / #";
        let command = command(&[(WORKING_DIR, evil)]).unwrap();
        assert_eq!(command, r"cd '/x'\''; rm -rf / #' && docker compose up -d");
        let words = std::process::Command::new("/bin/sh")
            .args(["-c", &format!("printf %s {}", quoted(&command, LONGEST))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(words.stdout).unwrap(), command);
    }

    #[test]
    fn what_is_no_path_gives_no_command() {
        for bad in ["relative", "", "/a\nb", "/a\u{1b}[2J"] {
            assert_eq!(command(&[(WORKING_DIR, bad)]), None, "{bad:?}");
        }
    }
}
