//! Replaying a scenario: how it may differ from the recording, and what comes of it.

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

/// Who is killed, in a test of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The hook alone.
    Hook,
    /// vzdump's worker alone.
    Worker,
    /// The worker's process group, the hook in it.
    Group,
    /// Every process of Stillpoint that is not in the worker's session: the guard.
    Guard,
    /// The hook and the guard; vzdump lives.
    HookAndGuard,
    /// All of them at once.
    Everything,
    /// Nobody is killed, but SIGTERM goes to the worker's process group, and SIGKILL after the grace.
    StopButton,
}

/// When it is killed, within one call of the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// That long after the hook was started.
    After(Duration),
    /// When the engines have seen that many requests that change something since the call began.
    Actions(usize),
    /// When the call has ended.
    End,
    /// While vzdump itself is at work after the call: the guest is frozen, or down, or being archived.
    Working,
    /// When a process of Stillpoint halts at its failpoint, in whatever phase; one that survives goes on.
    Failpoint,
}

/// A kill that the recording does not have.
#[derive(Debug, Clone)]
pub struct Kill {
    /// The phase; the first such call of a job is meant.
    pub phase: String,
    /// The guest, where it matters.
    pub vmid: Option<u32>,
    /// When within the call.
    pub moment: Moment,
    /// Who.
    pub victim: Victim,
}

/// Is told what happens.
pub type Observer = Arc<dyn Fn(&Happening) + Send + Sync>;

/// How to replay.
#[derive(Clone)]
pub struct Options {
    /// Further environment of the hook, such as failpoints.
    pub env: BTreeMap<String, String>,
    /// Kills that the recording does not have.
    pub kills: Vec<Kill>,
    /// How long to wait at the end for what goes on in the background.
    pub settle: Duration,
    /// From the Stop button's SIGTERM to the SIGKILL.
    pub grace: Duration,
    /// How long a job hangs of which the recording only says that it was killed then.
    pub hang: Duration,
    /// How long a call may take before the replay gives up: vzdump itself would wait for ever.
    pub patience: Duration,
    /// No verify on the backup server ends before the jobs have, however slow the machine is.
    pub verifies_outlast_jobs: bool,
    /// Told what happens, while it happens.
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

/// Something that an observer may tell.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A job's worker is there.
    Worker(String),
    /// The hook is called with these arguments.
    Called(Vec<String>),
    /// The hook has ended.
    Ended(CallReport),
    /// vzdump did this step.
    Did(Step),
    /// A kill that the recording does not have is about to come.
    Kills(Victim),
}

/// Replays a scenario on a node made for it.
///
/// # Errors
/// When the simulation itself fails. What the hook does wrong is in the report.
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
