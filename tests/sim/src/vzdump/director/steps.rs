//! What vzdump does between the calls.

use super::Director;
use crate::node::config;
use crate::vzdump::log::Sent;
use crate::vzdump::plan::Step;
use crate::vzdump::replay::Happening;
use crate::vzdump::result;
use crate::vzdump::wire::{News, Order};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

impl Director<'_> {
    pub(super) fn step(&mut self, job: usize) -> Result<()> {
        let step = self.jobs.steps[job].remove(0);
        let guest = |vmid: u32| self.node.guest(vmid);
        match &step {
            Step::Call { call, sent } => {
                self.wait_for_lock(job)?;
                self.print_log(job, false)?;
                return self.call(job, *call, *sent);
            }
            Step::Pause(time) => {
                if let Some(kill) = self.working.take() {
                    self.kill(job, 0, kill.victim)?;
                }
                self.pause(job, *time)?;
            }
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
                let text = config::without_snapshot(&guest.config()?);
                guest.set_config(&config::with_lock(&text, None))?;
            }
            Step::Freeze(vmid) => guest(*vmid)?.set_marker("frozen", true)?,
            Step::Thaw(vmid) => guest(*vmid)?.set_marker("frozen", false)?,
            Step::Instant(vmid) => {
                let guest = guest(*vmid)?;
                let mode = self.jobs.mode_of(*vmid);
                self.instants.push(result::instant(guest)?);
                if mode.as_deref() == Some("snapshot") {
                    guest.set_config(&config::with_snapshot(&guest.config()?))?;
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
            Step::Start(vmid) => {
                guest(*vmid)?.set_marker("running", true)?;
                self.node.started(*vmid)?;
            }
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

    /// Lets time pass, until the Stop button's SIGKILL if that comes first.
    pub(super) fn pause(&mut self, job: usize, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.is_dead(job) {
            self.kill_when_due(job)?;
            self.kill_at_failpoint(job, 0)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    pub(super) fn kill_when_due(&mut self, job: usize) -> Result<()> {
        let due = self.worker(job)?.kill_at.is_some_and(|at| Instant::now() >= at);
        if due { self.send(job, Sent::KillGroup) } else { Ok(()) }
    }

    pub(super) fn wait_for_lock(&mut self, job: usize) -> Result<()> {
        let worker = self.worker(job)?;
        if worker.waits_for_lock {
            match worker.wire.receive(Duration::from_secs(10))? {
                Some(News::Done) => worker.waits_for_lock = false,
                _ => bail!("the node's lock is never free"),
            }
        }
        Ok(())
    }
}
