//! A record as it is in the journal.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::{Backup, Identity, LeftOut, Record, Recovered, Removed, Renewed, Settled, Verify};

/// A record of whatever kind and schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Every field of it.
    pub json: Value,
}

impl Written {
    /// `None` for what says no kind: it is no record.
    pub(super) fn of(json: Value) -> Option<Written> {
        json["kind"].is_string().then_some(Written { json })
    }

    /// `None` for a line that is no record.
    pub(super) fn of_line(line: &[u8]) -> Option<Written> {
        Written::of(serde_json::from_slice(line).ok()?)
    }

    /// The record, typed; `None` if this version does not know its kind or format.
    pub fn record(&self) -> Option<Record> {
        let json = &self.json;
        match json["kind"].as_str()? {
            "backup" => Backup::deserialize(json).map(Record::Backup),
            "verify" => Verify::deserialize(json).map(Record::Verify),
            "recovered" => Recovered::deserialize(json).map(Record::Recovered),
            "settled" => Settled::deserialize(json).map(Record::Settled),
            "identity" => Identity::deserialize(json).map(Record::Identity),
            "renewed" => Renewed::deserialize(json).map(Record::Renewed),
            "left-out" => LeftOut::deserialize(json).map(Record::LeftOut),
            "removed" => Removed::deserialize(json).map(Record::Removed),
            _ => return None,
        }
        .ok()
    }

    /// The record, if it is a verify's.
    pub fn verify(&self) -> Option<Verify> {
        if self.json["kind"] != "verify" {
            return None;
        }
        Verify::deserialize(&self.json).ok()
    }

    /// Whether its kind tells nothing of a guest's last backup.
    pub fn is_of_no_backup(&self) -> bool {
        matches!(self.json["kind"].as_str(), Some("identity" | "renewed" | "left-out" | "removed"))
    }

    /// When it was written.
    pub fn time(&self) -> Option<DateTime<Utc>> {
        self.json["time"].as_str()?.parse().ok()
    }

    /// Whether it belongs to that job.
    pub fn is_of_job(&self, job: &str) -> bool {
        self.json["job"] == job
    }

    /// Whether it is the record of the backup that this run made.
    pub fn is_backup_of(&self, run: &str) -> bool {
        self.json["kind"] == "backup" && self.json["run"] == run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::to_value;

    #[test]
    fn a_record_of_every_kind_comes_back_as_it_was_written() {
        for record in crate::journal::examples() {
            let written = Written::of(to_value(&record).unwrap()).unwrap();
            let read = written.record().unwrap_or_else(|| panic!("{record:?}"));
            assert_eq!(to_value(read).unwrap(), written.json);
        }
        let of_later = Written::of(serde_json::json!({ "kind": "drill", "vmid": 9001 })).unwrap();
        assert!(of_later.record().is_none());
        assert!(Written::of(serde_json::json!({ "vmid": 9001 })).is_none());
    }
}
