//! Signals: those of the recording, and those of a fault test.

use super::Director;
use crate::engine::What;
use crate::process::kill;
use crate::vzdump::log::Sent;
use crate::vzdump::replay::{Happening, Kill, Moment, Victim};
use crate::vzdump::trace::Call;
use crate::vzdump::wire::News;
use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

impl Director<'_> {
    pub(super) fn take_kill(&mut self, call: &Call) -> Option<Kill> {
        let meant = |kill: &Kill| {
            !matches!(kill.moment, Moment::Failpoint)
                && kill.phase == call.phase()
                && (kill.vmid.is_none() || kill.vmid == call.vmid())
        };
        let at = self.kills.iter().position(meant)?;
        Some(self.kills.remove(at))
    }

    /// Requests that changed something, in all engines.
    pub(super) fn actions(&self) -> usize {
        let asks = |what: What| {
            matches!(
                what,
                What::StopAsked | What::StartAsked | What::Paused | What::Unpaused | What::Ran
            )
        };
        let engines = self.node.guests().filter_map(|guest| guest.engine.as_ref());
        engines.map(|engine| engine.events().iter().filter(|e| asks(e.what)).count()).sum()
    }

    pub(super) fn send(&mut self, job: usize, sent: Sent) -> Result<()> {
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

    pub(super) fn kill(&mut self, job: usize, hook: i32, victim: Victim) -> Result<()> {
        self.tell(&Happening::Kills(victim));
        let worker = self.worker(job)?.pid;
        let kill_hook = || if hook > 0 { kill(hook, Signal::SIGKILL) } else { Ok(()) };
        match victim {
            Victim::Hook => kill_hook(),
            Victim::HookAndGuard => {
                self.kill_guards(worker)?;
                kill_hook()
            }
            Victim::StopButton => self.send(job, Sent::Stop),
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

    /// When a process halts at its failpoint, kills the victims, and lets that process continue if
    /// it still lives.
    pub(super) fn kill_at_failpoint(&mut self, job: usize, hook: i32) -> Result<()> {
        let at = self.kills.iter().position(|kill| matches!(kill.moment, Moment::Failpoint));
        let Some(at) = at.filter(|_| self.node.path("failpoint-hit").exists()) else {
            return Ok(());
        };
        let victim = self.kills.remove(at).victim;
        self.kill(job, hook, victim)?;
        self.stopped |= victim == Victim::StopButton;
        self.node.write("failpoint-release", "")
    }

    pub(super) fn kill_guards(&self, session: i32) -> Result<()> {
        for process in self.node.processes()? {
            let its = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(process.pid)));
            // A process that has just ended has no session and needs no kill.
            if its.is_ok_and(|its| its.as_raw() != session) {
                kill(process.pid, Signal::SIGKILL)?;
            }
        }
        Ok(())
    }

    /// Waits until a job's worker has ended and was reaped; an unfinished archive is lost.
    pub(super) fn wait_for_end(&mut self, job: usize) -> Result<()> {
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

    pub(super) fn hear_daemon(&mut self) -> Result<()> {
        while let Some(news) = self.daemon.receive(Duration::from_millis(2))? {
            if let News::Reaped(pid, ended) = news {
                self.reaped.insert(pid, ended);
            }
        }
        Ok(())
    }
}
