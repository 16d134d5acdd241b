//! The second series of recordings: a broken datastore, a foreign owner, the server's own jobs, and
//! an administrator's actions. What others did between the recorded requests is played from the
//! recorder's `###` lines.

use chrono::DateTime;
use serde_json::Value;
use stillpoint_sim::pbs::snapshot::Verification;
use stillpoint_sim::pbs::upid::Upid;
use stillpoint_sim::pbs::{
    Backup, ChunkDamage, Config, Damage, Datastore, Maintenance, SimPbs, SnapshotId, State,
};

use super::recording::Exchange;

/// In the order of recording, with the number of exchanges in each.
pub const FILES: [(&str, usize); 8] = [
    ("07-manifest-damaged.http", 31),
    ("08-datastore-full.http", 19),
    ("10-locked.http", 31),
    ("11-foreign-owner.http", 24),
    ("13-group-verify.http", 20),
    ("14-moved-removed.http", 32),
    ("09-not-mounted.http", 23),
    ("12-later-verdict.http", 34),
];

/// Calls that the simulated server does not have: an administrator's, and some that Stillpoint
/// never makes.
const OTHERS_CALLS: [&str; 3] = ["/change-owner", "move-group", "/notes"];

/// Not comparable: lists that also contain what the recorder made for other recordings, and root's
/// tasks that only an administrator sees.
const NOT_COMPARED: [&str; 6] = [
    "groups list",
    "groups list as it",
    "groups list as a DatastoreAdmin token",
    "list of datastores",
    "the same as a DatastoreAdmin token",
    "tasks list as the token",
];

/// Whether the exchange is sent to the simulated server.
pub fn is_replayed(exchange: &Exchange) -> bool {
    let title = exchange.comments.iter().rev().find_map(|line| line.strip_prefix("### "));
    let request = String::from_utf8_lossy(&exchange.request);
    let admins_look = exchange.place.starts_with("12-")
        && request.contains("ad@pbs!t:")
        && request.contains("/tasks/");
    let of_all = title.is_some_and(|title| NOT_COMPARED.contains(&title));
    let of_usb = exchange.place.starts_with("09-") && title == Some("groups list");
    let alone = exchange.place.starts_with("07-");
    !OTHERS_CALLS.iter().any(|call| exchange.target.contains(call))
        && !admins_look
        && (!of_all || of_usb || alone)
}

/// The server before the recording; its verifies run until they are ended.
pub fn start() -> SimPbs {
    let config = Config {
        unauthorized_delay: super::world::UNAUTHORIZED_DELAY,
        verify_time: std::time::Duration::from_secs(86_400),
        ..Config::default()
    };
    let pbs = SimPbs::start(config).expect("the simulated server");
    pbs.edit(|state| {
        (state.pid, state.pstart) = (2939, 380_087);
        for name in ["office", "cellar", "tiny", "usb"] {
            let path = format!("$RIG/ds/{name}");
            state.datastores.insert(name.to_owned(), Datastore::new(name, &path));
            let path = format!("/datastore/{name}");
            for (token, role) in [
                ("bk@pbs!n100", "DatastoreBackup"),
                ("ot@pbs!t", "DatastoreBackup"),
                ("ad@pbs!t", "DatastoreAdmin"),
            ] {
                state.access.add_token(token, "secret-of-n100");
                state.access.grant_both(&path, token, role);
            }
        }
    });
    pbs
}

/// Does what the lines before a request say was done; `later` is the rest of the recording.
pub fn act(state: &mut State, comments: &[String], later: &[Exchange]) {
    for comment in comments {
        let Some(text) = comment.strip_prefix("### ") else { continue };
        if let Some(command) = text.strip_prefix("$ proxmox-backup-client backup ") {
            if command.ends_with("-> rc 0") {
                back_up(state, command, later);
            }
        } else if let Some((_, digest)) = text.split_once("/.chunks/") {
            let digest = digest.get(5..69).expect("a digest");
            damage_chunk(state, digest, text.contains("shared by all ten"));
        } else {
            happen(state, text);
        }
    }
    backups_by_others(state, later);
    verdicts_of_others(state, later);
}

fn store<'a>(state: &'a mut State, name: &str) -> &'a mut Datastore {
    state.datastores.get_mut(name).expect("a datastore")
}

fn office(id: &str, time: i64) -> SnapshotId {
    SnapshotId::new("office", "", "ct", id, time)
}

