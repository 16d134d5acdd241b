//! The state of the server in the recordings: its initial content, and the recorder's changes
//! between two requests, from its `###` lines.

use std::time::Duration;

use stillpoint_sim::pbs::snapshot::Verification;
use stillpoint_sim::pbs::upid::Upid;
use stillpoint_sim::pbs::{
    Backup, ChunkDamage, Config, Damage, Datastore, SimPbs, SnapshotId, State,
};

use super::recording::Exchange;

const STORE: &str = "felhom-spike";
const TOKEN: &str = "felhom@pbs!n100";
const FLIPPED: &str = "cf877f01d2c789abb29fdc1386b4141956dcd5a7ec75866fc30c9531f57fca98";
const DELETED: &str = "2aa3c030fb64dec7c707ca4809666c7f0db26aca5e6ff1a7f489bca069fc2a1b";
const DAMAGED_TIME: i64 = 1_795_303_255;

/// How long a 401 takes in the replay; the real three seconds are the default.
pub const UNAUTHORIZED_DELAY: Duration = Duration::from_millis(50);

/// The secrets in the replay; the recordings have `<SECRET>`.
pub fn secret(exchange: &Exchange) -> &'static str {
    let said = |text: &str| exchange.comments.iter().any(|line| line.contains(text));
    let request = String::from_utf8_lossy(&exchange.request);
    if said("wrong secret") {
        "wrong"
    } else if request.contains("felhom@pbs!second") {
        "secret-of-second"
    } else {
        "secret-of-n100"
    }
}

/// The server before the first recording; its verifies run until they are ended.
pub fn start() -> SimPbs {
    let config = Config {
        unauthorized_delay: UNAUTHORIZED_DELAY,
        verify_time: Duration::from_secs(86_400),
        ..Config::default()
    };
    let pbs = SimPbs::start(config).expect("the simulated server");
    pbs.edit(|state| {
        state.access.add_user("felhom@pbs", "password");
        state.access.add_token(TOKEN, "secret-of-n100");
        state.access.add_token("felhom@pbs!second", "secret-of-second");
        state.access.grant_both("/datastore/felhom-spike", TOKEN, "DatastoreAdmin");
        let store = Datastore::new(STORE, "/var/lib/pbs-spike");
        state.datastores.insert(STORE.to_owned(), store);
    });
    pbs
}

fn backup(state: &mut State, ns: &str, id: &str, time: i64, sizes: [u64; 3], manifest: u64) {
    backup_of(state, ns, id, time, sizes, manifest, TOKEN);
}

fn backup_of(
    state: &mut State,
    ns: &str,
    id: &str,
    time: i64,
    sizes: [u64; 3],
    manifest_size: u64,
    owner: &str,
) {
    let id = SnapshotId::new(STORE, ns, "ct", id, time);
    let names = ["root.pxar.didx", "pct.conf.blob", "catalog.pcat1.didx"];
    let files = names.map(str::to_owned).into_iter().zip(sizes);
    state.add_snapshot(Backup { files: files.collect(), manifest_size, ..Backup::of(&id, owner) });
}

/// What happened on the server before a file was recorded.
pub fn before_file(state: &mut State, file: &str) {
    match file {
        "03-snapshots.http" => {
            backup(state, "", "9001", 1_795_302_874, [9_101_671, 126, 1232], 543);
            backup(state, "", "9001", 1_795_302_875, [9_101_799, 126, 1247], 543);
            backup(state, "n100", "9001", 1_795_302_876, [9_101_799, 126, 1247], 544);
        }
        "04-verify.http" => {
            backup(state, "", "9002", 1_795_302_960, [6_442_451_730, 126, 121], 543);
        }
        "02-acl.http" => {
            let upid = "UPID:vm:00005DF6:00029750:00000024:6B0226BB:verify_snapshot:\
                        felhom\\x2dspike\\x3a-ct-9001-6B0225DB:felhom@pbs!n100:";
            let starttime = Upid::parse(upid).expect("a task id").starttime;
            let id = SnapshotId::new(STORE, "", "ct", "9001", 1_795_302_875);
            let snapshot = store(state).snapshot_mut(&id).expect("the snapshot");
            snapshot.verification =
                Some(Verification { state: "ok", upid: upid.to_owned(), starttime });
        }
        "05-corrupt.http" => grant(state, "/datastore/felhom-spike", "DatastoreAdmin"),
        "06-verify-errors.http" => {
            let sizes = [9_101_799, 126, 1247];
            for (id, time, manifest, owner) in [
                ("9010", 1_795_303_394, 545, "other@pbs!tk"),
                ("9011", 1_795_303_336, 546, "felhom@pbs"),
                ("9012", 1_795_303_394, 543, "felhom@pbs!second"),
            ] {
                backup_of(state, "", id, time, sizes, manifest, owner);
            }
            let id = SnapshotId::new(STORE, "", "ct", "9001", 1_795_303_376);
            let files = [
                ("pct.conf.blob", 222),
                ("root.pxar.didx", 706_205_802),
                ("catalog.pcat1.didx", 220_518),
            ];
            let files = files.map(|(name, size)| (name.to_owned(), size));
            state.add_snapshot(Backup {
                files: files.to_vec(),
                manifest_size: 459,
                comment: Some("prod-docker by test".to_owned()),
                client_log: true,
                ..Backup::of(&id, TOKEN).unencrypted()
            });
        }
        _ => {}
    }
}

