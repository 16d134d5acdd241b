use chrono::{DateTime, SecondsFormat};
use serde::{Serialize, Serializer};

use super::Place;
use crate::pbs::{BackupType, Entry, Snapshot, Verification, VerifyState};
use crate::pve::storage::Attached;
use crate::sys::text::printable;

/// A snapshot on a backup server, with the same field names as in the journal.
#[derive(Clone, Debug, Serialize)]
pub struct Item<'a> {
    /// The storage's name in Proxmox VE.
    pub storage: &'a str,
    /// `server:datastore#fingerprint`: the same for the same datastore, whatever the storage's
    /// name.
    pub storage_id: Option<&'a str>,
    /// `storage_id` again, under the name that other tools use.
    pub durable_id: Option<&'a str>,
    /// The storage's type in Proxmox VE: `pbs`.
    #[serde(rename = "type")]
    pub storage_type: &'static str,
    /// Whether this node uses the storage: `enabled`, `disabled` or `elsewhere`.
    pub attached: Attached,
    /// `attached` again, in the words of other tools: `attached` or `detached`.
    pub state: &'static str,
    /// `None` is the root namespace.
    pub namespace: Option<String>,
    /// `ct`, `vm` or `host`.
    pub backup_type: BackupType,
    /// For a guest, its VMID.
    pub backup_id: String,
    /// Seconds since 1970.
    pub backup_time: i64,
    /// `backup_time` as RFC 3339, UTC.
    pub time: Option<String>,
    /// The name for Proxmox VE, and for `stillpoint verify`.
    pub volid: String,
    /// Whether the backup is complete; unknown values of an incomplete one are `None`.
    pub finished: bool,
    /// The sum of its files before deduplication, in bytes; `None` also for a complete backup with
    /// a damaged manifest.
    pub size: Option<u64>,
    /// `size` again, under the name that other tools use.
    pub size_bytes: Option<u64>,
    /// The user or token that owns it.
    pub owner: Option<String>,
    /// Whether it is protected from pruning.
    pub protected: bool,
    /// Whether all of the guest's data was encrypted on the node; `None` also if the manifest is
    /// damaged.
    pub encrypted: Option<bool>,
    /// The full fingerprint of the encryption key.
    pub key_fingerprint: Option<String>,
    /// The result of its last verify, `ok` or `failed`; `none` before the first.
    #[serde(serialize_with = "state_or_none")]
    pub verify_state: Option<VerifyState>,
    /// Whether a sync brought that state from another datastore: then it proves nothing about this
    /// copy.
    pub verify_synced: bool,
    /// When that verify began, RFC 3339, UTC.
    pub verified_at: Option<String>,
    /// The task that verified.
    pub verify_upid: Option<String>,
    /// The first line of the notes.
    pub comment: Option<String>,
}

fn state_or_none<S: Serializer>(
    state: &Option<VerifyState>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match state {
        Some(state) => state.serialize(serializer),
        None => serializer.serialize_str("none"),
    }
}

