//! The backup server's texts, as types: how a verify ended, what its log says about one snapshot,
//! and which refusals are temporary.

use std::fmt;

use chrono::DateTime;

use super::Snapshot;
use super::client::Error;

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// `OK`, which proves nothing.
    Ok,
    /// The server was restarted meanwhile, or never knew the task.
    Unknown,
    /// Somebody stopped it.
    Aborted(String),
    /// It found damage, or could not write its result; its log says which.
    Failed(String),
    /// Anything else, such as `WARNINGS: 1`.
    Other(String),
}

impl From<String> for Ending {
    fn from(exitstatus: String) -> Ending {
        match exitstatus.as_str() {
            "OK" => Ending::Ok,
            "unknown" => Ending::Unknown,
            text if text.contains("abort requested") => Ending::Aborted(exitstatus),
            text if text.contains("verification failed") => Ending::Failed(exitstatus),
            _ => Ending::Other(exitstatus),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ending::Ok => "OK",
            Ending::Unknown => "unknown",
            Ending::Aborted(text) | Ending::Failed(text) | Ending::Other(text) => text,
        })
    }
}

/// What a task's log says about one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why it was skipped.
    pub skipped: Option<Skipped>,
    /// Why its manifest could not be loaded.
    pub manifest: Option<Manifest>,
    /// What is damaged, as in `root.pxar.didx failed: chunks could not be verified`.
    pub damaged: Vec<String>,
    /// Why no state was written into it.
    pub unwritten: Option<Unwritten>,
}

/// Why a verify skipped a snapshot, with the server's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skipped {
    /// It does not exist (any more).
    Gone(String),
    /// Another task has locked it: a backup, a prune or a forget.
    Locked(String),
    /// Another reason, such as `recently verified`.
    Other(String),
}

/// What is wrong with a manifest, with the server's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// It was read and has changed since it was written.
    Damaged(String),
    /// It does not exist.
    Missing(String),
    /// The server could not read it, which may have another cause than damage.
    Unreadable(String),
}

/// Why a result was not written, with the server's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwritten {
    /// The datastore is full.
    NoSpace(String),
    /// Another reason, such as a person who edits the notes.
    Other(String),
}

/// What the server says of a file that is not there.
const NO_FILE: &str = "No such file or directory (os error 2)";

impl Findings {
    /// What the log says about a snapshot; the log of a group's verify has lines about many. The
    /// server leaves out the namespace.
    pub fn of(log: &[String], snapshot: &Snapshot) -> Findings {
        let name = snapshot.to_string();
        let mut findings = Findings::default();
        for line in log {
            let text = unstamped(line);
            let (skipped, text) = match text.strip_prefix("SKIPPED: ") {
                Some(text) => (true, text),
                None => (false, text),
            };
            let subject = text.strip_prefix("verify ").and_then(|text| text.split_once(&name));
            let Some((_, said)) = subject else { continue };
            if skipped {
                findings.skipped = Some(Skipped::of(said));
            } else if let Some(why) = said.strip_prefix(" - manifest load error: ") {
                findings.manifest = Some(Manifest::of(why));
            } else if let Some(why) = said.strip_prefix(" - manifest update error: ") {
                findings.unwritten = Some(Unwritten::of(why));
            } else if let Some(file) = said.strip_prefix('/').filter(|it| it.contains(" failed: "))
            {
                findings.damaged.push(file.to_owned());
            }
        }
        findings
    }
}

impl Findings {
    /// Whether the log names damage that the removal of the snapshot does not explain: a file that
    /// was not there when it was to be read may have been removed with the others.
    pub fn is_damaged_apart_from_removal(&self) -> bool {
        self.damaged.iter().any(|what| !what.ends_with(NO_FILE))
    }
}

impl Skipped {
    fn of(said: &str) -> Skipped {
        let why = said.strip_prefix(" - ").unwrap_or(said).trim();
        let why = why.trim_start_matches('(').trim_end_matches(')').to_owned();
        if why.contains("does not exist") {
            Skipped::Gone(why)
        } else if why.contains("could not acquire snapshot lock") {
            Skipped::Locked(why)
        } else {
            Skipped::Other(why)
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Skipped::Gone(why) | Skipped::Locked(why) | Skipped::Other(why)) = self;
        f.write_str(why)
    }
}

impl Manifest {
    fn of(why: &str) -> Manifest {
        let text = why.to_owned();
        if why.contains("No such file") || why.contains("manifest not found") {
            Manifest::Missing(text)
        } else if why.contains("(os error ") {
            Manifest::Unreadable(text)
        } else {
            Manifest::Damaged(text)
        }
    }