fn store(state: &mut State) -> &mut Datastore {
    state.add_datastore(STORE)
}

fn grant(state: &mut State, path: &str, role: &str) {
    state.access.revoke_all();
    state.access.grant_both(path, TOKEN, role);
}

/// Does what the lines before a request say was done.
pub fn act(state: &mut State, comments: &[String]) {
    for comment in comments {
        if let Some(started) = comment.strip_prefix("Starting backup: ct/9003/") {
            let time = chrono::DateTime::parse_from_rfc3339(started).expect("a time");
            new_9003(state, time.timestamp());
        }
        let Some(text) = comment.strip_prefix("### ") else {
            continue;
        };
        if let Some(case) = text.strip_prefix("=== CASE ") {
            change_acl(state, case);
        } else if text.starts_with("corrupting ") {
            assert!(text.contains(FLIPPED));
            let chunks = &mut store(state).bad_chunks;
            chunks.insert(FLIPPED.to_owned(), ChunkDamage::Altered);
        } else if text.starts_with("deleted ") {
            assert!(text.contains(DELETED));
            let chunks = &mut store(state).bad_chunks;
            chunks.insert(DELETED.to_owned(), ChunkDamage::Missing);
        } else if text.starts_with("4l in ns n100") {
            // The recorder did not wait for the verify before this one, but it took only 10 ms.
            let tasks = state.tasks.iter().filter(|task| task.end.is_none());
            let running: Vec<String> = tasks.map(|task| task.upid.to_string()).collect();
            assert_eq!(running.len(), 1);
            assert!(state.finish(&running[0]));
        } else if text.starts_with("5h chunk restored") {
            store(state).bad_chunks.remove(DELETED);
        } else if text.starts_with("DatastoreBackup: ") {
            grant(state, "/datastore/felhom-spike", "DatastoreBackup");
        } else if text.starts_with("DatastoreAdmin: ") || text.starts_with("trailing slash") {
            grant(state, "/datastore/felhom-spike", "DatastoreAdmin");
        } else if text.starts_with("ACL on /datastore only: permissions") {
            grant(state, "/datastore", "DatastoreBackup");
        } else {
            damage(state, text);
        }
    }
}

fn damage(state: &mut State, text: &str) {
    let damages = [
        ("5i pct.conf.blob damaged", "pct.conf.blob", Damage::Altered),
        ("5j root.pxar.didx damaged", "root.pxar.didx", Damage::Altered),
        ("5k root.pxar.didx missing", "root.pxar.didx", Damage::Missing),
        ("5l manifest damaged", "index.json.blob", Damage::Altered),
        ("5n snapshots, manifest file missing", "index.json.blob", Damage::Missing),
    ];
    let id = SnapshotId::new(STORE, "", "ct", "9003", DAMAGED_TIME);
    let found = damages.iter().find(|(line, _, _)| text.starts_with(line));
    if found.is_none() && !text.starts_with("5p all intact again") {
        return;
    }
    let snapshot = store(state).snapshot_mut(&id).expect("the snapshot");
    snapshot.damage.clear();
    if let Some((_, file, damage)) = found {
        assert!(store(state).damage_file(&id, file, Some(*damage)));
    }
}

fn change_acl(state: &mut State, case: &str) {
    let path = "/datastore/felhom-spike";
    let user = "felhom@pbs";
    state.access.revoke_all();
    let access = &mut state.access;
    match case {
        "no ACL at all" => {}
        "token only DatastoreAdmin" => access.grant(path, TOKEN, "DatastoreAdmin"),
        "user only DatastoreAdmin" => access.grant(path, user, "DatastoreAdmin"),
        "user Admin, token Backup" => {
            access.grant(path, user, "DatastoreAdmin");
            access.grant(path, TOKEN, "DatastoreBackup");
        }
        "user Backup, token Admin" => {
            access.grant(path, user, "DatastoreBackup");
            access.grant(path, TOKEN, "DatastoreAdmin");
        }
        "both DatastoreBackup on ns path only" => {
            access.grant_both("/datastore/felhom-spike/n100", TOKEN, "DatastoreBackup");
        }
        case => {
            let role = case.strip_prefix("both ").expect("a role");
            access.grant_both(path, TOKEN, role);
        }
    }
}

/// The third backup of 9003 found no usable predecessor and uploaded everything again.
fn new_9003(state: &mut State, time: i64) {
    let (sizes, manifest) = match time {
        1_795_303_255 => ([20_000_210, 126, 49], 543),
        1_795_303_256 => ([20_000_325, 126, 58], 542),
        1_795_303_258 => ([20_000_325, 126, 58], 544),
        other => panic!("no backup of 9003 at {other} was recorded"),
    };
    backup(state, "", "9003", time, sizes, manifest);
    let id = SnapshotId::new(STORE, "", "ct", "9003", time);
    let uploaded: Vec<String> = vec![FLIPPED.to_owned(), DELETED.to_owned()];
    let store = store(state);
    for chunk in &uploaded {
        if store.bad_chunks.get(chunk) == Some(&ChunkDamage::Found) {
            store.bad_chunks.remove(chunk);
        }
    }
    let snapshot = store.snapshot_mut(&id).expect("the snapshot");
    snapshot.files[0].chunks = uploaded;
}
