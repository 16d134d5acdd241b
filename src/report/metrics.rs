//! Metrics for Prometheus, through node_exporter's textfile collector.
//!
//! `packaging/doc/monitoring.md` describes their names and labels. The file has no timestamps: the
//! collector refuses them, and exports the file's age itself.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};

use super::status::{Guest, Limits, Moment, Status, What, gather};
use crate::config::Settings;
use crate::journal::{Grade, Outcome};
use crate::pve::OnStart;
use crate::sys::look::Watched;
use crate::sys::text::printable;
use crate::sys::{Root, bounded, lock, outside};

/// node_exporter, which is an unprivileged user, must read it.
const MODE: u32 = 0o644;

/// For a directory on a server. It is longer than writing with another user's rights may take.
const DIRECTORY_LIMIT: Duration = Duration::from_secs(15);

/// The longest value of a label, in characters.
const LABEL: usize = 255;

/// To wait for another process that writes the metrics: its values are as new as ours.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// Writes the state of this node's guests into `report.textfile-directory`, if that is set.
pub fn write(root: &Root, settings: &Settings) -> Result<()> {
    let Some(directory) = &settings.report.textfile_directory else { return Ok(()) };
    let path = root.path(directory).join("stillpoint.prom");
    let written = || -> Result<()> {
        // Writers are serialised, so that an older status never overwrites a newer one.
        let lock = root.path("/run/stillpoint/metrics.lock");
        let _lock = lock::take(&lock, Instant::now() + LOCK_LIMIT)?;
        let status = gather(root, settings, &Limits::default())?;
        // Debian gives the parent of this directory to the user `prometheus`.
        let page = exposition(&status, settings);
        let replace =
            || outside::replace(&path, page.as_bytes(), MODE).map_err(|error| error.to_string());
        bounded::within(&watched(root, directory), DIRECTORY_LIMIT, replace)?
            .map_err(anyhow::Error::msg)
    };
    written().with_context(|| {
        format!("{}: the metrics are not written (report.textfile-directory)", path.display())
    })
}

/// Why the metrics cannot be written, as far as this can be checked without writing; `None` also if
/// they are not configured.
pub fn complaint(root: &Root, settings: &Settings) -> Option<String> {
    let directory = settings.report.textfile_directory.as_deref()?;
    let place = root.path(directory);
    let look = || outside::takes_files(&place).map_err(|error| error.to_string());
    let look = bounded::within(&watched(root, directory), DIRECTORY_LIMIT, look);
    let error = look.map_or_else(|error| Some(error.to_string()), Result::err)?;
    Some(format!(
        "the metrics cannot be written to {directory} (report.textfile-directory): {error}"
    ))
}

fn watched(root: &Root, directory: &str) -> Watched {
    let name = format!("the directory {directory}");
    let advice = "It is report.textfile-directory: make its server answer, or name another.";
    Watched::new(root, "metrics", &name, advice)
}

const GRADES: [Grade; 7] = [
    Grade::Clean,
    Grade::Paused,
    Grade::Mixed,
    Grade::CrashConsistent,
    Grade::Incomplete,
    Grade::Offline,
    Grade::None,
];

const STATES: [&str; 7] =
    ["ok", "failed", "skipped", "unknown", "unreachable", "denied", "pending"];

