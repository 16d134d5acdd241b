//! Mails about a guest, limited so that a guest cannot cause any number of them: three in an hour,
//! and then one that says how many more there were.
//!
//! The next process of Stillpoint that mails something, or ends, after that hour sends that last
//! one: at the latest the node's next job.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::log;
use crate::sys::text::{count, printable};
use crate::sys::{Root, clock, file, lock};
use crate::vzdump::Vmid;

const STATE: &str = "/var/lib/stillpoint/mails.json";

/// An admin who has read three mails about a guest knows that something is wrong.
const MOST: u32 = 3;

const HOUR: TimeDelta = TimeDelta::hours(1);

/// A guest takes about 200 bytes in it.
const LIMIT: u64 = 4 << 20;

/// The lock is held only while one small file is written.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// Guests whose hour is not over, or whose held-back mails are not reported yet.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Mails {
    guests: BTreeMap<u32, Hour>,
}

/// The mails about one guest in the hour since the first of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Hour {
    since: DateTime<Utc>,
    sent: u32,
    held_back: u32,
    /// The subject of the last mail that was held back.
    #[serde(default)]
    last: String,
}

impl Mails {
    /// Whether to send a mail about a guest now; otherwise it is counted.
    fn admit(&mut self, vmid: Vmid, subject: &str, now: DateTime<Utc>) -> bool {
        let new = Hour { since: now, sent: 0, held_back: 0, last: String::new() };
        let hour = self.guests.entry(vmid.0).or_insert(new);
        if hour.sent < MOST {
            hour.sent += 1;
            return true;
        }
        hour.held_back = hour.held_back.saturating_add(1);
        hour.last = printable(subject, 200);
        false
    }

    /// Removes the hours that are over, and returns those with held-back mails. A clock that was
    /// set back also ends an hour.
    fn over(&mut self, now: DateTime<Utc>) -> Vec<(u32, Hour)> {
        let is_over = |hour: &Hour| now < hour.since || now - hour.since >= HOUR;
        let all = std::mem::take(&mut self.guests);
        let (over, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, hour)| is_over(hour));
        self.guests = left.into_iter().collect();
        over.into_iter().filter(|(_, hour)| hour.held_back > 0).collect()
    }
}

/// Mails root about a guest, unless there were three such mails within the hour: then only the
/// system's log has it.
pub fn about(root: &Root, vmid: Vmid, subject: &str, body: &str) -> Result<()> {
    #[cfg(test)]
    if crate::sys::walk::current().is_some() {
        return Ok(());
    }
    let told = tell_of_held_back(root);
    let now = clock::now();
    // If it cannot be counted, it is sent: an admin has to know.
    let admitted = change(root, |mails| mails.admit(vmid, subject, now)).unwrap_or(true);
    if admitted {
        log::mail(root, subject, body)?;
    } else {
        log::warning(
            vmid,
            &format!("not mailed, because there were {MOST} mails in an hour: {subject}"),
        );
    }
    told
}

/// Sends the mails that say how many were held back, for guests whose hour is over.
pub fn tell_of_held_back(root: &Root) -> Result<()> {
    if !root.path(STATE).exists() {
        return Ok(());
    }
    let now = clock::now();
    for (vmid, hour) in change(root, |mails| mails.over(now))? {
        let more = count(hour.held_back as usize, "more mail");
        let since = clock::rfc3339(hour.since);
        let body = format!(
            "Stillpoint held back {more} about guest {vmid} in the hour from {since}: at most \
             {MOST} are sent in an hour.\nThe last of them was: {}\n\nAll of them: journalctl -t \
             stillpoint --since '{}'\nHow the guests stand: stillpoint status",
            hour.last,
            hour.since.format("%Y-%m-%d %H:%M:%S UTC")
        );
        log::mail(root, &format!("Stillpoint: {more} about guest {vmid}"), &body)?;
    }
    Ok(())
}

