//! The task log: vzdump's own lines from the recording, each printed at the matching point.

use super::Director;
use crate::vzdump::log;
use crate::vzdump::placing::runs;
use crate::vzdump::trace::Call;
use crate::vzdump::wire::{News, Order};
use anyhow::{Result, bail};
use std::time::Duration;

impl Director<'_> {
    /// Adds the lines to the task log that vzdump has printed up to this point.
    pub(super) fn print_log(&mut self, job: usize, all: bool) -> Result<()> {
        let mut lines = Vec::new();
        let recorded = &self.scenario.task_log;
        let started = self.returned.iter().any(|(_, phase)| phase == "job-init");
        if job > 0 {
            // Only the first job's log was recorded.
            let own = self.made.iter().filter(|made| made.report.job == job).count();
            lines.extend((own == 1 && !all).then(|| self.first_line()));
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
        // Another process may kill it at any time, even right after its hook.
        if worker.wire.send(&Order::Log(lines)).is_err() {
            worker.dead = true;
            return Ok(());
        }
        loop {
            let worker = self.worker(job)?;
            let Ok(news) = worker.wire.receive(Duration::from_secs(10)) else {
                worker.dead = true;
                return Ok(());
            };
            match news {
                Some(News::Done) => return Ok(()),
                Some(News::Reaped(pid, ended)) => {
                    self.reaped.insert(pid, ended);
                }
                other => bail!("a worker that should print says {other:?}"),
            }
        }
    }

    /// The first line of every task log, made from the command.
    pub(super) fn first_line(&self) -> String {
        let command = &self.scenario.command;
        let command = command.rsplit("] ").next().unwrap_or(command);
        match command.strip_prefix(log::FIRST) {
            Some(_) => command.to_owned(),
            None => format!("{} {command}", log::FIRST),
        }
    }

    pub(super) fn may_print(&self, line: &str) -> bool {
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
        let runs = vmid.is_none_or(|vmid| runs(self.scenario, vmid));
        match log::printed_after(line, mode.as_deref() == Some("stop"), runs) {
            Some(phase) if phase.starts_with("job-") => self.has_returned(None, phase),
            Some(phase) => self.has_returned(vmid, phase),
            None => true,
        }
    }

    pub(super) fn has_returned(&self, vmid: Option<u32>, phase: &str) -> bool {
        let mut returned = self.returned.iter();
        returned.any(|(of, name)| *of == vmid && name == phase)
    }
}