/// The file, in Prometheus's text format.
pub fn exposition(status: &Status, settings: &Settings) -> String {
    let mut page = Page(String::new());
    page.family("stillpoint_build_info", "The version of Stillpoint that wrote this.");
    page.sample("stillpoint_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    page.family("stillpoint_settings_ok", "Whether every settings file was understood.");
    page.sample("stillpoint_settings_ok", &[], truth(settings.complaint.is_none()));
    let going_on = |what| status.now.iter().filter(|now| now.what == what).count() as f64;
    page.family("stillpoint_left_over_runs", "Interrupted backups that are not all back.");
    page.sample("stillpoint_left_over_runs", &[], going_on(What::LeftOver));
    page.family("stillpoint_pending_verifies", "Verifies that the backup server is at.");
    page.sample("stillpoint_pending_verifies", &[], going_on(What::Verify));
    page.guests(status, "stillpoint_guest_info", "A guest of this node.", |guest| {
        let on_start = match guest.on_start {
            OnStart::Hookscript => "hookscript",
            OnStart::Node => "node",
            OnStart::None => "none",
        };
        let kind = match guest.guest_type {
            crate::vzdump::GuestType::Lxc => "lxc",
            crate::vzdump::GuestType::Qemu => "qemu",
        };
        let name = guest.name.clone().unwrap_or_default();
        vec![(
            vec![("name", name), ("type", kind.to_string()), ("on_start", on_start.to_string())],
            1.0,
        )]
    });
    of_backups(&mut page, status);
    of_verifies(&mut page, status);
    page.0
}

fn of_backups(page: &mut Page, status: &Status) {
    page.plain(
        status,
        "stillpoint_backup_last_timestamp_seconds",
        "When the last backup was over, made or failed.",
        |guest| guest.backup.as_ref().and_then(|backup| epoch(&backup.moment)),
    );
    page.plain(
        status,
        "stillpoint_backup_last_success_timestamp_seconds",
        "When the last backup that was made was over.",
        |guest| guest.last_success.as_ref().and_then(epoch),
    );
    page.plain(status, "stillpoint_backup_last_ok", "Whether the last backup was made.", |guest| {
        guest.backup.as_ref().map(|backup| truth(backup.outcome == Outcome::Ok))
    });
    page.plain(
        status,
        "stillpoint_backup_last_downtime_seconds",
        "From the first stop request to the last confirmed start.",
        |guest| Some(guest.backup.as_ref()?.downtime_ms? as f64 / 1000.0),
    );
    page.plain(
        status,
        "stillpoint_backup_last_containers_not_back",
        "Containers that ran before the last backup and are not known to be back.",
        |guest| guest.backup.as_ref().map(|backup| backup.not_back.len() as f64),
    );
    page.guests(
        status,
        "stillpoint_backup_last_grade",
        "How consistent the last backup is: 1 for its grade, 0 for the others.",
        |guest| {
            let Some(grade) = guest.backup.as_ref().and_then(|backup| backup.grade) else {
                return Vec::new();
            };
            let of = |each: &Grade| (vec![("grade", each.to_string())], truth(*each == grade));
            GRADES.iter().map(of).collect()
        },
    );
}

fn of_verifies(page: &mut Page, status: &Status) {
    page.guests(
        status,
        "stillpoint_verify_last_outcome",
        "What is known of the last backup that was made: 1 for its outcome, 0 for the others.",
        |guest| {
            let Some(verify) = &guest.verify else { return Vec::new() };
            let of = |each: &&str| {
                (vec![("outcome", each.to_string())], truth(**each == verify.state.to_string()))
            };
            STATES.iter().map(of).collect()
        },
    );
    page.plain(
        status,
        "stillpoint_verify_last_success_timestamp_seconds",
        "When a backup of the guest was last proven to be good.",
        |guest| guest.last_verified.as_ref().and_then(epoch),
    );
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn epoch(moment: &Moment) -> Option<f64> {
    let time: DateTime<Utc> = moment.time.parse().ok()?;
    Some(time.timestamp_millis() as f64 / 1000.0)
}

/// Labels besides the VMID, and a value.
type Sample = (Vec<(&'static str, String)>, f64);

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    /// A metric with the samples of each guest; left out if no guest has any.
    fn guests(
        &mut self,
        status: &Status,
        name: &str,
        help: &str,
        of: impl Fn(&Guest) -> Vec<Sample>,
    ) {
        let samples: Vec<(String, Sample)> = status
            .guests
            .iter()
            .flat_map(|guest| of(guest).into_iter().map(|sample| (guest.vmid.to_string(), sample)))
            .collect();
        if samples.is_empty() {
            return;
        }
        self.family(name, help);
        for (vmid, (labels, value)) in &samples {
            let mut all = vec![("vmid", vmid.as_str())];
            all.extend(labels.iter().map(|(label, value)| (*label, value.as_str())));
            self.sample(name, &all, *value);
        }
    }

    /// A metric with one value for each guest that has one.
    fn plain(
        &mut self,
        status: &Status,
        name: &str,
        help: &str,
        of: impl Fn(&Guest) -> Option<f64>,
    ) {
        self.guests(status, name, help, |guest| {
            of(guest).map(|value| (Vec::new(), value)).into_iter().collect()
        });
    }
}

/// A label's value; the text format has three escapes. Control characters are escaped too, for a
/// terminal that shows the file.
fn escaped(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| printable(line, LABEL)).collect();
    let text = lines.join("\n");
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, chown, symlink};

    /// A user id that belongs to nobody.
    const NOBODY: u32 = 65534;

    #[test]
    fn the_owner_of_the_textfile_directory_turns_no_write_against_others() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let name = format!("stillpoint-metrics-{}", crate::sys::text::token());
        let directory = std::env::temp_dir().join(name);
        let root = Root::at(&directory);
        let theirs = root.path("/var/lib/prometheus/node-exporter");
        fs::create_dir_all(&theirs).unwrap();
        for path in [&theirs, &root.path("/var/lib/prometheus")] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let secret = root.path("/etc/secret");
        fs::create_dir(root.path("/etc")).unwrap();
        fs::write(&secret, "secret").unwrap();
        fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        // The temporary names that an attacker could predict for a process with this pid.
        let temporary = format!(".stillpoint.prom.{}.tmp", std::process::id());
        for name in [&temporary, "stillpoint.prom"] {
            symlink(&secret, theirs.join(name)).unwrap();
        }
        let mut settings = Settings::default();
        settings.report.textfile_directory = Some("/var/lib/prometheus/node-exporter".into());
        write(&root, &settings).unwrap();
        let page = fs::symlink_metadata(theirs.join("stillpoint.prom")).unwrap();
        assert!(page.is_file() && page.uid() == NOBODY && page.mode() & 0o7777 == MODE);

        fs::rename(&theirs, root.path("/var/lib/prometheus/moved")).unwrap();
        symlink(root.path("/etc"), &theirs).unwrap();
        assert!(write(&root, &settings).is_err());
        let told = complaint(&root, &settings).unwrap();
        assert!(told.contains("a link that a user other than root can change"), "{told}");
        assert_eq!(fs::read_dir(root.path("/etc")).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::metadata(&secret).unwrap().mode() & 0o7777, 0o600);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_label_can_hold_anything() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        assert_eq!(escaped("a\u{9b}2J\u{202e}"), "a\\\\u{9b}2J\\\\u{202e}");
        let mut page = Page(String::new());
        page.sample("up", &[("name", "a\"b")], 1.0);
        page.sample("up", &[], 1_795_303_376.5);
        assert_eq!(page.0, "up{name=\"a\\\"b\"} 1\nup 1795303376.5\n");
    }
}
