//! The director of a replay: follows the plan, gives orders to the workers, acts on the guests,
//! sends the signals, and at the end waits for work in the background.

mod calling;
mod killing;
mod printing;
mod steps;

use super::log;
use super::plan::{Jobs, plan};
use super::replay::{Happening, Kill, Options};
use super::report::CallReport;
use super::result::Instants;
use super::trace::Scenario;
use super::wire::{Ended, Job, News, Order, SOCKET, Wire};
use crate::node::Node;
use crate::process::ROLE;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The results of a replay's jobs.
pub struct Done {
    /// The hook's calls.
    pub calls: Vec<CallReport>,
    /// The content of the backups.
    pub instants: Instants,
    /// The first job's task id.
    pub upid: Option<String>,
}

/// If no process of Stillpoint has worked for this long, none will.
const LULL: Duration = Duration::from_secs(1);

struct Worker {
    wire: Wire,
    pid: i32,
    upid: String,
    dead: bool,
    /// The lock was requested and is not held yet.
    waits_for_lock: bool,
    kill_at: Option<Instant>,
}

struct Made {
    report: CallReport,
    pid: i32,
    /// vzdump continued without knowing how the call ended.
    left: bool,
}

/// Directs one replay.
pub struct Director<'a> {
    node: &'a Node,
    scenario: &'a Scenario,
    options: &'a Options,
    jobs: Jobs,
    listener: UnixListener,
    socket: PathBuf,
    daemon: Wire,
    child: Child,
    workers: Vec<Option<Worker>>,
    made: Vec<Made>,
    reaped: BTreeMap<i32, Ended>,
    kills: Vec<Kill>,
    /// How many lines of the recorded log are printed, and what has returned so far.
    printed: usize,
    returned: Vec<(Option<u32>, String)>,
    instants: Instants,
    /// A kill while vzdump itself works.
    working: Option<Kill>,
    /// The Stop button was pressed during the present call, other than in the recording.
    stopped: bool,
}

impl<'a> Director<'a> {
    /// Starts the workers' parent and makes the plan.
    ///
    /// # Errors
    /// When a process does not come up.
    pub fn new(node: &'a Node, scenario: &'a Scenario, options: &'a Options) -> Result<Self> {
        let name = node.root().file_name().unwrap_or_default().to_string_lossy();
        let socket =
            format!("{name:.40}-{}-{:?}.sock", std::process::id(), std::thread::current().id());
        let socket = std::env::temp_dir().join(socket.replace(['(', ')'], ""));
        if socket.exists() {
            std::fs::remove_file(&socket).context("removing an old socket")?;
        }
        let listener = UnixListener::bind(&socket).context("opening the director's socket")?;
        let child = Command::new("/proc/self/exe")
            .env_clear()
            .env(ROLE, "daemon")
            .env(SOCKET, &socket)
            .stdin(Stdio::null())
            .spawn()
            .context("starting the workers' parent")?;
        let mut daemon = accept(&listener)?;
        if !matches!(daemon.receive(Duration::from_secs(10))?, Some(News::Daemon)) {
            bail!("the workers' parent does not report");
        }
        let jobs = plan(scenario);
        let first = scenario.task_log.iter().position(|line| line.starts_with(log::FIRST));
        Ok(Self {
            node,
            scenario,
            options,
            workers: jobs.steps.iter().map(|_| None).collect(),
            jobs,
            listener,
            socket,
            daemon,
            child,
            made: Vec::new(),
            reaped: BTreeMap::new(),
            kills: options.kills.clone(),
            printed: first.unwrap_or(0),
            returned: Vec::new(),
            instants: Instants::default(),
            working: None,
            stopped: false,
        })
    }

    fn tell(&self, happening: &Happening) {
        if let Some(observer) = &self.options.observer {
            observer(happening);
        }
    }

    /// Starts a job's worker, unless it has one.
    fn start_worker(&mut self, job: usize) -> Result<()> {
        if self.workers[job].is_some() {
            return Ok(());
        }
        let vmids = self.scenario.vmids();
        let id = match vmids[..] {
            [only] => only.to_string(),
            _ => String::new(),
        };
        let root = self.node.root().to_owned();
        self.daemon.send(&Order::Spawn(Job { number: job, id, root }))?;
        let mut wire = accept(&self.listener)?;
        let Some(News::Worker { pid, upid, .. }) = wire.receive(Duration::from_secs(10))? else {
            bail!("a worker does not report");
        };
        self.tell(&Happening::Worker(upid.clone()));
        self.workers[job] =
            Some(Worker { wire, pid, upid, dead: false, waits_for_lock: false, kill_at: None });
        Ok(())
    }

