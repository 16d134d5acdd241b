//! The director of a replay: walks the plan, orders the workers about, acts on the guests, sends the
//! signals, and looks at the end whether everything is back.

use super::failure::after_failure;
use super::log::{self, Sent};
use super::plan::{Jobs, Step, plan};
use super::report::{CallReport, Report};
use super::result::{self, Instants};
use super::trace::{Call, Scenario};
use super::wire::{Ended, Job, News, Order, SOCKET, Wire};
use crate::engine::What;
use crate::node::Node;
use crate::process::{ROLE, kill};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
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
    /// All of them at once.
    Everything,
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
    /// Told what happens, while it happens.
    pub observer: Option<std::sync::Arc<dyn Fn(&Happening) + Send + Sync>>,
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
}

/// Replays a scenario on a node made for it.
///
/// # Errors
/// When the simulation itself fails. What the hook does wrong is in the report.
pub fn replay(node: &Node, scenario: &Scenario, options: &Options) -> Result<Report> {
    let before = result::running(node);
    let mut director = Director::new(node, scenario, options)?;
    for job in 0..director.jobs.steps.len() {
        director.run_job(job)?;
    }
    let ended = Instant::now();
    let settled_ms = director.settle(ended)?;
    let log = director.workers.first().and_then(|worker| worker.as_ref()).map(|w| w.upid.clone());
    let calls = director.finished_calls();
    let instants = std::mem::take(&mut director.instants);
    drop(director);
    let mut report = result::report(node, scenario, &before, calls, instants, log.as_deref())?;
    report.settled_ms = settled_ms;
    node.kill_processes()?;
    Ok(report)
}

struct Worker {
    wire: Wire,
    pid: i32,
    upid: String,
    dead: bool,
    /// A lock was ordered and is not yet there.
    waits_for_lock: bool,
    kill_at: Option<Instant>,
}

struct Made {
    report: CallReport,
    pid: i32,
    /// vzdump went on without learning how it ended.
    left: bool,
}

struct Director<'a> {
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
    /// How many lines of the recorded log have been printed, and what has returned so far.
    printed: usize,
    returned: Vec<(Option<u32>, String)>,
    instants: Instants,
}