impl<'a> Item<'a> {
    /// A snapshot from the list of a place.
    pub fn of(place: &'a Place, entry: Entry) -> Item<'a> {
        let finished = entry.is_finished();
        let readable = finished && entry.size.is_some();
        let encrypted = readable.then(|| entry.is_encrypted());
        let verification = entry.verification.as_ref();
        let elsewhere = |last: &Verification| last.upid.datastore() != place.datastore();
        Item {
            storage: &place.storage,
            storage_id: place.storage_id.as_deref(),
            durable_id: place.storage_id.as_deref(),
            storage_type: "pbs",
            attached: place.attached,
            state: if place.attached == Attached::Enabled { "attached" } else { "detached" },
            time: rfc3339(entry.snapshot.backup_time),
            volid: volid(&place.storage, &entry.snapshot),
            finished,
            size: entry.size,
            size_bytes: entry.size,
            owner: entry.owner,
            protected: entry.protected,
            encrypted,
            key_fingerprint: entry.fingerprint,
            verify_state: verification.map(|verification| verification.state),
            verify_synced: verification.is_some_and(elsewhere),
            verified_at: verification.and_then(|last| rfc3339(last.upid.started())),
            verify_upid: verification.map(|verification| verification.upid.to_string()),
            comment: entry.comment,
            namespace: entry.snapshot.namespace,
            backup_type: entry.snapshot.backup_type,
            backup_id: entry.snapshot.backup_id,
            backup_time: entry.snapshot.backup_time,
        }
    }

    /// The line above a table of [`Item::row`]s.
    pub fn head() -> [String; 2] {
        row(["SNAPSHOT", "SIZE", "STATE", "VERIFIED", "PE", "KEY", "OWNER", "COMMENT"])
    }

    /// One line of a table with fixed column widths, so that it can be printed as it arrives: the
    /// most important columns, in 80 characters, then owner and comment.
    pub fn row(&self) -> [String; 2] {
        let time = self.time.clone().unwrap_or_else(|| self.backup_time.to_string());
        let name = format!("{}/{}/{time}", self.backup_type.as_str(), self.backup_id);
        let size = match self.size {
            _ if !self.finished => "unfinished".to_owned(),
            Some(size) => binary(size),
            None => "damaged".to_owned(),
        };
        let state = match (self.verify_state, self.verify_synced) {
            (Some(VerifyState::Ok), false) => "ok",
            (Some(VerifyState::Failed), false) => "FAILED",
            (Some(VerifyState::Ok), true) => "(ok)",
            (Some(VerifyState::Failed), true) => "(fail)",
            (None, _) => "-",
        };
        // To the minute: `2026-11-21T23:14`.
        let verified = self.verified_at.as_deref().and_then(|time| time.get(..16));
        let flag = |set: bool, letter| if set { letter } else { '-' };
        let flags: String =
            [flag(self.protected, 'p'), flag(self.encrypted == Some(true), 'e')].iter().collect();
        // The first four bytes: `05:53:55:a0`.
        let key = self.key_fingerprint.as_deref().map(|key| key.get(..11).unwrap_or(key));
        row([
            &name,
            &size,
            state,
            verified.unwrap_or("-"),
            &flags,
            key.unwrap_or("-"),
            self.owner.as_deref().unwrap_or("-"),
            self.comment.as_deref().unwrap_or(""),
        ])
    }
}

fn row(columns: [&str; 8]) -> [String; 2] {
    let [name, size, state, verified, flags, key, owner, comment] =
        columns.map(|column| printable(column, 200));
    let first = format!("{name:<30} {size:>10} {state:<6} {verified:<16} {flags:<2} {key:<11}");
    let more = format!("{owner:<20} {comment}");
    [first, more.trim_end().to_owned()]
}

/// `offsite:backup/ct/9001/2026-11-21T23:22:56Z`, as `pvesm list` names a snapshot.
pub fn volid(storage: &str, snapshot: &Snapshot) -> String {
    format!("{storage}:backup/{snapshot}")
}

fn rfc3339(seconds: i64) -> Option<String> {
    let time = DateTime::from_timestamp(seconds, 0)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// `12.3 GiB`
fn binary(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPID: &str = r"UPID:vm:00005DF6:00029750:00000004:6B02265A:verify_snapshot:tank\x3act-9001-6B0225DA:felhom@pbs!n100:";

    fn place() -> Place {
        Place {
            storage: "offsite".into(),
            storage_id: Some("192.0.2.7:tank#05:53".into()),
            attached: Attached::Enabled,
            namespace: Some("pve".into()),
        }
    }

    fn whole() -> Entry {
        serde_json::from_value(serde_json::json!({
            "backup-type": "ct", "backup-id": "900123", "backup-time": 1_795_302_874, "namespace": "pve",
            "files": [
                {"filename": "root.pxar.didx", "crypt-mode": "encrypt", "size": 9_101_671},
                {"filename": "index.json.blob", "crypt-mode": "sign-only", "size": 647},
            ],
            "size": 9_103_676, "owner": "felhom@pbs!n100", "protected": true,
            "fingerprint": "05:53:55:a0:46:61", "comment": "web\u{1b}[2J",
            "verification": {"state": "ok", "upid": UPID},
        }))
        .unwrap()
    }

    #[test]
    fn a_snapshot_in_json_has_these_names() {
        let place = place();
        let json = serde_json::to_value(Item::of(&place, whole())).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "storage": "offsite",
                "storage_id": "192.0.2.7:tank#05:53",
                "durable_id": "192.0.2.7:tank#05:53",
                "type": "pbs",
                "attached": "enabled",
                "state": "attached",
                "namespace": "pve",
                "backup_type": "ct",
                "backup_id": "900123",
                "backup_time": 1_795_302_874,
                "time": "2026-11-21T23:14:34Z",
                "volid": "offsite:backup/ct/900123/2026-11-21T23:14:34Z",
                "finished": true,
                "size": 9_103_676,
                "size_bytes": 9_103_676,
                "owner": "felhom@pbs!n100",
                "protected": true,
                "encrypted": true,
                "key_fingerprint": "05:53:55:a0:46:61",
                "verify_state": "ok",
                "verify_synced": false,
                "verified_at": "2026-11-21T23:16:42Z",
                "verify_upid": UPID,
                "comment": "web\u{1b}[2J",
            })
        );
    }

    #[test]
    fn a_snapshot_that_was_never_verified_says_so() {
        let place = Place { attached: Attached::Disabled, ..place() };
        let json = serde_json::to_value(Item::of(&place, Entry { verification: None, ..whole() }));
        let json = json.unwrap();
        assert_eq!((&json["verify_state"], &json["state"]), (&"none".into(), &"detached".into()));
    }

    #[test]
    fn every_field_is_documented() {
        let page = include_str!("../../packaging/doc/json.md");
        let (_, section) = page.split_once("## stillpoint snapshots --json").unwrap();
        let place = place();
        let json = serde_json::to_value(Item::of(&place, whole())).unwrap();
        for name in json.as_object().unwrap().keys() {
            assert!(section.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn what_matters_fits_into_80_columns() {
        let place = place();
        let [row, more] = Item::of(&place, whole()).row();
        let expected =
            "ct/900123/2026-11-21T23:14:34Z    8.7 MiB ok     2026-11-21T23:16 pe 05:53:55:a0";
        assert_eq!(row, expected);
        assert_eq!(more, r"felhom@pbs!n100      web\u{1b}[2J");
        let [head, more] = Item::head();
        assert_eq!((head.len(), head.trim_end().ends_with(" KEY")), (80, true), "{head}");
        assert_eq!(more, "OWNER                COMMENT");
    }

    #[test]
    fn a_state_that_a_sync_brought_is_in_parentheses() {
        let mut entry = whole();
        let upid = UPID.replace("tank", "cellar").parse().unwrap();
        entry.verification = Some(Verification { state: VerifyState::Ok, upid });
        let place = place();
        let item = Item::of(&place, entry);
        assert!(item.verify_synced && item.row()[0].contains(" (ok) "), "{:?}", item.row());
    }

    #[test]
    fn of_a_damaged_manifest_it_is_not_known_what_was_encrypted() {
        let entry: Entry = serde_json::from_value(serde_json::json!({
            "backup-type": "ct", "backup-id": "9001", "backup-time": 1_795_302_874,
            "files": [{"filename": "index.json.blob"}, {"filename": "root.pxar.didx"}],
            "owner": "a@pbs!b", "protected": false,
        }))
        .unwrap();
        let place = place();
        let item = Item::of(&place, entry);
        assert_eq!((item.finished, item.encrypted), (true, None));
        assert!(item.row()[0].contains(" damaged "), "{:?}", item.row());
    }

    #[test]
    fn one_that_is_being_written_is_marked() {
        let entry: Entry = serde_json::from_value(serde_json::json!({
            "backup-type": "vm", "backup-id": "100", "backup-time": 1_795_302_874,
            "files": [{"filename": "qemu-server.conf.blob"}], "owner": "a@pbs", "protected": false,
        }))
        .unwrap();
        let place = place();
        let item = Item::of(&place, entry);
        assert!(item.row()[0].contains(" unfinished "), "{:?}", item.row());
        let json = serde_json::to_value(&item).unwrap();
        assert_eq!((&json["finished"], &json["encrypted"]), (&false.into(), &().into()));
    }

    #[test]
    fn sizes_are_short() {
        let sizes: Vec<String> = [0, 1023, 1024, 1_048_575, 5 << 30, u64::MAX].map(binary).into();
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "5.0 GiB", "16.0 EiB"]);
    }
}
