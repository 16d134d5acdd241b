//! Settings: what a file may say, and what the program uses.
//!
//! Every setting has a default. `/etc/stillpoint/config.toml` (this node) is read in preference to
//! `/etc/pve/stillpoint/config.toml` (the whole cluster). A file that is not understood never breaks a backup:
//! the defaults are used and [`Settings::complaint`] says so.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::sys::{Root, file};

const PLACES: [&str; 2] = ["/etc/stillpoint/config.toml", "/etc/pve/stillpoint/config.toml"];

/// How a container is brought to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Stopped and started again: a clean shutdown.
    Stop,
    /// Paused and unpaused: as of one instant.
    Pause,
    /// Left running.
    None,
}

/// What becomes of a backup whose guest could not be quiesced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// It is made, and called crash-consistent.
    Continue,
    /// It is not made: pre-stop fails.
    Fail,
}

/// What becomes of a job with a backup that did not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The summary says so.
    Warn,
    /// The job fails, and Proxmox VE notifies.
    FailJob,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    pub quiesce: Quiesce,
    pub verify: Verify,
    pub resume: Resume,
    guests: BTreeMap<String, Guest>,
    /// Why a settings file was passed over, in words for a person.
    pub complaint: Option<String>,
}

/// `[quiesce]`
#[derive(Clone, Debug)]
pub struct Quiesce {
    /// For containers that neither a label nor the guest's setting speaks for. Default: stop.
    pub strategy: Strategy,
    /// Default: continue.
    pub on_error: OnError,
    /// For the whole of bringing a guest to rest. Default 60 s; raised to the longest chain of the
    /// containers' own stop timeouts, and always below `hold_limit`.
    pub time_limit: Duration,
    /// How long containers may stay stopped before the guard resumes them. Default 5 min.
    pub hold_limit: Duration,
}

/// `[verify]`
#[derive(Clone, Debug)]
pub struct Verify {
    /// How long job-end waits for verifies; other jobs of the node wait meanwhile. Default 5 min.
    pub wait: Duration,
    /// Default: warn.
    pub on_failure: OnFailure,
}

/// `[resume]`
#[derive(Clone, Debug)]
pub struct Resume {
    /// Whether a guest that a dead vzdump left frozen or down is thawed or started. Default: true.
    pub revive_guest: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Guest {
    strategy: Option<Strategy>,
}

/// What a settings file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    quiesce: WrittenQuiesce,
    verify: WrittenVerify,
    resume: WrittenResume,
    guest: BTreeMap<String, Guest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenQuiesce {
    strategy: Option<Strategy>,
    on_error: Option<OnError>,
    time_limit: Option<Span>,
    hold_limit: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenVerify {
    wait: Option<Span>,
    on_failure: Option<OnFailure>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenResume {
    revive_guest: Option<bool>,
}

/// A duration with its unit: `90s`, `5min`, `24h`, `200ms`.
#[derive(Clone, Copy, Debug)]
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_span(&text).map(Span).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "'{text}' is no duration: a whole number and its unit, as in 90s, 5min, 24h or 200ms"
            ))
        })
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let milliseconds = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::from(Written::default())
    }
}

impl From<Written> for Settings {
    fn from(written: Written) -> Settings {
        let span = |written: Option<Span>, default: u64| {
            written.map_or(Duration::from_secs(default), |span| span.0)
        };
        let hold_limit = span(written.quiesce.hold_limit, 300);
        Settings {
            quiesce: Quiesce {
                strategy: written.quiesce.strategy.unwrap_or(Strategy::Stop),
                on_error: written.quiesce.on_error.unwrap_or(OnError::Continue),
                time_limit: span(written.quiesce.time_limit, 60),
                hold_limit,
            },
            verify: Verify {
                wait: span(written.verify.wait, 300),
                on_failure: written.verify.on_failure.unwrap_or(OnFailure::Warn),
            },
            resume: Resume { revive_guest: written.resume.revive_guest.unwrap_or(true) },
            guests: written.guest,
            complaint: None,
        }
    }
}

impl Settings {
    /// The settings of this node.
    pub fn load(root: &Root) -> Settings {
        for place in PLACES {
            let complaint = match file::read_text(&root.path(place), 1 << 20) {
                Ok(None) => continue,
                Ok(Some(text)) => match toml::from_str::<Written>(&text) {
                    Ok(written) => return Settings::from(written),
                    Err(error) => error.to_string().trim_end().to_string(),
                },
                Err(error) => error.to_string(),
            };
            let complaint = format!("{place} is not used, the defaults are: {complaint}");
            return Settings { complaint: Some(complaint), ..Settings::default() };
        }
        Settings::default()
    }

    /// The strategy for containers of a guest that have no label of their own.
    pub fn strategy_of(&self, vmid: u32) -> Strategy {
        self.guests
            .get(&vmid.to_string())
            .and_then(|guest| guest.strategy)
            .unwrap_or(self.quiesce.strategy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Settings {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-config-{}", crate::sys::text::token()));
        std::fs::create_dir_all(directory.join("etc/stillpoint")).unwrap();
        std::fs::write(directory.join("etc/stillpoint/config.toml"), text).unwrap();
        let settings = Settings::load(&Root::at(&directory));
        std::fs::remove_dir_all(directory).unwrap();
        settings
    }

    #[test]
    fn what_is_not_written_has_its_default() {
        let settings =
            load("[quiesce]\nhold-limit = \"2min\"\n[guest.9001]\nstrategy = \"pause\"\n");
        assert!(settings.complaint.is_none(), "{:?}", settings.complaint);
        assert_eq!(settings.quiesce.hold_limit, Duration::from_secs(120));
        assert_eq!(settings.quiesce.time_limit, Duration::from_secs(60));
        assert_eq!(settings.strategy_of(9001), Strategy::Pause);
        assert_eq!(settings.strategy_of(9002), Strategy::Stop);
    }

    #[test]
    fn the_example_writes_the_defaults() {
        let example = load(include_str!("../packaging/config.toml"));
        assert_eq!(example.complaint, None);
        assert_eq!(format!("{example:?}"), format!("{:?}", Settings::default()));
    }

    #[test]
    fn a_broken_file_leaves_the_defaults_and_says_where() {
        for text in
            ["[quiesce]\nhold-limit = \"5\"\n", "[quiesce]\nhold-limt = \"5min\"\n", "[quiesce\n"]
        {
            let settings = load(text);
            assert_eq!(settings.quiesce.hold_limit, Duration::from_secs(300));
            let complaint = settings.complaint.unwrap();
            assert!(complaint.contains("/etc/stillpoint/config.toml"), "{complaint}");
            assert!(complaint.contains("line"), "{complaint}");
        }
    }
}
