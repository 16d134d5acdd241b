//! Settings: what a file may contain, and what the program uses.
//!
//! Every setting has a default. `/etc/stillpoint/config.toml` (this node) overrides
//! `/etc/pve/stillpoint/config.toml` (the whole cluster), key by key. A file with an error never
//! breaks a backup: it is ignored, and [`Settings::complaint`] says so.

mod keys;
mod layers;
mod written;

pub use self::keys::KEYS;
pub use self::layers::{Fault, File, Layers, Setting};
pub use self::written::duration;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::written::{Guest, Span, Storage, Written};

use crate::sys::Root;

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

/// How to test whether an engine starts containers, if nothing is known about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trial {
    /// With a container that is made for the test and never runs.
    Throwaway,
    /// If that gives no result, with a container of the guest.
    Container,
}

/// What to do with a backup whose containers could not be stopped or paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The backup is made, with the grade crash-consistent.
    Continue,
    /// No backup is made: pre-stop fails.
    Fail,
}

/// What to do with a job if one of its backups did not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The summary says so.
    Warn,
    /// The job fails, and Proxmox VE notifies.
    FailJob,
}

/// When a new backup is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Each one.
    Always,
    /// Never: the server's own verify jobs are enough.
    Never,
    /// Only if the guest's last verify from here is at least this long ago.
    After(Duration),
}

/// When a guest that starts gets a new identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// If another guest of the cluster owns one of its MACs.
    IfConflict,
    /// On the first start after each restore: for copies of guests of another cluster on the same
    /// network.
    Always,
    /// Never.
    Never,
}

/// What to do with a static address of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// Keep it, and keep the interface's link down until an admin has decided.
    LinkDown,
    /// Replace it by DHCP (IPv6: SLAAC stays, a static address becomes DHCPv6).
    Dhcp,
    /// Keep it.
    Keep,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    pub quiesce: Quiesce,
    pub verify: Verify,
    pub resume: Resume,
    pub restore: Restore,
    pub journal: Journal,
    pub report: Report,
    guests: BTreeMap<String, Guest>,
    storages: BTreeMap<String, Storage>,
    /// Why a settings file is not used, in words for a person.
    pub complaint: Option<String>,
}

/// `[quiesce]`
#[derive(Clone, Debug)]
pub struct Quiesce {
    /// For containers without a label, in guests without this setting. Default: stop.
    pub strategy: Strategy,
    /// Default: continue.
    pub on_error: OnError,
    /// The limit for stopping all containers of a guest. Default 60 s; raised to the longest chain
    /// of the containers' own stop timeouts, and always below `hold_limit`.
    pub time_limit: Duration,
    /// How long containers may stay stopped before the guard starts them. Default 5 min.
    pub hold_limit: Duration,
    /// How long vzdump waits in one job for work on one guest, without the backup server's time.
    /// Stopping may use half of it; the guard does the rest. Default 3 min.
    pub budget: Duration,
    /// `try`. Default: throwaway.
    pub trial: Trial,
}

/// `[verify]`
#[derive(Clone, Debug)]
pub struct Verify {
    /// How long job-end waits for verifies; other jobs of the node wait meanwhile. Default 5 min.
    pub wait: Duration,
    /// How many of our verifies run on one datastore at a time. Default 1.
    pub parallel: usize,
    /// Default: always.
    pub when: When,
    /// Default: warn.
    pub on_failure: OnFailure,
    /// Whether a snapshot with an unencrypted data file counts as failed. Default: false.
    pub require_encryption: bool,
}

/// `[resume]`
#[derive(Clone, Debug)]
pub struct Resume {
    /// Whether to thaw or start a guest that a dead vzdump left frozen or down. Default: true.
    pub revive_guest: bool,
    /// Whether to remove the lock that a dead vzdump left in a guest's configuration. Default:
    /// true.
    pub unlock: bool,
}