impl<'a> Director<'a> {
    fn new(node: &'a Node, scenario: &'a Scenario, options: &'a Options) -> Result<Self> {
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

    /// Runs what is left of a job's steps, to its end.
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

    fn step(&mut self, job: usize) -> Result<()> {
        let step = self.jobs.steps[job].remove(0);
        let guest = |vmid: u32| self.node.guest(vmid);
        match &step {
            Step::Call { call, sent } => {
                self.wait_for_lock(job)?;
                self.print_log(job, false)?;
                return self.call(job, *call, *sent);
            }
            Step::Pause(time) => self.pause(job, *time)?,
            Step::TakeNodeLock => {
                let worker = self.worker(job)?;
                if !worker.waits_for_lock {
                    worker.wire.send(&Order::TakeLock)?;
                    worker.waits_for_lock = true;
                }
            }
            Step::BeginJob(other) => {
                self.start_worker(*other)?;
                let is_call = |step: &Step| matches!(step, Step::Call { .. });
                while self.jobs.steps[*other].first().is_some_and(is_call) {
                    self.step(*other)?;
                }
                if self.jobs.steps[*other].first() == Some(&Step::TakeNodeLock) {
                    self.step(*other)?;
                }
            }
            Step::Lock(vmid, lock) => guest(*vmid)?.set_lock(Some(lock))?,
            Step::Unlock(vmid) => {
                let guest = guest(*vmid)?;
                let text = crate::node::config::without_snapshot(&guest.config()?);
                guest.set_config(&crate::node::config::with_lock(&text, None))?;
            }
            Step::Freeze(vmid) => guest(*vmid)?.set_marker("frozen", true)?,
            Step::Thaw(vmid) => guest(*vmid)?.set_marker("frozen", false)?,
            Step::Instant(vmid) => {
                let guest = guest(*vmid)?;
                let mode = self.jobs.mode_of(*vmid);
                self.instants.push(result::instant(guest)?);
                if mode.as_deref() == Some("snapshot") {
                    guest.set_config(&crate::node::config::with_snapshot(&guest.config()?))?;
                }
            }
            Step::ShutDown(vmid) => {
                let guest = std::sync::Arc::clone(guest(*vmid)?);
                let interrupted = matches!(self.jobs.steps[job].first(), Some(Step::Send(_)));
                let going = std::thread::spawn(move || guest.shut_down());
                if interrupted {
                    self.pause(job, Duration::from_millis(50))?;
                } else if going.join().is_err() {
                    bail!("shutting the guest down panicked");
                }
            }
            Step::Start(vmid) => guest(*vmid)?.set_marker("running", true)?,
            Step::ArchiveBegins(call) | Step::ArchiveEnds(call) | Step::ArchiveFails(call) => {
                let call = &self.jobs.calls[*call];
                if let (Some(server), Some(target)) = (self.node.backup_server(), call.pbs_target())
                {
                    match step {
                        Step::ArchiveBegins(_) => server.begin(target)?,
                        Step::ArchiveEnds(_) => server.finish(target)?,
                        _ => server.give_up(target)?,
                    }
                }
            }
            Step::LogFile(call) => {
                if let Some(path) = self.jobs.calls[*call].env.get("LOGFILE") {
                    self.node.write(path.trim_start_matches('/'), "INFO: vzdump's own log\n")?;
                }
            }
            Step::Send(sent) => self.send(job, *sent)?,
            Step::Hang => {
                self.pause(job, self.options.hang)?;
                if !self.is_dead(job) {
                    self.send(job, Sent::KillGroup)?;
                }
            }
        }
        self.tell(&Happening::Did(step));
        Ok(())
    }

    /// Lets time pass, and the Stop button's SIGKILL come.
    fn pause(&mut self, job: usize, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.is_dead(job) {
            self.kill_when_due(job)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn kill_when_due(&mut self, job: usize) -> Result<()> {
        let due = self.worker(job)?.kill_at.is_some_and(|at| Instant::now() >= at);
        if due { self.send(job, Sent::KillGroup) } else { Ok(()) }
    }

    fn wait_for_lock(&mut self, job: usize) -> Result<()> {
        let worker = self.worker(job)?;
        if worker.waits_for_lock {
            match worker.wire.receive(Duration::from_secs(10))? {
                Some(News::Done) => worker.waits_for_lock = false,
                _ => bail!("the node's lock is never free"),
            }
        }
        Ok(())
    }

    /// Adds to the task log what vzdump has printed up to here.
    fn print_log(&mut self, job: usize, all: bool) -> Result<()> {
        let mut lines = Vec::new();
        let recorded = &self.scenario.task_log;
        let started = self.returned.iter().any(|(_, phase)| phase == "job-init");
        if job > 0 {
            // Only the first job's log was recorded.
            let own = self.made.iter().filter(|made| made.report.job == job).count();
            lines.extend((own == 1).then(|| self.first_line()));
        } else if started
            && self.returned.len() == 1
            && !recorded.iter().any(|l| l.starts_with(log::FIRST))
        {
            lines.push(self.first_line());
        }
        while job == 0 && self.printed < recorded.len() {
            let line = &recorded[self.printed];
            if !all && !self.may_print(line) {
                break;
            }
            self.printed += 1;
            if !line.starts_with("<<<") {
                lines.push(line.clone());
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        let worker = self.worker(job)?;
        worker.wire.send(&Order::Log(lines))?;
        while let Some(news) = worker.wire.receive::<News>(Duration::from_secs(10))? {
            match news {
                News::Done => return Ok(()),
                News::Reaped(pid, ended) => {
                    self.reaped.insert(pid, ended);
                    return self.drain_until_done(job);
                }
                other => bail!("a worker says {other:?}"),
            }
        }
        bail!("a worker does not write its log")
    }

    fn drain_until_done(&mut self, job: usize) -> Result<()> {
        loop {
            match self.worker(job)?.wire.receive(Duration::from_secs(10))? {
                Some(News::Done) => return Ok(()),
                Some(News::Reaped(pid, ended)) => {
                    self.reaped.insert(pid, ended);
                }
                other => bail!("a worker says {other:?}"),
            }
        }
    }

    /// The line that every task log begins with, made from the command.
    fn first_line(&self) -> String {
        let command = &self.scenario.command;
        let command = command.rsplit("] ").next().unwrap_or(command);
        match command.strip_prefix(log::FIRST) {
            Some(_) => command.to_owned(),
            None => format!("{} {command}", log::FIRST),
        }
    }

    fn may_print(&self, line: &str) -> bool {
        if self.returned.is_empty() {
            return false;
        }
        if line.starts_with("<<<") {
            return self.workers[0].as_ref().is_some_and(|worker| worker.kill_at.is_some());
        }
        if let Some(vmid) = log::guest_of(line) {
            let vmids = self.jobs.calls.iter().filter_map(Call::vmid);
            let before = vmids.take_while(|other| *other != vmid).last();
            return match before {
                Some(before) => self.has_returned(Some(before), "log-end"),
                None => self.has_returned(None, "job-start"),
            };
        }
        let part = &self.scenario.task_log[..self.printed];
        let vmid = part.iter().rev().find_map(|line| log::guest_of(line));
        let mode = vmid.and_then(|vmid| self.jobs.mode_of(vmid));
        let runs = vmid.is_none_or(|vmid| super::plan::runs(self.scenario, vmid));
        match log::printed_after(line, mode.as_deref() == Some("stop"), runs) {
            Some(phase) if phase.starts_with("job-") => self.has_returned(None, phase),
            Some(phase) => self.has_returned(vmid, phase),
            None => true,
        }
    }

    fn has_returned(&self, vmid: Option<u32>, phase: &str) -> bool {
        let mut returned = self.returned.iter();
        returned.any(|(of, name)| *of == vmid && name == phase)
    }

    /// Calls the hook, and sends in the middle of the call what is to be sent there.
    fn call(&mut self, job: usize, at: usize, mut sent: Option<Sent>) -> Result<()> {
        let call = self.jobs.calls[at].clone();
        self.tell(&Happening::Called(call.argv.clone()));
        let mut env = call.env.clone();
        env.insert("STILLPOINT_ROOT".to_owned(), self.node.root().to_string_lossy().into_owned());
        env.extend(self.options.env.clone());
        let hook = self.node.binaries().vzdump_hook.clone();
        let began = Instant::now();
        let baseline = self.actions();
        let mut extra = self.take_kill(&call);
        let worker = self.worker(job)?;
        worker.wire.send(&Order::Call { hook, argv: call.argv.clone(), env })?;
        let mut made = Made {
            report: CallReport {
                job,
                argv: call.argv.clone(),
                exit: None,
                signal: None,
                ms: 0,
                said: Vec::new(),
            },
            pid: 0,
            left: true,
        };
        // A hook that stops nothing is at work only for a moment.
        let expects =
            if call.phase() == "pre-stop" && call.mode() != Some("stop") && !call.is_qemu() {
                Duration::from_secs(3)
            } else {
                Duration::from_millis(20)
            };
        loop {
            let news = match self.worker(job)?.wire.receive(Duration::from_millis(1)) {
                Ok(news) => news,
                Err(_) => {
                    self.worker(job)?.dead = true;
                    break;
                }
            };
            match news {
                Some(News::Started(pid)) => made.pid = pid,
                Some(News::Said(line)) => made.report.said.push(line),
                Some(News::Returned(ended)) => {
                    made.report.exit = ended.exit;
                    made.report.signal = ended.signal;
                    made.left = false;
                    break;
                }
                Some(News::Interrupted) => break,
                Some(News::Reaped(pid, ended)) => {
                    self.reaped.insert(pid, ended);
                }
                Some(News::NotStarted(why)) => {
                    bail!(
                        "the hook {} cannot be started: {why}",
                        self.node.binaries().vzdump_hook.display()
                    )
                }
                Some(other) => bail!("a worker says {other:?}"),
                None => {}
            }
            if made.pid == 0 {
                continue;
            }
            let actions = self.actions() - baseline;
            let ready = actions > 0 || began.elapsed() > expects;
            if let Some(now) = sent.filter(|_| ready) {
                sent = None;
                self.send(job, now)?;
            }
            let due = extra.as_ref().is_some_and(|kill| match kill.moment {
                Moment::After(time) => began.elapsed() >= time,
                Moment::Actions(count) => actions >= count,
                Moment::End => false,
            });
            if let Some(kill) = extra.take_if(|_| due) {
                self.kill(job, made.pid, kill.victim)?;
            }
            self.kill_when_due(job)?;
            if began.elapsed() > self.options.patience {
                let holders = self.node.processes()?;
                let holders = holders.into_iter().map(|p| p.command).collect::<Vec<_>>();
                bail!(
                    "vzdump would wait for ever in {}: {}",
                    call.argv.join(" "),
                    holders.join(", ")
                );
            }
        }
        made.report.ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let failed = !made.left && made.report.exit != Some(0);
        let pid = made.pid;
        self.tell(&Happening::Ended(made.report.clone()));
        self.made.push(made);
        self.returned.push((call.vmid(), call.phase().to_owned()));
        if let Some(sent) = sent.filter(|_| !self.is_dead(job)) {
            self.send(job, sent)?;
        }
        if let Some(kill) = extra.filter(|_| !self.is_dead(job)) {
            self.kill(job, pid, kill.victim)?;
        }
        if failed && !self.is_dead(job) && !self.failed_in_recording(&call) {
            let rest = std::mem::take(&mut self.jobs.steps[job]);
            self.jobs.steps[job] = after_failure(&mut self.jobs.calls, at, &rest);
        }
        Ok(())
    }

    fn failed_in_recording(&self, call: &Call) -> bool {
        let text = format!("{}' failed: exit code", call.argv.join(" "));
        self.scenario.task_log.iter().any(|line| line.contains(&text))
    }

    fn take_kill(&mut self, call: &Call) -> Option<Kill> {
        let meant = |kill: &Kill| {
            kill.phase == call.phase() && (kill.vmid.is_none() || kill.vmid == call.vmid())
        };
        let at = self.kills.iter().position(meant)?;
        Some(self.kills.remove(at))
    }

    /// Requests that changed something, in all engines.
    fn actions(&self) -> usize {
        let asks = |what: What| {
            matches!(what, What::StopAsked | What::StartAsked | What::Paused | What::Unpaused)
        };
        let engines = self.node.guests().filter_map(|guest| guest.engine.as_ref());
        engines.map(|engine| engine.events().iter().filter(|e| asks(e.what)).count()).sum()
    }

    fn send(&mut self, job: usize, sent: Sent) -> Result<()> {
        let grace = self.options.grace;
        let worker = self.worker(job)?;
        match sent {
            Sent::Stop => {
                kill(-worker.pid, Signal::SIGTERM)?;
                worker.kill_at = Some(Instant::now() + grace);
                Ok(())
            }
            Sent::KillWorker => {
                kill(worker.pid, Signal::SIGKILL)?;
                self.wait_for_end(job)
            }
            Sent::KillGroup => {
                kill(-worker.pid, Signal::SIGKILL)?;
                self.wait_for_end(job)
            }
        }
    }

    fn kill(&mut self, job: usize, hook: i32, victim: Victim) -> Result<()> {
        let worker = self.worker(job)?.pid;
        match victim {
            Victim::Hook => kill(hook, Signal::SIGKILL),
            Victim::Worker => self.send(job, Sent::KillWorker),
            Victim::Group => self.send(job, Sent::KillGroup),
            Victim::Guard => self.kill_guards(worker),
            Victim::Everything => {
                self.kill_guards(worker)?;
                self.send(job, Sent::KillGroup)?;
                self.node.kill_processes()
            }
        }
    }

    fn kill_guards(&self, session: i32) -> Result<()> {
        for process in self.node.processes()? {
            let its = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(process.pid)));
            // One that has just ended has no session and needs no kill.
            if its.is_ok_and(|its| its.as_raw() != session) {
                kill(process.pid, Signal::SIGKILL)?;
            }
        }
        Ok(())
    }

    /// Waits until a job's worker has ended and was reaped; its archive, if it was not done, is lost.
    fn wait_for_end(&mut self, job: usize) -> Result<()> {
        let worker = self.worker(job)?;
        worker.dead = true;
        let pid = worker.pid;
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.reaped.contains_key(&pid) {
            self.hear_daemon()?;
            if Instant::now() > deadline {
                bail!("worker {pid} does not end");
            }
        }
        if let Some(server) = self.node.backup_server() {
            server.connection_lost();
        }
        Ok(())
    }

    fn hear_daemon(&mut self) -> Result<()> {
        while let Some(news) = self.daemon.receive(Duration::from_millis(2))? {
            if let News::Reaped(pid, ended) = news {
                self.reaped.insert(pid, ended);
            }
        }
        Ok(())
    }

    /// Waits until nothing of Stillpoint is at work any more: milliseconds that took.
    fn settle(&mut self, ended: Instant) -> Result<u64> {
        let deadline = ended + self.options.settle;
        loop {
            self.hear_daemon()?;
            let busy = self.node.backup_server().is_some_and(|server| server.is_busy());
            let at_work =
                busy || !self.node.runs_left()?.is_empty() || !self.node.processes()?.is_empty();
            if !at_work || Instant::now() > deadline {
                return Ok(u64::try_from(ended.elapsed().as_millis()).unwrap_or(u64::MAX));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The calls, with the ends of those that vzdump did not wait for.
    fn finished_calls(&mut self) -> Vec<CallReport> {
        let reaped = &self.reaped;
        let calls = self.made.drain(..).map(|made| {
            let mut report = made.report;
            if let Some(ended) = reaped.get(&made.pid).filter(|_| made.left) {
                report.exit = ended.exit;
                report.signal = ended.signal;
            }
            report
        });
        calls.collect()
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
