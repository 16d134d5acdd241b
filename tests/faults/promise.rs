//! What must be true after every fault.

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use stillpoint_sim::vzdump::report::Report;

use super::harness::Ended;
use super::scene::{Scene, VMID};

/// The engine's own time, in ms, for starting the guests' stack: the database, then the web
/// service.
const STARTS_MS: u64 = 200;

/// What to check, and the known exceptions.
pub struct Promise<'a> {
    pub scene: &'a Scene,
    pub report: &'a Report,
    /// Containers that somebody else has changed.
    pub except: &'a [&'a str],
    /// The backup had begun, so its end must be in the journal.
    pub begun: bool,
    /// The guest's engine had to boot.
    pub booted: bool,
}

impl<'a> Promise<'a> {
    pub fn of(scene: &'a Scene, report: &'a Report) -> Self {
        Self { scene, report, except: &[], begun: true, booted: false }
    }

    pub fn except(mut self, except: &'a [&'a str]) -> Self {
        self.except = except;
        self
    }

    pub fn booted(mut self) -> Self {
        self.booted = true;
        self
    }

    /// Everything that ran runs again, nothing else was started, the guest is neither frozen nor
    /// down, no run and no process is left, and the journal has a record.
    pub fn kept(&self) -> Result<Ended> {
        self.checked().map_err(|error| error.context(self.report.text()))
    }

    fn checked(&self) -> Result<Ended> {
        let report = self.report;
        for call in &report.calls {
            ensure!(call.signal.is_some() || call.exit.is_none_or(|code| code == 0), "{call:?}");
        }
        for guest in &report.guests {
            ensure!(!guest.frozen_after, "guest {} is frozen", guest.vmid);
            ensure!(guest.running_after == guest.running_before, "guest {} is down", guest.vmid);
            let lock = guest.lock_after.as_deref();
            let locked = matches!(lock, Some("backup" | "snapshot"));
            // If vzdump died before the hook could record anything, its lock stays, as it would
            // without Stillpoint.
            let written = self.begun || report.journal.iter().any(|record| record["vmid"] == VMID);
            let is_left = locked && written && lock != self.scene.lock_before();
            ensure!(!is_left, "guest {} is locked", guest.vmid);
        }
        for container in &report.containers {
            let name = container.name.as_str();
            if self.except.contains(&name) {
                continue;
            }
            if container.running_before {
                ensure!(container.running_after, "{name} is {}", container.status_after);
            } else {
                let touched = container.starts + container.stops + container.pauses;
                ensure!(touched == 0 && !container.running_after, "{name} was touched");
            }
        }
        let left =
            self.scene.engine().containers().into_iter().map(|container| container.spec.name);
        let left: Vec<String> = left.filter(|name| name.starts_with("stillpoint-try-")).collect();
        ensure!(left.is_empty(), "throwaway containers are left: {left:?}");
        ensure!(report.runs_left.is_empty(), "left in runs: {:?}", report.runs_left);
        ensure!(report.processes_left.is_empty(), "still there: {:?}", report.processes_left);
        let told = |record: &&Value| {
            matches!(record["kind"].as_str(), Some("backup" | "recovered"))
                && record["vmid"] == VMID
        };
        ensure!(!self.begun || report.journal.iter().any(|r| told(&r)), "nothing is journalled");
        let twice = report.records("backup").into_iter().filter(|record| record["vmid"] == VMID);
        ensure!(twice.count() <= 1, "one backup is journalled twice");
        let back_ms = self.scene.back_ms();
        let boot = if self.booted { 150 } else { 0 };
        Ok(Ended { back_ms, own_ms: back_ms.map(|_| STARTS_MS + boot), skipped: None })
    }
}

/// The record of the guest's backup.
pub fn backup(report: &Report) -> Result<&Value> {
    let its = report.journal.iter().rev();
    let mut its = its.filter(|record| record["kind"] == "backup" && record["vmid"] == VMID);
    match its.next() {
        Some(record) => Ok(record),
        None => bail!("no backup is journalled\n{}", report.text()),
    }
}

/// Checks that the backup is crash-consistent and that one of its reasons contains this.
pub fn is_crash_consistent(report: &Report, because: &str) -> Result<()> {
    let record = backup(report)?;
    let reasons = record["reasons"].to_string();
    ensure!(record["outcome"] == "ok", "{record}\n{}", report.text());
    ensure!(
        record["grade"] == "crash-consistent" && reasons.contains(because),
        "graded {} for {reasons}, not for: {because}\n{}",
        record["grade"],
        report.text()
    );
    Ok(())
}