    fn worker(&mut self, job: usize) -> Result<&mut Worker> {
        self.workers[job].as_mut().context("a job without a worker")
    }

    fn is_dead(&self, job: usize) -> bool {
        self.workers[job].as_ref().is_some_and(|worker| worker.dead)
    }

    /// Runs all jobs, one after the other, as the node's lock requires.
    ///
    /// # Errors
    /// If the simulation fails.
    pub fn run_jobs(&mut self) -> Result<()> {
        (0..self.jobs.steps.len()).try_for_each(|job| self.run_job(job))
    }

    /// Runs the remaining steps of a job to its end.
    fn run_job(&mut self, job: usize) -> Result<()> {
        self.start_worker(job)?;
        while !self.is_dead(job) && !self.jobs.steps[job].is_empty() {
            self.step(job)?;
        }
        if !self.is_dead(job) {
            self.print_log(job, true)?;
            let code = self.scenario.exit_code.unwrap_or(0);
            let worker = self.worker(job)?;
            worker.wire.send(&Order::Exit(code))?;
            self.wait_for_end(job)?;
        }
        Ok(())
    }

    /// Waits until no process of Stillpoint works any more; returns how many milliseconds that
    /// took.
    ///
    /// # Errors
    /// If the node cannot be read.
    pub fn settle(&mut self, ended: Instant) -> Result<u64> {
        let deadline = ended + self.options.settle;
        let mut quiet_since = None;
        loop {
            self.hear_daemon()?;
            self.kill_at_failpoint(0, 0)?;
            let busy = self.node.backup_server().is_some_and(|server| server.is_busy());
            // The end of a process is reported a moment later.
            let at_work = busy || self.awaits_a_call() || !self.node.processes()?.is_empty();
            // A run without a working process will stay, unless a process is just being started.
            let since: &mut Option<Instant> = &mut quiet_since;
            let quiet = !at_work && since.get_or_insert_with(Instant::now).elapsed() > LULL;
            if at_work {
                quiet_since = None;
            }
            let at_work = at_work || !self.node.runs_left()?.is_empty() && !quiet;
            if !at_work || Instant::now() > deadline {
                return Ok(u64::try_from(ended.elapsed().as_millis()).unwrap_or(u64::MAX));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether a call that vzdump did not wait for has not been reaped yet.
    fn awaits_a_call(&self) -> bool {
        let awaited =
            |made: &Made| made.left && made.pid != 0 && !self.reaped.contains_key(&made.pid);
        self.made.iter().any(awaited)
    }

    /// The results of the jobs, including the ends of calls that vzdump did not wait for.
    pub fn finish(mut self) -> Done {
        let reaped = &self.reaped;
        let calls = self.made.drain(..).map(|made| {
            let mut report = made.report;
            if let Some(ended) = reaped.get(&made.pid).filter(|_| made.left) {
                report.exit = ended.exit;
                report.signal = ended.signal;
            }
            report
        });
        let calls = calls.collect();
        let instants = std::mem::take(&mut self.instants);
        let first = self.workers.first().and_then(Option::as_ref);
        Done { calls, instants, upid: first.map(|worker| worker.upid.clone()) }
    }
}

impl Drop for Director<'_> {
    fn drop(&mut self) {
        self.workers.clear();
        let ended = self.daemon.send(&Order::Exit(0)).and_then(|()| {
            self.child.wait().context("waiting for the workers' parent")?;
            std::fs::remove_file(&self.socket).context("removing the director's socket")
        });
        if let Err(error) = ended {
            eprintln!("{error:#}");
        }
    }
}

fn accept(listener: &UnixListener) -> Result<Wire> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut wanted = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    if poll(&mut wanted, PollTimeout::from(10_000u16)).context("waiting for a process")? == 0 {
        bail!("a process of the simulation did not come up");
    }
    let (stream, _) = listener.accept().context("hearing a process")?;
    Ok(Wire::new(stream))
}