    /// What a refused request for a snapshot's manifest says about the manifest.
    pub fn of_refusal(error: &Error) -> Option<Manifest> {
        match error {
            Error::Refused { status: 400..500, reason }
                if reason.contains("unable to load blob")
                    || reason.contains("manifest not found") =>
            {
                Some(Manifest::of(reason))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Manifest::Damaged(why) | Manifest::Missing(why) | Manifest::Unreadable(why)) = self;
        f.write_str(why)
    }
}

impl Unwritten {
    fn of(why: &str) -> Unwritten {
        match why.contains("No space left on device") || why.contains("quota exceeded") {
            true => Unwritten::NoSpace(why.to_owned()),
            false => Unwritten::Other(why.to_owned()),
        }
    }
}

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Unwritten::NoSpace(why) | Unwritten::Other(why)) = self;
        f.write_str(why)
    }
}

/// A line of a log without its time.
fn unstamped(line: &str) -> &str {
    match line.split_once(": ") {
        Some((stamp, text)) if DateTime::parse_from_rfc3339(stamp).is_ok() => text,
        _ => line,
    }
}

/// The beginning of the reason if a datastore's directory has disappeared while the server uses it:
/// then the server lists nothing, and refuses to report the free space.
pub(super) const NO_DIRECTORY: &str = "the directory of the datastore is not there";

/// Why a server refuses something temporarily.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// The server itself is busy.
    Server,
    /// The datastore is under maintenance, is being unmounted or is being deleted.
    Maintenance,
    /// The datastore's disk is not mounted.
    NotMounted,
    /// The directory of the datastore is not there: its file system is not mounted, or its pool not
    /// imported.
    NoDirectory,
}

impl Error {
    /// Why the server refuses this now but may do it later; `None` if asking again would give the
    /// same result.
    pub fn not_now(&self) -> Option<NotNow> {
        match self {
            Error::Refused { status: 500.., .. } => Some(NotNow::Server),
            Error::Refused { reason, .. } if of_datastore(reason).is_some() => {
                // What follows may hold an administrator's own words.
                let said = of_datastore(reason).unwrap_or_default();
                if said.starts_with("is not mounted") {
                    Some(NotNow::NotMounted)
                } else {
                    let unavailable =
                        said.starts_with("is unavailable: ") || said.contains("maintenance mode");
                    unavailable.then_some(NotNow::Maintenance)
                }
            }
            Error::Refused { reason, .. } if reason.contains("maintenance mode") => {
                Some(NotNow::Maintenance)
            }
            Error::Refused { reason, .. }
                if reason.starts_with("unable to open chunk store ")
                    || reason.starts_with(NO_DIRECTORY) =>
            {
                Some(NotNow::NoDirectory)
            }
            _ => None,
        }
    }

    /// Whom the group belongs to that the server does not let this login touch.
    pub fn foreign_owner(&self) -> Option<&str> {
        match self {
            Error::Denied { status: 400, reason } => owner_in(reason),
            _ => None,
        }
    }
}

/// What a refusal says of a datastore: the rest of `datastore 'office' is not mounted`.
fn of_datastore(reason: &str) -> Option<&str> {
    reason.strip_prefix("datastore '")?.split_once("' ").map(|(_, said)| said)
}