fn happen(state: &mut State, text: &str) {
    let lock = |state: &mut State, locked| {
        let id = office("9020", 1_795_817_605);
        store(state, "office").snapshot_mut(&id).expect("the snapshot").locked = locked;
    };
    let newest = office("9001", 1_795_817_593);
    if text.starts_with("corrupting ") {
        let damage = Some(Damage::Altered);
        assert!(store(state, "office").damage_file(&newest, "index.json.blob", damage));
    } else if text.starts_with("filler written") {
        store(state, "tiny").space[2] = 0;
    } else if text.starts_with("a chunk of the first snapshot damaged") {
        let id = SnapshotId::new("tiny", "", "ct", "9010", 1_795_817_603);
        assert!(store(state, "tiny").damage_chunk(&id, true, ChunkDamage::Altered).is_some());
    } else if text.starts_with("room again") {
        store(state, "tiny").space[2] = 1;
    } else if text.starts_with("a slow backup runs into it") {
        store(state, "usb").maintenance = Some(Maintenance::Unmounting);
    } else if text.starts_with("unmounted by the server") {
        store(state, "usb").maintenance = Some(Maintenance::NotMounted);
    } else if text.starts_with("mounted again") {
        store(state, "usb").maintenance = None;
    } else if text.starts_with("an exclusive lock held") {
        lock(state, true);
    } else if text.starts_with("lock released") {
        lock(state, false);
    } else if text.starts_with("group verify while one of its snapshots is locked") {
        let id = office("9020", 1_795_817_605);
        store(state, "office").snapshot_mut(&id).expect("the snapshot").comment = Some("x".into());
    } else if text.starts_with("a backup in progress") {
        let backup = Backup::of(&office("9020", 1_795_817_611), "bk@pbs!n100");
        let backup = backup.unencrypted().unfinished();
        state.add_snapshot(Backup { files: Vec::new(), ..backup });
    } else if text == "second" {
        first_ended_last(state);
    } else if text.starts_with("the client was killed") {
        state.remove_snapshot(&office("9020", 1_795_817_611));
    } else if text.starts_with("where it was: snapshots list") {
        move_group(state, "9060", "archive");
    } else if text.starts_with("change-owner by a DatastoreAdmin") {
        for group in &mut store(state, "office").groups {
            if group.id == "9030" {
                "bk@pbs!n100".clone_into(&mut group.owner);
            }
        }
    }
}

/// Of two concurrent verifies, the first has ended last and has overwritten the second one's
/// result.
fn first_ended_last(state: &mut State) {
    let id = office("9020", 1_795_817_605);
    let of_first = store(state, "office").snapshot_mut(&id).expect("it").verification.clone();
    let running = state.tasks.iter().find(|task| task.end.is_none()).expect("the second");
    let second = running.upid.to_string();
    assert!(state.finish(&second));
    store(state, "office").snapshot_mut(&id).expect("it").verification = of_first;
}

fn move_group(state: &mut State, id: &str, ns: &str) {
    let store = store(state, "office");
    store.namespaces.insert(ns.to_owned());
    for group in store.groups.iter_mut().filter(|group| group.id == id) {
        ns.clone_into(&mut group.ns);
    }
}

/// `... --backup-type ct --backup-id 9001 --backup-time 1795817591 ... --repository
/// TOKEN@127.0.0.1:office -> rc 0`
fn back_up(state: &mut State, command: &str, later: &[Exchange]) {
    let words: Vec<&str> = command.split(' ').collect();
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    let (Some(id), Some(time)) = (after("--backup-id"), after("--backup-time")) else { return };
    let (owner, place) =
        after("--repository").and_then(|to| to.rsplit_once('@')).expect("a repository");
    let (_, name) = place.split_once(':').expect("a datastore");
    let id = SnapshotId::new(name, "", "ct", id, time.parse().expect("a time"));
    add(state, &id, owner, later);
}

/// A backup with the sizes from the first later list that contains it.
fn add(state: &mut State, id: &SnapshotId, owner: &str, later: &[Exchange]) {
    let Some(entry) = listed(id, later) else { return };
    let sizes = |file: &Value| {
        let name = file["filename"].as_str().expect("a name").to_owned();
        Some((name, file["size"].as_u64()?))
    };
    let files = entry["files"].as_array().expect("files").iter().filter_map(sizes);
    let (manifest, files): (Vec<_>, Vec<_>) =
        files.partition(|(name, _)| name == "index.json.blob");
    let manifest_size = manifest.first().map_or(0, |(_, size)| *size);
    state.add_snapshot(Backup { files, manifest_size, ..Backup::of(id, owner).unencrypted() });
}

