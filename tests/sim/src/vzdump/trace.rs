//! Recorded runs of the real vzdump, as in `tests/fixtures/vzdump/traces.json`.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// One recorded run.
#[derive(Debug, Clone, Deserialize)]
pub struct Scenario {
    /// Its name in the file.
    #[serde(skip)]
    pub name: String,
    /// The command; what was done to it is in brackets before it: `[stop after 3s] vzdump 9001`.
    #[serde(default)]
    pub command: String,
    /// The command's exit status, if it was recorded.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The hook calls, in order.
    pub calls: Vec<Call>,
    /// The task log, with marks for the signals sent.
    #[serde(default)]
    pub task_log: Vec<String>,
}

/// One call of the hook.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    /// Time of day, `HH:MM:SS.mmm`.
    #[serde(default)]
    pub t: String,
    /// `PHASE`, or `PHASE MODE VMID`.
    pub argv: Vec<String>,
    /// The whole environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct File {
    scenarios: BTreeMap<String, Scenario>,
}

impl Scenario {
    /// Reads one scenario of a file.
    ///
    /// # Errors
    /// When the file cannot be read, or has no such scenario.
    pub fn load(path: &Path, name: &str) -> Result<Self> {
        let mut all = Self::load_all(path)?;
        let names = all.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let at = names.iter().position(|known| known == name);
        let at = at.with_context(|| {
            let path = path.display();
            format!("{path} has no scenario {name}; it has {}", names.join(", "))
        })?;
        Ok(all.swap_remove(at))
    }

    /// Reads all scenarios of a file, by name.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load_all(path: &Path) -> Result<Vec<Self>> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("understanding {}", path.display()))
    }

    /// All scenarios in a file's text, by name.
    ///
    /// # Errors
    /// If the text has no such format.
    pub fn parse(text: &str) -> Result<Vec<Self>> {
        let file: File = serde_json::from_str(text)?;
        let named = file.scenarios.into_iter().map(|(name, mut scenario)| {
            scenario.name = name;
            scenario
        });
        Ok(named.collect())
    }

    /// The VMIDs of all guests that the run touches or was asked for.
    pub fn vmids(&self) -> Vec<u32> {
        let called = self.calls.iter().filter_map(Call::vmid);
        let asked = self.command.split("vzdump ").nth(1).unwrap_or_default();
        let asked = asked.split_whitespace().map_while(|word| word.parse().ok());
        let mut all = called.chain(asked).collect::<Vec<_>>();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Call {
    /// The phase.
    pub fn phase(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }

    /// The mode, in a guest's phase.
    pub fn mode(&self) -> Option<&str> {
        self.argv.get(1).map(String::as_str)
    }

    /// The guest, in a guest's phase.
    pub fn vmid(&self) -> Option<u32> {
        self.argv.get(2)?.parse().ok()
    }

    /// Whether the call is about a virtual machine.
    pub fn is_qemu(&self) -> bool {
        self.env.get("VMTYPE").is_some_and(|kind| kind == "qemu")
    }

    /// The snapshot's name on a PBS, `ct/9001/2026-11-21T23:22:56Z`.
    pub fn pbs_target(&self) -> Option<&str> {
        let target = self.env.get("TARGET")?;
        let named = target.starts_with("ct/") || target.starts_with("vm/");
        named.then_some(target)
    }

    /// Time of day.
    pub fn time(&self) -> Option<Duration> {
        time_of_day(&self.t)
    }
}

/// `HH:MM:SS.mmm`
pub fn time_of_day(text: &str) -> Option<Duration> {
    let (hours, rest) = text.split_once(':')?;
    let (minutes, seconds) = rest.split_once(':')?;
    let minutes = hours.parse::<u64>().ok()? * 60 + minutes.parse::<u64>().ok()?;
    let seconds = seconds.parse::<f64>().ok()?;
    Some(Duration::from_secs(minutes * 60) + Duration::try_from_secs_f64(seconds).ok()?)
}
