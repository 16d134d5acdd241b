//! vzdump's worker process: calls the hook exactly as the real one does.
//!
//! It starts itself once more under its final name: its command line is the task id and nothing
//! else, and the task id contains its own pid and start time. It leads its own session, has `/` as
//! its working directory, and leaks descriptors 6, 7 and 11 into the hook (FACTS-PVE.md, Process
//! and pipes).

#![allow(unsafe_code, reason = "processes of their own, as vzdump has them")]

use super::daemon::{JOB, reap};
use super::wire::{Ended, Job, News, Order, Wire};
use crate::process;
use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static TERMINATED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: nix::libc::c_int) {
    TERMINATED.store(true, Ordering::SeqCst);
}

/// The descriptors that PVE's worker leaks into its children.
const LEAKED: [i32; 3] = [6, 7, 11];

/// Runs as a worker until it is ordered to exit.
///
/// # Errors
/// If it cannot do its work.
pub fn run() -> Result<i32> {
    let job = std::env::var(JOB).with_context(|| format!("{JOB} is not set"))?;
    let job: Job = serde_json::from_str(&job).context("reading the job")?;
    let name = std::env::args().next().unwrap_or_default();
    let Some(upid) = name.strip_prefix("task ") else {
        return Err(become_task(&job));
    };
    leak()?;
    let handler = SigAction::new(SigHandler::Handler(on_signal), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(signal, &handler) }.context("handling signals")?;
    }
    let log = log_path(&job.root, upid)?;
    let log = OpenOptions::new().create(true).append(true).open(&log);
    let mut worker = Worker {
        log: log.context("opening the task log")?,
        lock: job.root.join("var/run/vzdump.lock"),
        held: None,
        wire: Wire::to_director()?,
        left: Vec::new(),
    };
    let pid = std::process::id() as i32;
    worker.wire.send(&News::Worker { job: job.number, pid, upid: upid.to_owned() })?;
    worker.work()
}

/// `var/log/pve/tasks/X/UPID`, X the last digit of the start time.
fn log_path(root: &Path, upid: &str) -> Result<PathBuf> {
    let start = upid.split(':').nth(4).context("the task id has no start time")?;
    let digit = start.get(start.len().saturating_sub(1)..).unwrap_or_default();
    let dir = root.join("var/log/pve/tasks").join(digit);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir.join(upid))
}

/// Leads a session and starts this program again under the task's name. Returns only on failure.
fn become_task(job: &Job) -> anyhow::Error {
    let prepare = || {
        nix::unistd::setsid().context("leading a session")?;
        let pid = std::process::id();
        let started = process::start_time(pid)?;
        let now = chrono::Utc::now().timestamp();
        let id = &job.id;
        Ok(format!("UPID:sim:{pid:08X}:{started:08X}:{now:08X}:vzdump:{id}:root@pam:"))
    };
    match prepare() {
        Ok(upid) => Command::new("/proc/self/exe").arg0(format!("task {upid}")).exec().into(),
        Err(error) => error,
    }
}

