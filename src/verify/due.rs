use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};

use super::pending::Pending;
use crate::config::When;
use crate::journal::{Journal, Verify, VerifyOutcome};
use crate::sys::{Root, clock};

/// Why a new backup is not verified now, in words; `None` if it is due.
///
/// # Errors
/// If the journal cannot be read.
pub fn not_due(root: &Root, when: When, new: &Pending) -> Result<Option<String>> {
    match when {
        When::Always => Ok(None),
        When::Never => Ok(Some("by verify.when it is never asked for".to_string())),
        When::After(least) => {
            let now = clock::now();
            let last = last_proof(root, new, now, least)?;
            Ok(last.map(|last| {
                let age = (now - last).to_std().unwrap_or_default();
                format!(
                    "not due, verified {} ago and by verify.when due {} after that",
                    words(age),
                    words(least)
                )
            }))
        }
    }
}

/// When the guest's last `ok` verify in this datastore and namespace was journalled, if that is
/// less than `least` ago. Only that part of the journal is read.
fn last_proof(
    root: &Root,
    new: &Pending,
    now: DateTime<Utc>,
    least: Duration,
) -> Result<Option<DateTime<Utc>>> {
    let horizon = TimeDelta::from_std(least).ok().and_then(|least| now.checked_sub_signed(least));
    let mut last = None;
    Journal::of(root).read_newest_first(|record| {
        let Some(time) = record.time() else { return true };
        if horizon.is_some_and(|horizon| time <= horizon) {
            return false;
        }
        // A record from a wrong clock in the future would otherwise make nothing due until then.
        if time <= now && record.verify().is_some_and(|verify| proves(&verify, new)) {
            last = Some(time);
        }
        last.is_none()
    })?;
    Ok(last)
}

fn proves(verify: &Verify, new: &Pending) -> bool {
    let datastore = verify.storage_id.split('#').next().unwrap_or_default();
    verify.outcome == VerifyOutcome::Ok
        && verify.vmid == new.vmid
        && verify.namespace == new.snapshot.namespace
        && datastore.eq_ignore_ascii_case(&new.datastore)
}

/// `2 days`, `1 hour`, `40 seconds`: the largest unit that fits, rounded down.
pub fn words(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let (length, unit) =
        units.into_iter().find(|(length, _)| seconds >= *length).unwrap_or((1, "second"));
    let number = seconds / length;
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_largest_unit() {
        let told = |seconds| words(Duration::from_secs(seconds));
        assert_eq!(told(0), "0 seconds");
        assert_eq!(told(86_400 + 3600 * 23), "1 day");
        assert_eq!(told(7200), "2 hours");
        assert_eq!(told(119), "1 minute");
    }
}
