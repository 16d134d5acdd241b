//! The node itself: Proxmox VE, Stillpoint's programs, systemd, mail, settings.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::check::Check;
use super::messages::{
    MAIL, METRICS, NO_MAIL, NO_METRICS, NO_PROGRAM, NO_PVE, NO_RECOVER, NO_REFRESH, NO_SYSTEMD,
    PROGRAMS, PVE, PVE_UNTRIED, RECOVER, REFRESH, SETTINGS, SETTINGS_BROKEN, SYSTEMD,
};
use crate::config::Settings;
use crate::pve::{GUEST_HOOK, VZDUMP_HOOK};
use crate::sys::{Root, outside, program};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The major versions of Proxmox VE that this Stillpoint was tried on.
const TRIED: [&str; 2] = ["8", "9"];

/// pveversion is written in Perl, which takes half a second to start on an idle node.
const PVEVERSION_LIMIT: Duration = Duration::from_secs(20);

const PROGRAM_FILES: [&str; 3] = ["/usr/bin/stillpoint", VZDUMP_HOOK, GUEST_HOOK];

/// Whether the settings files are valid.
pub fn settings(settings: &Settings) -> Check {
    match &settings.complaint {
        None => SETTINGS.check("settings", &[]),
        Some(complaint) => {
            let complaint = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
            SETTINGS_BROKEN.check("settings", &[("complaint", &complaint)])
        }
    }
}

pub fn node(root: &Root) -> Vec<Check> {
    vec![version(root), programs(root), systemd(root), recover(root), refresh(root), mail(root)]
}

fn version(root: &Root) -> Check {
    let about = "node.version";
    let mut pveversion = Command::new(root.path("/usr/bin/pveversion"));
    let said = match program::run(&mut pveversion, PVEVERSION_LIMIT) {
        Ok(said) => said,
        Err(error) => return NO_PVE.check(about, &[("reason", &format!("pveversion: {error:#}"))]),
    };
    match manager_version(&said) {
        None => {
            let reason = format!("pveversion says {}", said.trim());
            NO_PVE.check(about, &[("reason", &reason)])
        }
        Some(version) => {
            let major = version.split('.').next().unwrap_or_default();
            let message = if TRIED.contains(&major) { PVE } else { PVE_UNTRIED };
            message.check(about, &[("version", &version)])
        }
    }
}

/// `pve-manager/9.2.11/4bd1a2d4c6b2d8a8 (running kernel: 6.17.2-1-pve)`
fn manager_version(said: &str) -> Option<&str> {
    said.strip_prefix("pve-manager/")?.split(['/', ' ', '\n']).next().filter(|v| !v.is_empty())
}

fn programs(root: &Root) -> Check {
    let missing = PROGRAM_FILES.iter().find(|path| !is_executable(&root.path(path)));
    match missing {
        None => PROGRAMS.check("node.programs", &[("version", &VERSION)]),
        Some(path) => NO_PROGRAM.check("node.programs", &[("path", path), ("version", &VERSION)]),
    }
}

/// Whether there is an executable file.
pub fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn systemd(root: &Root) -> Check {
    let reason = if !root.path("/run/systemd/system").is_dir() {
        "systemd does not run"
    } else if !is_executable(&root.path("/usr/bin/systemd-run")) {
        "/usr/bin/systemd-run is missing"
    } else {
        return SYSTEMD.check("node.systemd", &[]);
    };
    NO_SYSTEMD.check("node.systemd", &[("reason", &reason)])
}

fn recover(root: &Root) -> Check {
    let enabled = is_wanted(root, "multi-user.target", "stillpoint-recover.service");
    let message = if enabled { RECOVER } else { NO_RECOVER };
    message.check("node.recover", &[])
}

fn refresh(root: &Root) -> Check {
    let enabled = is_wanted(root, "timers.target", "stillpoint-refresh.timer");
    let message = if enabled { REFRESH } else { NO_REFRESH };
    message.check("node.refresh", &[])
}

/// Whether a unit is enabled: then systemd has a link below its target.
fn is_wanted(root: &Root, target: &str, unit: &str) -> bool {
    root.path(&format!("/etc/systemd/system/{target}.wants/{unit}")).symlink_metadata().is_ok()
}

/// Whether the metrics can be written, if they are configured.
pub fn metrics(root: &Root, settings: &Settings) -> Vec<Check> {
    let Some(path) = &settings.report.textfile_directory else { return Vec::new() };
    vec![match outside::takes_files(&root.path(path)) {
        Ok(()) => METRICS.check("node.metrics", &[("path", path)]),
        Err(error) => NO_METRICS.check("node.metrics", &[("path", path), ("reason", &error)]),
    }]
}

fn mail(root: &Root) -> Check {
    let there = is_executable(&root.path("/usr/sbin/sendmail"));
    let message = if there { MAIL } else { NO_MAIL };
    message.check("node.mail", &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_stands_between_slashes() {
        let said = "pve-manager/9.2.11/4bd1a2d4c6b2d8a8 (running kernel: 6.17.2-1-pve)\n";
        assert_eq!(manager_version(said), Some("9.2.11"));
        for odd in ["", "pve-manager/", "proxmox-ve: 9.0.0"] {
            assert_eq!(manager_version(odd), None, "{odd}");
        }
    }
}