fn listed(id: &SnapshotId, later: &[Exchange]) -> Option<Value> {
    let entries = lists(later).filter(|(store, _)| *store == id.store);
    let of_guest = |entry: &Value| entry["backup-id"] == *id.id && entry["size"].is_u64();
    let entries: Vec<Value> = entries.flat_map(|(_, list)| list).filter(of_guest).collect();
    // A snapshot that was removed before any list gets the values of others of its guest.
    let itself = entries.iter().find(|entry| entry["backup-time"] == id.time);
    itself.or(entries.first()).cloned()
}

/// The lists of snapshots in these exchanges, each with its datastore.
fn lists(exchanges: &[Exchange]) -> impl Iterator<Item = (String, Vec<Value>)> + '_ {
    exchanges.iter().filter_map(|exchange| {
        let (_, rest) = exchange.target.split_once("GET /api2/json/admin/datastore/")?;
        let (store, call) = rest.split_once('/')?;
        let body: Value = serde_json::from_str(&exchange.body).ok()?;
        let list = body["data"].as_array()?.clone();
        call.starts_with("snapshots?").then(|| (store.to_owned(), list))
    })
}

/// A sync leaves no line in the recording: adds the snapshots that the next list contains and
/// nobody made.
fn backups_by_others(state: &mut State, later: &[Exchange]) {
    let Some((name, list)) = lists(later.get(..1).unwrap_or_default()).next() else { return };
    for entry in list.iter().filter(|entry| entry["size"].is_u64()) {
        let (Some(id), Some(time)) = (entry["backup-id"].as_str(), entry["backup-time"].as_i64())
        else {
            continue;
        };
        let id = SnapshotId::new(&name, "", "ct", id, time);
        let elsewhere = later[0].target.contains("&ns=");
        if !elsewhere && store(state, &name).snapshot(&id).is_none() {
            add(state, &id, entry["owner"].as_str().expect("an owner"), later);
        }
    }
}

/// Writes the verify states that the server's own jobs, a sync and the administrator's commands
/// have set, from the next list or manifest.
fn verdicts_of_others(state: &mut State, later: &[Exchange]) {
    let Some(next) = later.first() else { return };
    let Ok(body) = serde_json::from_str::<Value>(&next.body) else { return };
    let Some((_, rest)) = next.target.split_once("/admin/datastore/") else { return };
    let (name, _) = rest.split_once('/').expect("a call");
    let manifest = vec![body.clone()];
    for entry in body["data"].as_array().unwrap_or(&manifest) {
        let found = match entry.get("verification") {
            Some(found) => found,
            None => &entry["unprotected"]["verify_state"],
        };
        let (Some(upid), Some(state_)) = (found["upid"].as_str(), found["state"].as_str()) else {
            continue;
        };
        let parsed = Upid::parse(upid).expect("a task id");
        let here = parsed.worker_id.starts_with(&format!("{name}:"));
        if here && state.task(upid).is_some() {
            continue;
        }
        let (Some(id), Some(time)) = (entry["backup-id"].as_str(), entry["backup-time"].as_i64())
        else {
            continue;
        };
        let ns = if next.target.contains("ns=archive") { "archive" } else { "" };
        let id = SnapshotId::new(name, ns, "ct", id, time);
        let (starttime, upid) = (parsed.starttime, upid.to_owned());
        let state_ = if state_ == "ok" { "ok" } else { "failed" };
        if let Some(snapshot) = store(state, name).snapshot_mut(&id) {
            snapshot.verification = Some(Verification { state: state_, upid, starttime });
        }
    }
}

/// Damages the one chunk that all ten snapshots of a guest share, else a chunk that only the
/// server's own job finds.
fn damage_chunk(state: &mut State, digest: &str, of_ten: bool) {
    if !of_ten {
        let id = office("9042", 1_795_817_862);
        let found = store(state, "office").damage_chunk(&id, true, ChunkDamage::Found);
        assert!(found.is_some());
        return;
    }
    let bad_chunks = &mut store(state, "office").bad_chunks;
    bad_chunks.insert(digest.to_owned(), ChunkDamage::Altered);
    let guest = "9050";
    for group in store(state, "office").groups.iter_mut().filter(|group| group.id == guest) {
        for file in group.snapshots.iter_mut().filter_map(|snapshot| snapshot.files.first_mut()) {
            file.chunks[0] = digest.to_owned();
        }
    }
}

/// The time of an exchange by the server's clock.
pub fn date(exchange: &Exchange) -> i64 {
    let date = exchange.header("date").expect("a date");
    DateTime::parse_from_rfc2822(date).expect("a date").timestamp()
}