/// `[restore]`: what happens when a restored guest starts.
#[derive(Clone, Debug)]
pub struct Restore {
    /// Default: if-conflict.
    pub identity: Identity,
    /// The hostname of a copy, with `{hostname}` and `{vmid}` replaced. Default:
    /// `{hostname}-{vmid}`.
    pub hostname: String,
    /// Default: link-down.
    pub address: Address,
    /// Whether a copy gets a new machine-id. Default: true.
    pub machine_id: bool,
    /// Whether a copy gets new SSH host keys. Default: true.
    pub ssh_host_keys: bool,
    /// Whether a hookscript that a guest already has is kept and called by ours. Default: true;
    /// otherwise such a guest cannot be enabled.
    pub chain: bool,
    /// What both a copy and its original may write to: directories of the node, or
    /// `SERVER:/DIRECTORY`. Default: nothing.
    pub shared: Vec<String>,
}

/// `[journal]`
#[derive(Clone, Debug)]
pub struct Journal {
    /// Records that are younger are never removed. Default: 5 years.
    pub keep: Duration,
}

/// `[report]`: monitoring besides the task log, the journal and the system's log.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Where to write metrics for node_exporter's textfile collector after each job. Default:
    /// nowhere.
    pub textfile_directory: Option<String>,
    /// A URL to request after each job, with `/fail` appended if something went wrong (as
    /// healthchecks.io expects). Default: none.
    pub ping_url: Option<String>,
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
        let verify = Verify {
            wait: span(written.verify.wait, 300),
            parallel: written.verify.parallel.map_or(1, NonZeroUsize::get),
            when: When::Always,
            on_failure: OnFailure::Warn,
            require_encryption: false,
        };
        let restore = Restore {
            identity: Identity::IfConflict,
            hostname: "{hostname}-{vmid}".to_string(),
            address: Address::LinkDown,
            machine_id: true,
            ssh_host_keys: true,
            chain: written.restore.chain.unwrap_or(true),
            shared: Vec::new(),
        };
        Settings {
            quiesce: Quiesce {
                strategy: written.quiesce.strategy.unwrap_or(Strategy::Stop),
                on_error: written.quiesce.on_error.unwrap_or(OnError::Continue),
                time_limit: span(written.quiesce.time_limit, 60),
                hold_limit,
                budget: span(written.quiesce.budget, 180),
                trial: written.quiesce.trial.unwrap_or(Trial::Throwaway),
            },
            verify: written.verify.policy().over(verify),
            resume: Resume {
                revive_guest: written.resume.revive_guest.unwrap_or(true),
                unlock: written.resume.unlock.unwrap_or(true),
            },
            restore: written.restore.copied().over(restore),
            journal: Journal { keep: span(written.journal.keep, 5 * 365 * 86_400) },
            report: Report {
                textfile_directory: written.report.textfile_directory,
                ping_url: written.report.ping_url,
            },
            guests: written.guest,
            storages: written.storage,
            complaint: None,
        }
    }
}

