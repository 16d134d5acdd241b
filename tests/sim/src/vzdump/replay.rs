//! Replaying a scenario: the possible deviations from the recording, and the result.

use super::director::Director;
use super::plan::Step;
use super::report::{CallReport, Report};
use super::result;
use super::trace::Scenario;
use crate::node::Node;
use crate::node::backups::BackupServer;
use anyhow::Result;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The victims of a kill, in a fault test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The hook alone.
    Hook,
    /// vzdump's worker alone.
    Worker,
    /// The worker's process group, including the hook.
    Group,
    /// Every process of Stillpoint outside the worker's session: the guard.
    Guard,
    /// The hook and the guard; vzdump lives.
    HookAndGuard,
    /// All of them at once.
    Everything,
    /// No kill: SIGTERM to the worker's process group, and SIGKILL after the grace period.
    StopButton,
}

/// The moment of a kill, relative to one call of the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// This long after the hook was started.
    After(Duration),
    /// When the engines have received this many changing requests since the call began.
    Actions(usize),
    /// When the call has ended.
    End,
    /// While vzdump itself works after the call: the guest is frozen, or down, or being archived.
    Working,
    /// When a process of Stillpoint halts at its failpoint, in any phase; if it survives, it
    /// continues.
    Failpoint,
}

/// A kill that is not in the recording.
#[derive(Debug, Clone)]
pub struct Kill {
    /// The phase; the first such call of a job counts.
    pub phase: String,
    /// The guest, if it matters.
    pub vmid: Option<u32>,
    /// The moment, relative to the call.
    pub moment: Moment,
    /// The victims.
    pub victim: Victim,
}

/// A function that is called for each event.
pub type Observer = Arc<dyn Fn(&Happening) + Send + Sync>;

/// How to replay.
#[derive(Clone)]
pub struct Options {
    /// Additional environment variables of the hook, such as failpoints.
    pub env: BTreeMap<String, String>,
    /// Kills that are not in the recording.
    pub kills: Vec<Kill>,
    /// How long to wait at the end for work in the background.
    pub settle: Duration,
    /// From the Stop button's SIGTERM to the SIGKILL.
    pub grace: Duration,
    /// How long a job hangs if the recording only says that it was killed then.
    pub hang: Duration,
    /// How long a call may take before the replay fails; vzdump itself would wait for ever.
    pub patience: Duration,
    /// Keeps verifies on the backup server from ending before the jobs, however slow the machine
    /// is.
    pub verifies_outlast_jobs: bool,
    /// Called for each event as it happens.
    pub observer: Option<Observer>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            env: BTreeMap::new(),
            kills: Vec::new(),
            settle: Duration::from_secs(20),
            grace: Duration::from_secs(5),
            hang: Duration::from_secs(1),
            patience: Duration::from_secs(180),
            verifies_outlast_jobs: false,
            observer: None,
        }
    }
}

/// An event for the observer.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A job's worker has started.
    Worker(String),
    /// The hook is called with these arguments.
    Called(Vec<String>),
    /// The hook has ended.
    Ended(CallReport),
    /// vzdump did this step.
    Did(Step),
    /// A kill that is not in the recording follows now.
    Kills(Victim),
}

/// Replays a scenario on a node made for it.
///
/// # Errors
/// If the simulation itself fails. Mistakes of the hook are in the report.
pub fn replay(node: &Node, scenario: &Scenario, options: &Options) -> Result<Report> {
    let begin = Instant::now();
    let before = result::running(node);
    let mut director = Director::new(node, scenario, options)?;
    let held = node.backup_server().filter(|_| options.verifies_outlast_jobs);
    let usual = held.map(BackupServer::hold_verifies);
    director.run_jobs()?;
    if let (Some(held), Some(usual)) = (held, usual) {
        held.release_verifies(usual);
    }
    let settled_ms = director.settle(Instant::now())?;
    let done = director.finish();
    let log = done.upid.as_deref();
    let mut report =
        result::report(node, scenario, begin, &before, done.calls, done.instants, log)?;
    report.settled_ms = settled_ms;
    node.kill_processes()?;
    Ok(report)
}
