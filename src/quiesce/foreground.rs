//! Compose clients in the foreground (`docker compose up` without `-d`, as in a systemd unit). Such
//! a client ends when all of its stack's containers have stopped, and the unit may then remove the
//! stack (`ExecStop=docker compose down`). So containers of such a stack are paused, never stopped.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use super::plan::{Plan, STRATEGY_LABEL};
use super::survey::Survey;
use crate::config::Strategy;
use crate::engine::Container;
use crate::guest::Process;
use crate::sys::text::printable;

const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
const CONFIG_FILES: &str = "com.docker.compose.project.config_files";

/// Options before the subcommand whose value is the next word: docker's, those of both versions of
/// compose, and those of podman-compose.
#[rustfmt::skip]
const WITH_VALUE: [&str; 25] = [
    "-f", "--file", "-p", "--project-name", "--project-directory", "--workdir", "--profile", "--env-file", "--ansi",
    "--progress", "--parallel", "-H", "--host", "-c", "--context", "--config", "-l", "--log-level",
    "--tlscacert", "--tlscert", "--tlskey", "--in-pod", "--pod-args", "--podman-path", "--podman-args",
];

/// The value of an option in an interpreter's command line (`python3 -W ignore`, `-X dev`).
const INTERPRETERS_VALUES: [&str; 6] = ["ignore", "default", "error", "once", "dev", "utf8"];

/// Compose's other subcommands.
#[rustfmt::skip]
const OTHERS: [&str; 36] = [
    "attach", "bridge", "build", "commit", "config", "convert", "cp", "create", "down", "events", "exec", "export",
    "help", "images", "kill", "logs", "ls", "pause", "port", "ps", "publish", "pull", "push", "restart",
    "rm", "run", "scale", "start", "stats", "stop", "systemd", "top", "unpause", "version", "volumes", "wait",
];

/// A client in the foreground, with what its command line says about the stack.
#[derive(Debug, Default, PartialEq, Eq)]
struct Client {
    project: Option<String>,
    files: Vec<String>,
    directory: Option<String>,
    /// Its working directory.
    cwd: Option<String>,
    contained: bool,
}

/// A stack of one engine, from its labels.
#[derive(Default)]
struct Stack<'a> {
    project: &'a str,
    working_dir: Option<&'a str>,
    config_files: Option<&'a str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Is,
    MayBe,
    IsNot,
}

impl Plan {
    /// Pauses stacks with a client in the foreground. A container that asks for `stop` is paused
    /// too, because it would not only be stopped.
    pub fn see_clients(&mut self, survey: &Survey) {
        let clients: Vec<Client> = survey.processes.iter().filter_map(client).collect();
        if clients.is_empty() {
            return;
        }
        let containers: HashMap<&str, &Container> =
            survey.containers.iter().map(|container| (container.id.as_str(), container)).collect();
        let held = held(&clients, &survey.containers);
        for stack in held.iter().map(|(_, project)| printable(project, 80)) {
            self.notes.push(format!(
                "stack {stack} is paused, not stopped: a client of compose (`up` in the foreground) stays with it, and \
                 may remove it as soon as its containers have stopped"
            ));
        }
        for step in self.steps.iter_mut().filter(|step| step.action == Strategy::Stop) {
            let Some(container) = containers.get(step.id.as_str()) else { continue };
            let Some(project) = container.project() else { continue };
            if !held.contains(&(container.engine.as_str(), project)) {
                continue;
            }
            step.action = Strategy::Pause;
            if container.label(STRATEGY_LABEL) == Some("stop") {
                let name = printable(&step.name, 80);
                self.notes.push(format!(
                    "{name}: its label {STRATEGY_LABEL}=stop is not followed, for a stop may remove its stack"
                ));
            }
        }
    }
}

/// The stacks, by engine and project, that one of the clients belongs to. A client that matches
/// none with certainty may belong to any that cannot be ruled out; one inside a container of the
/// guest sees other paths and other engines.
fn held<'a>(clients: &[Client], containers: &'a [Container]) -> Vec<(&'a str, &'a str)> {
    let mut stacks: BTreeMap<(&str, &str), Stack<'_>> = BTreeMap::new();
    for container in containers {
        let Some(project) = container.project() else { continue };
        let stack = stacks.entry((&container.engine, project)).or_default();
        stack.project = project;
        stack.working_dir = stack.working_dir.or(container.label(WORKING_DIR));
        stack.config_files = stack.config_files.or(container.label(CONFIG_FILES));
    }
    let mut held = Vec::new();
    for client in clients {
        let found = |wanted| {
            let stacks = stacks.iter().filter(move |(_, stack)| client.fits(stack) == wanted);
            stacks.map(|(key, _)| *key).collect::<Vec<_>>()
        };
        let certain = found(Match::Is);
        match certain.is_empty() && !client.contained {
            true => held.extend(found(Match::MayBe)),
            false => held.extend(certain),
        }
    }
    held.sort_unstable();
    held.dedup();
    held
}