/// `backup owner check failed (OURS != OWNER)`
fn owner_in(refusal: &str) -> Option<&str> {
    let pair = refusal.strip_prefix("backup owner check failed (")?.strip_suffix(')')?;
    pair.split_once(" != ").map(|(_, owner)| owner)
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{exchange, exchanges};
    use super::*;

    /// The log of the nth task in a recording.
    fn log(name: &str, nth: usize) -> Vec<String> {
        let logs = exchanges(name).into_iter().filter(|exchange| exchange.call.contains("/log?"));
        let recorded = logs.filter(|exchange| exchange.status == 200).nth(nth).unwrap();
        let body: serde_json::Value = serde_json::from_str(&recorded.body).unwrap();
        let lines = body["data"].as_array().unwrap().iter();
        lines.map(|line| line["t"].as_str().unwrap().to_owned()).collect()
    }

    fn snapshot(name: &str) -> Snapshot {
        name.parse().unwrap()
    }

    #[test]
    fn a_recorded_manifest_that_is_damaged_is_told_from_one_that_is_gone() {
        let one = snapshot("ct/9001/2026-11-27T22:13:13Z");
        let found = Findings::of(&log("07-manifest-damaged.http", 2), &one);
        assert!(matches!(found.manifest, Some(Manifest::Damaged(_))), "{found:?}");
        assert!(found.damaged.is_empty() && found.unwritten.is_none(), "{found:?}");
        let title = "download-decoded of the damaged manifest";
        let recorded = exchange("07-manifest-damaged.http", title);
        let refused = |reason: String| Error::Refused { status: recorded.status, reason };
        let told = Manifest::of_refusal(&refused(recorded.body.clone()));
        assert!(matches!(told, Some(Manifest::Damaged(_))), "{told:?}");
        let gone = refused("manifest not found for snapshot 'ct/1/x'".to_owned());
        assert!(matches!(Manifest::of_refusal(&gone), Some(Manifest::Missing(_))));
        let disk = refused("unable to load blob 'x' - Input/output error (os error 5)".to_owned());
        assert!(matches!(Manifest::of_refusal(&disk), Some(Manifest::Unreadable(_))));
        assert_eq!(Manifest::of_refusal(&refused("no such datastore 'x'".to_owned())), None);
    }

    #[test]
    fn a_recorded_full_disk_is_no_damage_and_hides_none() {
        let one = snapshot("ct/9010/2026-11-27T22:13:23Z");
        let full = Findings::of(&log("08-datastore-full.http", 0), &one);
        assert!(matches!(full.unwritten, Some(Unwritten::NoSpace(_))), "{full:?}");
        assert_eq!(full.damaged, Vec::<String>::new());
        let both = Findings::of(&log("08-datastore-full.http", 1), &one);
        assert!(both.unwritten.is_some(), "{both:?}");
        assert_eq!(both.damaged, ["root.pxar.didx failed: chunks could not be verified"]);
    }

    #[test]
    fn a_recorded_lock_and_a_recorded_removal_are_told_apart() {
        let locked = snapshot("ct/9020/2026-11-27T22:13:25Z");
        for nth in [0, 1] {
            let found = Findings::of(&log("10-locked.http", nth), &locked);
            assert!(matches!(found.skipped, Some(Skipped::Locked(_))), "{found:?}");
        }
        let gone = snapshot("ct/9061/2026-11-27T22:14:03Z");
        let found = Findings::of(&log("14-moved-removed.http", 2), &gone);
        assert!(matches!(found.skipped, Some(Skipped::Gone(_))), "{found:?}");
        let again = snapshot("ct/9050/2026-11-27T22:13:57Z");
        let found = Findings::of(&log("13-group-verify.http", 1), &again);
        assert_eq!(found.skipped, Some(Skipped::Other("recently verified".to_owned())));
    }

    #[test]
    fn the_recorded_log_of_a_group_is_read_for_one_snapshot() {
        let log = log("13-group-verify.http", 3);
        for second in 48..=57 {
            let one = snapshot(&format!("ct/9050/2026-11-27T22:13:{second}Z"));
            let damaged = Findings::of(&log, &one).damaged;
            assert_eq!(damaged, ["root.pxar.didx failed: chunks could not be verified"], "{one}");
        }
        let other = snapshot("ct/9050/2026-11-27T22:13:47Z");
        assert_eq!(Findings::of(&log, &other), Findings::default());
    }

    #[test]
    fn a_refusal_names_the_owner() {
        let denied = |reason: &str| Error::Denied { status: 400, reason: reason.to_owned() };
        let refusal = denied("backup owner check failed (bk@pbs!n100 != ot@pbs!t)");
        assert_eq!(refusal.foreign_owner(), Some("ot@pbs!t"));
        assert_eq!(denied("task access not allowed").foreign_owner(), None);
    }

    #[test]
    fn recorded_refusals_that_pass_are_told_from_those_that_do_not() {
        let refused = |status, reason: &str| Error::Refused { status, reason: reason.to_owned() };
        let mut seen = Vec::new();
        for recorded in exchanges("09-not-mounted.http") {
            if recorded.status == 400 {
                let why = refused(400, &recorded.body).not_now();
                assert!(why.is_some(), "{}", recorded.body);
                seen.push(why);
            }
        }
        assert!(seen.contains(&Some(NotNow::NotMounted)));
        assert!(seen.contains(&Some(NotNow::Maintenance)));
        let deleted = refused(400, "datastore 'usb' is unavailable: datastore is being deleted");
        assert_eq!(deleted.not_now(), Some(NotNow::Maintenance));
        assert_eq!(refused(503, "busy").not_now(), Some(NotNow::Server));
        let gone = "unable to open chunk store at \"/mnt/office/.chunks\" - No such file or directory (os error 2)";
        assert_eq!(refused(400, gone).not_now(), Some(NotNow::NoDirectory));
        // The message of an administrator is not the server's own word.
        let message =
            "datastore 'office' is unavailable: offline maintenance mode: disk 'x' is not mounted";
        assert_eq!(refused(400, message).not_now(), Some(NotNow::Maintenance));
        for stays in ["no such datastore 'x'", "manifest not found for snapshot 'ct/1/x'"] {
            assert_eq!(refused(400, stays).not_now(), None, "{stays}");
        }
    }
}
