//! Makes a call of the hook, and sends a signal in the middle of it.

use super::{Director, Made};
use crate::vzdump::failure::after_failure;
use crate::vzdump::log::Sent;
use crate::vzdump::replay::{Happening, Moment, Victim};
use crate::vzdump::report::CallReport;
use crate::vzdump::trace::Call;
use crate::vzdump::wire::{News, Order};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

impl Director<'_> {
    /// Calls the hook, and sends in the middle of the call what the plan says.
    pub(super) fn call(&mut self, job: usize, at: usize, mut sent: Option<Sent>) -> Result<()> {
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
        if worker.wire.send(&Order::Call { hook, argv: call.argv.clone(), env }).is_err() {
            worker.dead = true;
        }
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
        // A hook that stops nothing runs only for a moment.
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
                Moment::End | Moment::Working | Moment::Failpoint => false,
            });
            if let Some(kill) = extra.take_if(|_| due) {
                self.kill(job, made.pid, kill.victim)?;
                self.stopped |= kill.victim == Victim::StopButton;
            }
            self.kill_at_failpoint(job, made.pid)?;
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
        self.working = extra.take_if(|kill| matches!(kill.moment, Moment::Working));
        if let Some(kill) = extra.filter(|_| !self.is_dead(job)) {
            self.kill(job, pid, kill.victim)?;
            self.stopped |= kill.victim == Victim::StopButton;
        }
        let stopped = std::mem::take(&mut self.stopped);
        let failed = stopped || failed && !self.failed_in_recording(&call);
        if failed && !self.is_dead(job) {
            let rest = std::mem::take(&mut self.jobs.steps[job]);
            self.jobs.steps[job] = after_failure(&mut self.jobs.calls, at, &rest);
        }
        Ok(())
    }

    pub(super) fn failed_in_recording(&self, call: &Call) -> bool {
        let text = format!("{}' failed: exit code", call.argv.join(" "));
        self.scenario.task_log.iter().any(|line| line.contains(&text))
    }
}