/// The client that this process is, if it stays in the foreground.
fn client(process: &Process) -> Option<Client> {
    let is_compose = |word: &&String| {
        let name = word.rsplit('/').next().unwrap_or(word);
        name.starts_with("docker-compose") || name.starts_with("podman-compose")
    };
    let words = &process.command;
    let (mut rest, mut compose) = match program(words) {
        Some(at) if is_compose(&&words[at]) => (words.get(at + 1..)?.iter(), true),
        // `python3 -m compose`
        Some(at) if at > 1 && words[at - 1] == "-m" && words[at].ends_with("compose") => {
            (words.get(at + 1..)?.iter(), true)
        }
        // Podman's own command runs whichever compose is there.
        _ if process.is("docker") || process.is("podman") => (words.get(1..)?.iter(), false),
        _ => return None,
    };
    let mut client = Client {
        cwd: process.directory.clone(),
        contained: process.contained,
        ..Client::default()
    };
    let subcommand = loop {
        let word = rest.next()?;
        if word == "compose" {
            compose = true;
        } else if !word.starts_with('-') {
            break word;
        } else {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None if WITH_VALUE.contains(&word.as_str()) => {
                    (word.as_str(), rest.next().cloned())
                }
                // `-fFILE`, `-pNAME`.
                None if word.starts_with("-f") || word.starts_with("-p") => {
                    (word.get(..2)?, word.get(2..).map(String::from))
                }
                None => continue,
            };
            match (name, value) {
                ("-p" | "--project-name", Some(value)) => client.project = Some(value),
                ("-f" | "--file", Some(value)) => client.files.push(value),
                ("--project-directory" | "--workdir", value) => client.directory = value,
                _ => {}
            }
        }
    };
    let rest: Vec<&str> = rest.map(String::as_str).collect();
    let up = match subcommand.as_str() {
        "up" => true,
        other if OTHERS.contains(&other) => false,
        // The value of an unknown option.
        _ => rest.contains(&"up"),
    };
    (compose && up && !rest.iter().any(|word| detaches(word))).then_some(client)
}

/// Which word names what a process runs: the first one, or of an interpreter's command line its
/// script or module.
fn program(words: &[String]) -> Option<usize> {
    let first = words.first()?;
    let name = first.rsplit('/').next().unwrap_or(first);
    let interprets = ["python", "pypy", "sh", "bash", "dash", "ash"];
    if !interprets.iter().any(|interpreter| name.starts_with(interpreter)) {
        return Some(0);
    }
    let is_option =
        |word: &String| word.starts_with('-') || INTERPRETERS_VALUES.contains(&word.as_str());
    words.iter().skip(1).position(|word| !is_option(word)).map(|at| at + 1)
}

/// Options of `up` that detach the client: `-d`, also among other short ones, and options that
/// imply it.
fn detaches(word: &str) -> bool {
    let short = word.strip_prefix('-').filter(|short| !short.starts_with('-'));
    matches!(word, "--detach" | "--detach=true" | "--wait" | "--no-start")
        || short
            .is_some_and(|short| short.contains('d') && short.chars().all(|c| "dVwy".contains(c)))
}

impl Client {
    /// Whether it belongs to that stack. Its environment may override the command line
    /// (`COMPOSE_FILE`), and a path may contain links, so only a name, or an absolute path, rules
    /// out others.
    fn fits(&self, stack: &Stack<'_>) -> Match {
        let certain = |is: bool| if is { Match::Is } else { Match::IsNot };
        let likely = |is: bool| if is { Match::Is } else { Match::MayBe };
        if let Some(project) = &self.project {
            return certain(normal_name(project) == normal_name(stack.project));
        }
        let working_dir = stack.working_dir.map(|path| resolved(None, path));
        if let Some(directory) = &self.directory {
            let Some(working_dir) = working_dir else { return Match::MayBe };
            let is = resolved(self.cwd.as_deref(), directory) == working_dir;
            return if directory.starts_with('/') { certain(is) } else { likely(is) };
        }
        let Some(first) = self.files.first() else {
            let Some((cwd, working_dir)) = self.cwd.as_deref().zip(working_dir) else {
                return Match::MayBe;
            };
            return likely(resolved(None, cwd) == working_dir);
        };
        let file = resolved(self.cwd.as_deref(), first);
        let is = match stack.config_files {
            Some(files) => {
                let files = files.split(',').map(|path| resolved(stack.working_dir, path));
                files.into_iter().any(|path| path == file)
            }
            None => match working_dir {
                Some(working_dir) => file.parent() == Some(&working_dir),
                None => return Match::MayBe,
            },
        };
        if first.starts_with('/') { certain(is) } else { likely(is) }
    }
}

