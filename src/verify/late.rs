//! Outcomes after the end of the task log: each goes to the system's log, and root gets a mail.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::pending::Pending;
use super::queue::Queue;
use crate::report::log;
use crate::sys::Root;
use crate::sys::text::{count, printable};

/// How long a bad outcome waits for others of its collection, so that one mail has them all.
const GATHER: Duration = Duration::from_secs(3600);

/// How many outcomes a mail names; the journal has all.
const MOST_NAMED: usize = 100;

/// Reports the bad outcomes of a collection.
pub struct Late<'a> {
    root: &'a Root,
    first: Option<Instant>,
}

impl<'a> Late<'a> {
    /// Nothing is reported yet.
    pub fn of(root: &'a Root) -> Late<'a> {
        Late { root, first: None }
    }

    /// Reports outcomes once nothing else is pending, or the first has waited for an hour. What a
    /// killed collector has not reported is reported by the next one.
    ///
    /// # Errors
    /// If the queue cannot be read or written.
    pub fn tell(&mut self, queue: &mut Queue) -> Result<()> {
        queue.refresh()?;
        let over = |pending: &&&Pending| pending.ended.is_some();
        let all = queue.all();
        let ended: Vec<Pending> =
            all.iter().filter(over).map(|pending| (*pending).clone()).collect();
        if ended.is_empty() {
            return Ok(());
        }
        let waited = self.first.get_or_insert_with(Instant::now).elapsed();
        if ended.len() < all.len() && waited < GATHER {
            return Ok(());
        }
        self.first = None;
        for pending in &ended {
            log::warning(pending.vmid, &line(pending));
        }
        let what = count(ended.len(), "backup");
        let subject = format!("Stillpoint: {what} did not verify");
        if let (Err(error), Some(first)) =
            (log::mail(self.root, &subject, &letter(&ended)), ended.first())
        {
            log::warning(first.vmid, &format!("no mail about {what} could be sent: {error:#}"));
        }
        for pending in &ended {
            queue.change(pending, |_| Ok(None))?;
        }
        Ok(())
    }
}

fn letter(ended: &[Pending]) -> String {
    let mut lines =
        vec!["These backups were made, and are not known to be good:".to_string(), String::new()];
    lines.extend(ended.iter().take(MOST_NAMED).map(|pending| {
        format!("{}, backup {}:\n    {}", pending.guest, pending.snapshot, line(pending))
    }));
    let more = ended.len().saturating_sub(MOST_NAMED);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.extend([String::new(), "All of it: stillpoint journal".to_string()]);
    lines.join("\n")
}

fn line(pending: &Pending) -> String {
    let Some(ended) = &pending.ended else { return String::new() };
    let reason = ended.reason.as_deref().unwrap_or("no reason is known");
    format!("{} on {}: {}", ended.outcome, pending.storage, printable(reason, 1000))
}