/// The count is on disk before anything is sent: a process that dies in between sends one mail too
/// few, never one more each time.
fn change<T>(root: &Root, change: impl FnOnce(&mut Mails) -> T) -> Result<T> {
    let _lock = lock::take(&root.path("/run/stillpoint/mails.lock"), Instant::now() + LOCK_LIMIT)?;
    let path = root.path(STATE);
    let text = file::read_text(&path, LIMIT).context(STATE)?.unwrap_or_default();
    // A damaged file, or one from another version, counts as empty.
    let before: Mails = serde_json::from_str(&text).unwrap_or_default();
    let mut mails = Mails { guests: before.guests.clone() };
    let changed = change(&mut mails);
    if mails != before {
        if let Some(directory) = path.parent() {
            file::own_directory(directory).context(STATE)?;
        }
        file::replace(&path, &serde_json::to_vec(&mails)?, 0o600).context(STATE)?;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    #[test]
    fn a_guest_has_three_mails_in_an_hour_and_another_has_its_own() {
        let mut mails = Mails::default();
        let mut admit =
            |vmid: u32, minute| mails.admit(Vmid(vmid), &format!("at {minute}"), at(minute));
        assert_eq!(
            [0, 1, 2, 3, 59].map(|minute| admit(9001, minute)),
            [true, true, true, false, false]
        );
        assert!(admit(9002, 30));
        assert_eq!(mails.over(at(59)), []);
        let over = mails.over(at(60));
        let told: Vec<_> =
            over.iter().map(|(vmid, hour)| (*vmid, hour.held_back, hour.last.as_str())).collect();
        assert_eq!(told, [(9001, 2, "at 59")]);
        assert_eq!(mails.over(at(200)), [], "nothing of guest 9002 was held back");
        assert!(mails.guests.is_empty());
        mails.admit(Vmid(9001), "", at(300));
        assert!(mails.over(at(1)).is_empty() && mails.guests.is_empty(), "the clock was set back");
    }

    #[test]
    fn what_was_held_back_is_told_by_the_next_process_once_the_hour_is_over() {
        let name = format!("stillpoint-mails-{}", crate::sys::text::token());
        let directory = std::env::temp_dir().join(name);
        let root = Root::at(&directory);
        let (sendmail, box_) = (root.path("/usr/sbin/sendmail"), root.path("/mail"));
        fs::create_dir_all(sendmail.parent().unwrap()).unwrap();
        fs::write(&sendmail, format!("#!/bin/sh\ncat >>'{}'\n", box_.display())).unwrap();
        fs::set_permissions(&sendmail, fs::Permissions::from_mode(0o755)).unwrap();
        for number in 1..=5 {
            about(&root, Vmid(9001), &format!("subject {number}"), "body").unwrap();
        }
        about(&root, Vmid(9002), "subject of another", "two\nlines, \u{1b}[2J").unwrap();
        let subjects = || -> Vec<String> {
            let mail = fs::read_to_string(&box_).unwrap();
            mail.lines()
                .filter_map(|line| Some(line.strip_prefix("Subject: ")?.to_string()))
                .collect()
        };
        let first = ["subject 1", "subject 2", "subject 3", "subject of another"];
        assert_eq!(subjects(), first);
        assert!(fs::read_to_string(&box_).unwrap().ends_with("\n\ntwo\nlines, \\u{1b}[2J\n"));
        tell_of_held_back(&root).unwrap();
        assert_eq!(subjects(), first, "the hour is not over");
        change(&root, |mails| {
            for hour in mails.guests.values_mut() {
                hour.since -= HOUR;
            }
        })
        .unwrap();
        for _ in 0..2 {
            tell_of_held_back(&root).unwrap();
            assert_eq!(subjects()[4..], ["Stillpoint: 2 more mails about guest 9001"]);
        }
        assert!(fs::read_to_string(&box_).unwrap().contains("The last of them was: subject 5"));
        fs::write(root.path(STATE), "{").unwrap();
        about(&root, Vmid(9001), "after damage", "body").unwrap();
        assert_eq!(subjects().len(), 6);
        fs::remove_dir_all(directory).unwrap();
    }
}
