//! Commands for an engine in a guest: what is right for Docker is not for Podman, and a user's own engine has a socket of
//! its own.

use crate::doctor::check::Check;
use crate::doctor::messages::NO_ENGINE;
use crate::engine::{Kind, Unreachable};
use crate::vzdump::Vmid;

/// An engine that cannot be reached, with the command that shows more.
pub fn unreachable(vmid: Vmid, site: &Unreachable) -> Check {
    let reason = match &site.socket {
        Some(_) => site.to_string(),
        None => site.why.clone(),
    };
    let check = NO_ENGINE.check(format!("guest.{vmid}.engine"), &[("reason", &reason)]);
    let user = site.socket.as_ref().and_then(|(socket, _)| user_of(socket));
    let unit = match (user, &site.socket) {
        // The manager of a user shows the user's units; it is asked without being that user.
        (Some(user), _) => format!("user@{user}.service"),
        (None, Some((_, Kind::Podman))) => "podman.socket".to_string(),
        (None, Some((_, Kind::Docker)) | None) => "docker".to_string(),
    };
    check.fix(format!("pct exec {vmid} -- systemctl status {unit}"))
}

/// The user id, as the guest numbers its users, in the path of a user's own engine.
fn user_of(socket: &str) -> Option<u32> {
    socket.strip_prefix("/run/user/")?.split('/').next()?.parse().ok()
}