impl Settings {
    /// The settings of this node.
    pub fn load(root: &Root) -> Settings {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            return walk.settings();
        }
        Settings::of(&Layers::read(root))
    }

    /// As [`Settings::load`], for callers that must go on if `/etc/pve` does not answer: then the
    /// cluster's file is not used.
    pub fn load_bounded(root: &Root) -> Settings {
        #[cfg(test)]
        if let Some(walk) = crate::sys::walk::current() {
            return walk.settings();
        }
        Settings::of(&Layers::read_bounded(root))
    }

    /// The settings from the files that were read.
    pub fn of(layers: &Layers) -> Settings {
        let complaint = layers.complaint();
        match layers.written() {
            Ok(written) => Settings { complaint, ..Settings::from(written) },
            // Each part was valid, but not the combination.
            Err(error) => Settings {
                complaint: Some(format!("no settings file is used: {error}")),
                ..Settings::default()
            },
        }
    }

    /// The strategy for a guest's containers without a label.
    pub fn strategy_of(&self, vmid: u32) -> Strategy {
        self.guests
            .get(&vmid.to_string())
            .and_then(|guest| guest.strategy)
            .unwrap_or(self.quiesce.strategy)
    }

    /// The verify settings for a backup of this guest on this storage: the guest's own, else the
    /// storage's, else the general ones.
    pub fn verify_of(&self, vmid: u32, storage: &str) -> Verify {
        let mut verify = self.verify.clone();
        if let Some(storage) = self.storages.get(storage) {
            verify = storage.verify.over(verify);
        }
        match self.guests.get(&vmid.to_string()) {
            Some(guest) => guest.verify.over(verify),
            None => verify,
        }
    }

    /// Whether the admin says that the encryption key of this storage is also kept outside the
    /// cluster: `key-saved = true` in `[storage.ID]`.
    pub fn key_is_saved(&self, storage: &str) -> bool {
        self.storages.get(storage).and_then(|storage| storage.key_saved).unwrap_or(false)
    }

    /// The restore settings of this guest.
    pub fn restore_of(&self, vmid: u32) -> Restore {
        let restore = self.restore.clone();
        match self.guests.get(&vmid.to_string()) {
            Some(guest) => guest.restore.over(restore),
            None => restore,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of a node with these files: its own, and the cluster's.
    fn load_both(node: &str, cluster: &str) -> Settings {
        let directory =
            std::env::temp_dir().join(format!("stillpoint-config-{}", crate::sys::text::token()));
        for (place, text) in [("etc/stillpoint", node), ("etc/pve/stillpoint", cluster)] {
            std::fs::create_dir_all(directory.join(place)).unwrap();
            if !text.is_empty() {
                std::fs::write(directory.join(place).join("config.toml"), text).unwrap();
            }
        }
        let settings = Settings::load(&Root::at(&directory));
        std::fs::remove_dir_all(directory).unwrap();
        settings
    }

    fn load(text: &str) -> Settings {
        load_both(text, "")
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
        let example = load(include_str!("../../packaging/config.toml"));
        assert_eq!(example.complaint, None);
        assert_eq!(format!("{example:?}"), format!("{:?}", Settings::default()));
    }

    #[test]
    fn what_the_node_says_holds_against_the_cluster_key_by_key() {
        let cluster = "[quiesce]\ntime-limit = \"30s\"\nhold-limit = \"2min\"\n\
                       [guest.9001]\nstrategy = \"pause\"\nverify.when = \"never\"\n";
        let node = "[quiesce]\nhold-limit = \"4min\"\n[guest.9001]\nstrategy = \"none\"\n";
        let settings = load_both(node, cluster);
        assert_eq!(settings.complaint, None);
        assert_eq!(settings.quiesce.time_limit, Duration::from_secs(30), "only the cluster's");
        assert_eq!(settings.quiesce.hold_limit, Duration::from_secs(240), "the node's");
        assert_eq!(settings.strategy_of(9001), Strategy::None);
        assert_eq!(settings.verify_of(9001, "offsite").when, When::Never);
    }

    #[test]
    fn a_broken_file_is_as_if_it_were_not_there_and_the_other_counts() {
        for broken in
            ["[quiesce]\nhold-limit = \"5\"\n", "[quiesce]\nhold-limt = \"5min\"\n", "[quiesce\n"]
        {
            let settings = load_both(broken, "[quiesce]\ntime-limit = \"30s\"\n");
            assert_eq!(settings.quiesce.hold_limit, Duration::from_secs(300));
            assert_eq!(settings.quiesce.time_limit, Duration::from_secs(30));
            let complaint = settings.complaint.unwrap();
            assert!(
                complaint.starts_with("/etc/stillpoint/config.toml is not used"),
                "{complaint}"
            );
            assert!(complaint.contains("line"), "{complaint}");
            let settings = load_both("[quiesce]\ntime-limit = \"30s\"\n", broken);
            assert_eq!(settings.quiesce.time_limit, Duration::from_secs(30));
            assert!(settings.complaint.unwrap().contains("/etc/pve/stillpoint/config.toml"));
        }
    }

    #[test]
    fn a_guests_own_setting_comes_before_its_storages_and_that_before_the_rest() {
        let settings = load(
            "[verify]\nwhen = \"7d\"\n[storage.offsite]\nverify.when = \"1d\"\n\
             verify.require-encryption = true\n[guest.9001]\nverify.when = \"never\"\n",
        );
        let days = |days: u64| When::After(Duration::from_secs(days * 86_400));
        assert_eq!(settings.verify_of(9002, "here").when, days(7));
        assert_eq!(settings.verify_of(9002, "offsite").when, days(1));
        let own = settings.verify_of(9001, "offsite");
        assert_eq!((own.when, own.require_encryption), (When::Never, true));
    }
}