fn leak() -> Result<()> {
    let (reader, writer) = nix::unistd::pipe().context("making a pipe")?;
    for wanted in LEAKED {
        // SAFETY: plain numbers; nothing else of this process is open at them yet.
        let got = unsafe { nix::libc::dup2(writer.as_raw_fd(), wanted) };
        nix::errno::Errno::result(got).context("leaking a descriptor")?;
    }
    // The pipe stays open to the end of the process, as PVE's does.
    std::mem::forget((reader, writer));
    // The hook gets the leaked descriptors and no others, whatever this process has inherited.
    for entry in std::fs::read_dir("/proc/self/fd").context("listing descriptors")? {
        let name = entry.context("listing descriptors")?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if number > 2 && !LEAKED.contains(&number) {
            // SAFETY: sets a descriptor's flag; the descriptor of the directory listing may be
            // closed already, which is fine.
            unsafe { nix::libc::fcntl(number, nix::libc::F_SETFD, nix::libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

struct Worker {
    wire: Wire,
    log: File,
    lock: PathBuf,
    held: Option<Flock<File>>,
    /// Hooks that are still running after a signal.
    left: Vec<Child>,
}

impl Worker {
    fn work(&mut self) -> Result<i32> {
        loop {
            let order = match self.wire.receive(Duration::from_millis(10)) {
                Ok(order) => order,
                // The director has ended, so the worker ends too.
                Err(_) => return Ok(255),
            };
            TERMINATED.store(false, Ordering::SeqCst);
            while let Some((pid, ended)) = reap()? {
                self.left.retain(|child| child.id() as i32 != pid);
                self.wire.send(&News::Reaped(pid, ended))?;
            }
            match order {
                Some(Order::Call { hook, argv, env }) => {
                    let news = self.call(&hook, &argv, &env)?;
                    self.wire.send(&news)?;
                }
                Some(Order::Log(lines)) => {
                    for line in lines {
                        writeln!(self.log, "{line}").context("writing the task log")?;
                    }
                    self.wire.send(&News::Done)?;
                }
                Some(Order::TakeLock) => {
                    let file = File::create(&self.lock).context("opening the node's lock")?;
                    let lock = Flock::lock(file, FlockArg::LockExclusive);
                    self.held = Some(lock.map_err(|(_, error)| error).context("locking the node")?);
                    self.wire.send(&News::Done)?;
                }
                Some(Order::Exit(code)) => return Ok(code),
                Some(Order::Spawn(_)) => anyhow::bail!("an order for the daemon"),
                None => {}
            }
        }
    }

    /// Calls the hook and waits until it has ended and everybody has closed both of its pipes.
    fn call(
        &mut self,
        hook: &Path,
        argv: &[String],
        env: &BTreeMap<String, String>,
    ) -> Result<News> {
        let spawned = Command::new(hook)
            .args(argv)
            .env_clear()
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return Ok(News::NotStarted(error.to_string())),
        };
        self.wire.send(&News::Started(child.id() as i32))?;
        let mut output = child.stdout.take().map(Lines::new);
        let mut errors = child.stderr.take().map(Lines::new);
        while output.is_some() || errors.is_some() {
            if TERMINATED.load(Ordering::SeqCst) {
                self.left.push(child);
                return Ok(News::Interrupted);
            }
            wait_for(output.as_ref(), errors.as_ref())?;
            self.read_ready(&mut output)?;
            self.read_ready(&mut errors)?;
        }
        let status = child.wait().context("waiting for the hook")?;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        Ok(News::Returned(Ended { exit: status.code(), signal }))
    }

    fn read_ready<P: Read + AsFd>(&mut self, lines: &mut Option<Lines<P>>) -> Result<()> {
        let Some(open) = lines else { return Ok(()) };
        let mut wanted = [PollFd::new(open.pipe.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wanted, PollTimeout::ZERO).unwrap_or(0) == 0 {
            return Ok(());
        }
        let mut piece = [0; 4096];
        let count = open.pipe.read(&mut piece).context("reading the hook's output")?;
        open.text.extend_from_slice(&piece[..count]);
        let whole = if count == 0 {
            open.text.len()
        } else {
            let last = open.text.iter().rposition(|byte| BREAKS.contains(byte));
            last.map_or(0, |at| at + 1)
        };
        let text = open.text.drain(..whole).collect::<Vec<_>>();
        for line in text.split(|byte| BREAKS.contains(byte)) {
            if !line.is_empty() {
                let said = String::from_utf8_lossy(line).into_owned();
                let line = [b"INFO: ", line, b"\n"].concat();
                self.log.write_all(&line).context("writing the task log")?;
                self.wire.send(&News::Said(said))?;
            }
        }
        if count == 0 {
            *lines = None;
        }
        Ok(())
    }
}

/// Waits a moment for either pipe.
fn wait_for(output: Option<&Lines<impl AsFd>>, errors: Option<&Lines<impl AsFd>>) -> Result<()> {
    let output = output.map(|lines| PollFd::new(lines.pipe.as_fd(), PollFlags::POLLIN));
    let errors = errors.map(|lines| PollFd::new(lines.pipe.as_fd(), PollFlags::POLLIN));
    let mut wanted = output.into_iter().chain(errors).collect::<Vec<_>>();
    match poll(&mut wanted, PollTimeout::from(5u8)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("waiting for the hook's output"),
    }
}

/// vzdump treats each of the three as the end of a line.
const BREAKS: [u8; 3] = *b"\n\r\x08";

struct Lines<P> {
    pipe: P,
    text: Vec<u8>,
}

impl<P> Lines<P> {
    fn new(pipe: P) -> Self {
        Self { pipe, text: Vec::new() }
    }
}