/// Compose's normalisation of a project's name.
fn normal_name(name: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    name.to_ascii_lowercase().chars().filter(kept).collect()
}

/// A path relative to `base`, without `.` and `..`; computed as text only.
fn resolved(base: Option<&str>, path: &str) -> PathBuf {
    let whole = Path::new(base.unwrap_or("")).join(path);
    let mut plain = PathBuf::new();
    for component in whole.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(command: &str, cwd: Option<&str>) -> Process {
        let command: Vec<String> = command.split(' ').map(String::from).collect();
        let name = command[0].rsplit('/').next().unwrap_or_default().chars().take(15).collect();
        Process { name, command, directory: cwd.map(String::from), ..Process::default() }
    }

    fn container(project: &str, working_dir: Option<&str>) -> Container {
        let mut labels = serde_json::json!({
            "com.docker.compose.project": project,
            "com.docker.compose.service": "web",
        });
        if let Some(path) = working_dir {
            labels[WORKING_DIR] = path.into();
            labels[CONFIG_FILES] = format!("{path}/compose.yaml").into();
        }
        let answer = serde_json::json!({
            "Id": "7".repeat(64), "Name": project, "State": { "Status": "running" },
            "Config": { "Labels": labels },
        });
        Container::parse(answer.to_string().as_bytes()).unwrap()
    }

    fn held_by(command: &str, cwd: Option<&str>) -> Vec<String> {
        let containers = [
            container("harbor", Some("/opt/harbor")),
            container("blog", Some("/srv/blog")),
            container("old", None),
        ];
        let clients: Vec<Client> = client(&process(command, cwd)).into_iter().collect();
        held(&clients, &containers).into_iter().map(|(_, project)| project.to_string()).collect()
    }

    #[test]
    fn a_client_in_the_foreground_is_known_by_its_command_line() {
        for command in [
            "docker compose up",
            "/usr/bin/docker --context x compose -p a up --remove-orphans",
            "/usr/libexec/docker/cli-plugins/docker-compose compose up",
            "/usr/bin/python3 /usr/local/bin/docker-compose -f a.yml up -t 30",
            "/usr/bin/python3 -u -W ignore /usr/bin/docker-compose up",
            "python3 -m compose -p a up",
            "/bin/sh /usr/local/bin/docker-compose up",
            "podman compose -p a up",
            "python3 /usr/bin/podman-compose --podman-run-args --log-driver=journald up",
            "docker-compose --new-option value up --abort-on-container-exit",
        ] {
            assert!(client(&process(command, None)).is_some(), "{command}");
        }
        for command in [
            "docker compose up -d",
            "docker compose up --detach --wait",
            "docker-compose up -Vd",
            "docker compose up --wait",
            "docker compose logs -f",
            "docker compose run web up",
            "docker up",
            "docker run alpine compose",
            "podman up",
            "python3 -m http.server up",
            "python3 /opt/app.py docker-compose up",
            "dockerd up",
            "docker",
        ] {
            assert!(client(&process(command, None)).is_none(), "{command}");
        }
    }

    #[test]
    fn a_client_holds_the_stack_that_it_names() {
        assert_eq!(held_by("docker compose -p harbor up", None), ["harbor"]);
        assert_eq!(held_by("docker compose --project-name=Harbor up", None), ["harbor"]);
        assert_eq!(held_by("docker-compose -pharbor up", None), ["harbor"]);
        assert!(held_by("docker compose -p gone up", None).is_empty());
    }

    #[test]
    fn a_client_holds_the_stack_of_its_file_or_directory() {
        assert_eq!(held_by("docker compose -f /opt/harbor/compose.yaml up", None), ["harbor"]);
        assert_eq!(held_by("docker compose -f compose.yaml up", Some("/opt/harbor")), ["harbor"]);
        assert_eq!(
            held_by("docker compose --project-directory ../blog up", Some("/srv/x")),
            ["blog"]
        );
        assert_eq!(held_by("docker compose up", Some("/opt/harbor")), ["harbor"]);
        // The file is elsewhere, so it does not match.
        assert_eq!(held_by("docker compose -f /opt/gone/compose.yaml up", None), ["old"]);
    }

    #[test]
    fn a_client_that_fits_none_may_hold_any() {
        assert_eq!(held_by("docker compose up", None), ["blog", "harbor", "old"]);
        assert_eq!(held_by("docker compose up", Some("/")), ["blog", "harbor", "old"]);
        let inner = Process { contained: true, ..process("docker compose up", Some("/app")) };
        let containers = [container("harbor", Some("/opt/harbor"))];
        assert!(held(&[client(&inner).unwrap()], &containers).is_empty());
    }
}
