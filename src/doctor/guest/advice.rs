//! Commands for an engine in a guest. Docker and Podman need different ones, and a rootless engine
//! has a socket of its own.

use crate::doctor::check::Check;
use crate::doctor::messages::{LIVE_RESTORE, NO_ENGINE};
use crate::engine::{Engine, Info, Kind, Unreachable};
use crate::sys::text::printable;
use crate::vzdump::Vmid;

/// Since this version `podman update --restart` can change the restart policy of an existing
/// container.
const PODMAN_UPDATES: (u32, u32) = (5, 1);

/// An engine that cannot be reached, with the command that shows the reason.
pub fn unreachable(vmid: Vmid, site: &Unreachable) -> Check {
    let reason = match &site.socket {
        Some(_) => site.to_string(),
        None => site.why.clone(),
    };
    let check = NO_ENGINE.check(format!("guest.{vmid}.engine"), &[("reason", &reason)]);
    let user = site.socket.as_ref().and_then(|(socket, _)| user_of(socket));
    let unit = match (user, &site.socket) {
        // The status of a user's manager shows the user's units, and root may ask for it.
        (Some(user), _) => format!("user@{user}.service"),
        (None, Some((_, Kind::Podman))) => "podman.socket".to_string(),
        (None, Some((_, Kind::Docker)) | None) => "docker".to_string(),
    };
    check.fix(format!("pct exec {vmid} -- systemctl status {unit}"))
}

/// Docker leaves containers running when it ends (live-restore); with the command that turns this
/// off.
pub fn live_restore(vmid: Vmid, engine: &Engine) -> Check {
    let check = LIVE_RESTORE.check(format!("guest.{vmid}.live-restore"), &[]);
    let off = "sed -i 's/\"live-restore\": *true/\"live-restore\": false/'";
    match user_of(engine.socket()) {
        None => check
            .fix(format!("pct exec {vmid} -- {off} /etc/docker/daemon.json"))
            .fix(format!("pct exec {vmid} -- systemctl reload docker")),
        Some(user) => check
            .fix(format!(
                "in the guest, as user {user}: {off} ~/.config/docker/daemon.json && systemctl --user reload docker"
            )),
    }
}

/// The commands that make these containers start with the guest. Each is a name or id of plain
/// characters.
pub fn restart(
    vmid: Vmid,
    (kind, socket): (Kind, &str),
    info: &Info,
    containers: &[&str],
) -> Vec<String> {
    let (user, words) = (user_of(socket), containers.join(" "));
    match (kind, user) {
        (Kind::Docker, None) => {
            vec![format!("pct exec {vmid} -- docker update --restart unless-stopped {words}")]
        }
        (Kind::Docker, Some(_)) => vec![format!(
            "pct exec {vmid} -- docker -H unix://{socket} update --restart unless-stopped {words}"
        )],
        (Kind::Podman, _) if version(&info.version) < Some(PODMAN_UPDATES) => vec![format!(
            "create them anew with --restart=always: Podman {} cannot change the restart policy of a container",
            printable(&info.version, 40)
        )],
        (Kind::Podman, None) => vec![
            format!("pct exec {vmid} -- sh -c '{}'", podman_update(&words)),
            format!("pct exec {vmid} -- systemctl enable podman-restart.service"),
        ],
        (Kind::Podman, Some(user)) => {
            let as_user = |command: &str| {
                format!(
                    "pct exec {vmid} -- sh -c 'su -s /bin/sh \"$(id -nu {user})\" -c \"export XDG_RUNTIME_DIR=/run/user/{user}; \
                     {command}\"'"
                )
            };
            vec![
                as_user(&podman_update(&words)),
                as_user("systemctl --user enable podman-restart.service"),
                format!("pct exec {vmid} -- sh -c 'loginctl enable-linger \"$(id -nu {user})\"'"),
            ]
        }
    }
}

/// `podman update` accepts one container at a time. Only newer versions start `unless-stopped` at
/// boot, so `always` is used.
fn podman_update(words: &str) -> String {
    match words.contains(' ') {
        true => format!("echo {words} | xargs -n 1 podman update --restart always"),
        false => format!("podman update --restart always {words}"),
    }
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The user id, as numbered in the guest, from the path of a rootless engine's socket.
fn user_of(socket: &str) -> Option<u32> {
    socket.strip_prefix("/run/user/")?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(kind: Kind, socket: &str, version: &str, containers: &[&str]) -> Vec<String> {
        let info = Info::parse(format!(r#"{{"ServerVersion":"{version}"}}"#).as_bytes()).unwrap();
        restart(Vmid(9001), (kind, socket), &info, containers)
    }

    #[test]
    fn each_engine_gets_commands_that_it_understands() {
        assert_eq!(
            advice(Kind::Docker, "/run/docker.sock", "29.0.1", &["a", "b"]),
            ["pct exec 9001 -- docker update --restart unless-stopped a b"]
        );
        assert_eq!(
            advice(Kind::Docker, "/run/user/1000/docker.sock", "29.0.1", &["a"]),
            [
                "pct exec 9001 -- docker -H unix:///run/user/1000/docker.sock update --restart unless-stopped a"
            ]
        );
        let podman = "/run/podman/podman.sock";
        assert_eq!(
            advice(Kind::Podman, podman, "5.4.2", &["a"])[0],
            "pct exec 9001 -- sh -c 'podman update --restart always a'"
        );
        // Podman's command accepts one name only.
        assert_eq!(
            advice(Kind::Podman, podman, "5.4.2", &["a", "b"])[0],
            "pct exec 9001 -- sh -c 'echo a b | xargs -n 1 podman update --restart always'"
        );
        let old = advice(Kind::Podman, podman, "4.3.1", &["a"]);
        assert!(old[0].starts_with("create them anew") && old[0].contains("4.3.1"), "{old:?}");
        let mine = advice(Kind::Podman, "/run/user/1000/podman/podman.sock", "5.4.2", &["a"]);
        assert_eq!(
            mine[0],
            "pct exec 9001 -- sh -c 'su -s /bin/sh \"$(id -nu 1000)\" -c \"export XDG_RUNTIME_DIR=/run/user/1000; podman update --restart always a\"'"
        );
    }
}
