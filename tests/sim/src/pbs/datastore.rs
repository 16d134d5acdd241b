//! Calls that read a datastore.

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::{Value, json};

use super::access::owns;
use super::api::{Failure, Outcome, Reply};
use super::params::{Kind, Known, Params, optional, required};
use super::state::State;
use super::store::{Datastore, Group, MANIFEST, Maintenance, SnapshotId};
use super::verify::manifest_error;
use crate::http::{Answer, Body, Request};

const LIST: [&str; 2] = ["Datastore.Audit", "Datastore.Backup"];
/// Any of these shows that a datastore exists.
const SEE: [&str; 4] = [
    "Datastore.Audit",
    "Datastore.Backup",
    "Datastore.Modify",
    "Datastore.Read",
];
const NO_ENTRY: &str = "ENOENT: No such file or directory";

const SNAPSHOT: [Known; 4] = [
    required("backup-type", Kind::BackupType),
    required("backup-id", Kind::BackupId),
    required("backup-time", Kind::BackupTime),
    optional("ns", Kind::Namespace),
];

/// The access control path of a namespace.
pub fn acl_path(store: &str, ns: &str) -> String {
    let separator = if ns.is_empty() { "" } else { "/" };
    format!("/datastore/{store}{separator}{ns}")
}

/// Refuses those who have neither the full right nor the one that only counts for owners; says whether
/// only own backups may be touched.
pub fn check_rights(
    state: &State,
    auth_id: &str,
    store: &str,
    ns: &str,
    full: &[&str],
) -> Result<bool, Failure> {
    let path = acl_path(store, ns);
    if state.access.has_any(auth_id, &path, full) {
        return Ok(false);
    }
    if state.access.has_any(auth_id, &path, &["Datastore.Backup"]) {
        return Ok(true);
    }
    let wanted = full.join("|");
    Err(Failure::new(
        403,
        format!("permission check failed - missing {wanted}|Datastore.Backup on {path}"),
    ))
}

/// Finds a datastore that can be read.
pub fn open<'a>(state: &'a State, store: &str) -> Result<&'a Datastore, Failure> {
    let found = state.datastores.get(store);
    let found = found.ok_or_else(|| Failure::new(400, format!("no such datastore '{store}'")))?;
    match &found.maintenance {
        Some(Maintenance::Offline(message)) => Err(Failure::new(
            400,
            format!("datastore '{store}' is unavailable: offline maintenance mode: {message}"),
        )),
        Some(Maintenance::ReadOnly(_)) | None => Ok(found),
    }
}

/// Refuses whoever does not own the group.
pub fn check_owner(
    store: &Datastore,
    ns: &str,
    kind: &str,
    id: &str,
    auth_id: &str,
) -> Result<(), Failure> {
    let Some(group) = store.group(ns, kind, id) else {
        let path = format!("{}/owner", store.group_path(ns, kind, id));
        let text = format!("unable to read {path:?} - No such file or directory (os error 2)");
        return Err(Failure::new(400, text));
    };
    let owner = &group.owner;
    if owns(auth_id, owner) {
        return Ok(());
    }
    let text = format!("backup owner check failed ({auth_id} != {owner})");
    Err(Failure::new(400, text))
}

/// `GET /admin/datastore`
pub fn list(state: &mut State, request: &Request, auth_id: &str) -> Outcome {
    Params::read(request, &[], &[])?;
    let visible = |store: &&Datastore| {
        let path = acl_path(&store.name, "");
        state.access.has_any(auth_id, &path, &LIST)
            || state.access.has_any_below(auth_id, &path, &LIST)
    };
    let entries = state.datastores.values().filter(visible).map(|store| {
        let mut entry = json!({
            "backend-type": "filesystem",
            "comment": store.comment,
            "mount-status": "nonremovable",
            "store": store.name,
        });
        match &store.maintenance {
            Some(Maintenance::Offline(text)) => {
                entry["maintenance"] = json!(format!("type=offline,message={text}"));
            }
            Some(Maintenance::ReadOnly(text)) => {
                entry["maintenance"] = json!(format!("type=read-only,message={text}"));
            }
            None => {}
        }
        entry
    });
    Ok(Reply::Data(entries.collect()))
}

/// `GET /admin/datastore/STORE/status`
pub fn status(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    Params::read(request, &[], &[optional("verbose", Kind::Bool)])?;
    let path = acl_path(store, "");
    let numbers = state.access.has_any(auth_id, &path, &LIST);
    let visible = state.access.has_any(auth_id, &path, &SEE)
        || state.access.has_any_below(auth_id, &path, &SEE);
    if !numbers && !visible {
        return Err(Failure::new(403, "permission check failed"));
    }
    let store = open(state, store)?;
    let [total, used, avail] = if numbers { store.space } else { [0; 3] };
    Ok(Reply::Data(json!({
        "avail": avail,
        "backend-type": "filesystem",
        "total": total,
        "used": used,
    })))
}

fn visible_groups<'a>(
    store: &'a Datastore,
    ns: &str,
    only_own: bool,
    auth_id: &str,
) -> Vec<&'a Group> {
    let mine = |group: &&Group| !only_own || owns(auth_id, &group.owner);
    let groups = store.groups.iter().filter(|group| group.ns == ns);
    groups.filter(mine).collect()
}

/// `GET /admin/datastore/STORE/snapshots`
pub fn snapshots(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let known = [
        optional("ns", Kind::Namespace),
        optional("backup-type", Kind::BackupType),
        optional("backup-id", Kind::BackupId),
    ];
    let params = Params::read(request, &[], &known)?;
    let ns = params.namespace();
    let only_own = check_rights(state, auth_id, store, ns, &["Datastore.Audit"])?;
    let store = open(state, store)?;
    let (kind, id) = (params.text("backup-type"), params.text("backup-id"));
    if !store.has_namespace(ns) {
        return Err(Failure::new(400, NO_ENTRY));
    }
    let mut entries = Vec::new();
    for group in visible_groups(store, ns, only_own, auth_id) {
        let fits = kind.is_none_or(|kind| kind == group.kind);
        if fits && id.is_none_or(|id| id == group.id) {
            entries.extend(group.snapshots.iter().map(|one| one.entry(group)));
        }
    }
    let wanted = ns.is_empty() && id.is_none() && kind.is_none_or(|kind| kind == "ct");
    let made_up = if wanted { store.made_up } else { 0 };
    let owner = auth_id.to_owned();
    Ok(Reply::List(Box::new(move |out: &mut dyn Write| {
        let made_up = (0..made_up).map(|number| made_up_entry(number, &owner));
        let mut buffer = std::io::BufWriter::with_capacity(64 * 1024, out);
        buffer.write_all(b"{\"data\":[")?;
        for (at, entry) in entries.into_iter().chain(made_up).enumerate() {
            if at > 0 {
                buffer.write_all(b",")?;
            }
            buffer.write_all(entry.as_bytes())?;
        }
        buffer.write_all(b"]}")?;
        buffer.flush()
    })))
}

/// One of very many snapshots, a hundred to a guest, in the size of a real entry.
fn made_up_entry(number: u64, owner: &str) -> String {
    let time = 1_700_000_000 + number * 60;
    let id = 100_000 + number / 100;
    let key = super::backup::KEY;
    format!(
        "{{\"backup-type\":\"ct\",\"backup-id\":\"{id}\",\"backup-time\":{time},\
         \"verification\":{{\"upid\":\"UPID:vm:00005DF6:00029750:{number:08X}:{time:08X}:\
         verify_snapshot:made\\\\x2dup\\\\x3a-ct-{id}-{time:08X}:{owner}:\",\"state\":\"ok\"}},\
         \"fingerprint\":\"{key}\",\"files\":[\
         {{\"filename\":\"root.pxar.didx\",\"crypt-mode\":\"encrypt\",\"size\":9101671}},\
         {{\"filename\":\"pct.conf.blob\",\"crypt-mode\":\"encrypt\",\"size\":126}},\
         {{\"filename\":\"catalog.pcat1.didx\",\"crypt-mode\":\"encrypt\",\"size\":1232}},\
         {{\"filename\":\"index.json.blob\",\"crypt-mode\":\"sign-only\",\"size\":647}}],\
         \"size\":9103676,\"owner\":\"{owner}\",\"protected\":false}}"
    )
}

/// `GET /admin/datastore/STORE/groups`
pub fn groups(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let params = Params::read(request, &[], &[optional("ns", Kind::Namespace)])?;
    let ns = params.namespace();
    let only_own = check_rights(state, auth_id, store, ns, &["Datastore.Audit"])?;
    let store = open(state, store)?;
    if !store.has_namespace(ns) {
        return Err(Failure::new(400, NO_ENTRY));
    }
    let groups = visible_groups(store, ns, only_own, auth_id);
    let entries = groups.into_iter().filter_map(|group| {
        let last = group.snapshots.iter().max_by_key(|one| one.time)?;
        Some(json!({
            "backup-count": group.snapshots.len(),
            "backup-id": group.id,
            "backup-type": group.kind,
            "files": last.directory(),
            "last-backup": last.time,
            "owner": group.owner,
        }))
    });
    Ok(Reply::Data(entries.collect()))
}

/// `GET /admin/datastore/STORE/namespace`
pub fn namespaces(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let known = [
        optional("parent", Kind::Namespace),
        optional("max-depth", Kind::Int(0)),
    ];
    Params::read(request, &[], &known)?;
    let path = acl_path(store, "");
    let below = state.access.has_any_below(auth_id, &path, &SEE);
    if !below && !state.access.has_any(auth_id, &path, &SEE) {
        return Err(Failure::new(403, "permission check failed"));
    }
    let found = open(state, store)?;
    let all: BTreeSet<&str> = std::iter::once("")
        .chain(found.namespaces.iter().map(String::as_str))
        .collect();
    let seen = all.into_iter().filter(|ns| {
        let path = acl_path(store, ns);
        state.access.has_any(auth_id, &path, &SEE)
            || state.access.has_any_below(auth_id, &path, &SEE)
    });
    Ok(Reply::Data(seen.map(|ns| json!({ "ns": ns })).collect()))
}

struct Chosen {
    id: SnapshotId,
    params: Params,
}

fn choose(
    state: &State,
    request: &Request,
    auth_id: &str,
    store: &str,
    full: &[&str],
    more: &[Known],
) -> Result<Chosen, Failure> {
    let known: Vec<Known> = SNAPSHOT.iter().chain(more).copied().collect();
    let params = Params::read(request, &[], &known)?;
    let text = |name| params.text(name).unwrap_or_default();
    let time = params.int("backup-time").unwrap_or_default();
    let (kind, guest) = (text("backup-type"), text("backup-id"));
    let id = SnapshotId::new(store, params.namespace(), kind, guest, time);
    let only_own = check_rights(state, auth_id, store, &id.ns, full)?;
    let store = open(state, store)?;
    if only_own {
        check_owner(store, &id.ns, &id.kind, &id.id, auth_id)?;
    }
    Ok(Chosen { id, params })
}

/// `GET /admin/datastore/STORE/files`
pub fn files(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let full = ["Datastore.Audit", "Datastore.Read"];
    let chosen = choose(state, request, auth_id, store, &full, &[])?;
    let store = open(state, store)?;
    let Some((_, snapshot)) = store.snapshot(&chosen.id) else {
        return Err(Failure::new(400, NO_ENTRY));
    };
    if let Some(error) = manifest_error(store, &chosen.id, snapshot) {
        return Err(Failure::new(400, error));
    }
    Ok(Reply::Data(snapshot.list_files()))
}

/// The manifest of a snapshot that may or may not be there.
fn manifest(store: &Datastore, id: &SnapshotId) -> Result<Value, Failure> {
    let path = format!("{}/{MANIFEST}", store.snapshot_path(id));
    let missing = super::verify::blob_error(&path, super::store::Damage::Missing);
    let (group, snapshot) = store
        .snapshot(id)
        .ok_or_else(|| Failure::new(400, missing))?;
    match manifest_error(store, id, snapshot) {
        Some(error) => Err(Failure::new(400, error)),
        None => Ok(snapshot.manifest(group)),
    }
}

/// `GET /admin/datastore/STORE/notes`
pub fn notes(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let chosen = choose(state, request, auth_id, store, &["Datastore.Audit"], &[])?;
    let manifest = manifest(open(state, store)?, &chosen.id)?;
    let notes = manifest["unprotected"]["notes"]
        .as_str()
        .unwrap_or_default();
    Ok(Reply::Data(json!(notes)))
}

/// `GET /admin/datastore/STORE/download-decoded`: the manifest; other files are encrypted or not simulated.
pub fn download_decoded(
    state: &mut State,
    request: &Request,
    auth_id: &str,
    store: &str,
) -> Outcome {
    let more = [required("file-name", Kind::Text)];
    let chosen = choose(state, request, auth_id, store, &["Datastore.Read"], &more)?;
    let manifest = manifest(open(state, store)?, &chosen.id)?;
    let name = chosen.params.text("file-name").unwrap_or_default();
    let encrypted = manifest["files"].as_array().is_some_and(|files| {
        let mut files = files.iter();
        files.any(|file| file["filename"] == name && file["crypt-mode"] == "encrypt")
    });
    if encrypted {
        let text = format!("cannot decode '{name}' - is encrypted");
        return Err(Failure::new(400, text));
    }
    if name != MANIFEST {
        let text = "File open failed: No such file or directory (os error 2)";
        return Err(Failure::new(400, text));
    }
    let text = serde_json::to_string_pretty(&manifest).unwrap_or_default();
    let answer = Answer::new(200, Body::Chunked(text.into_bytes()));
    Ok(Reply::Other(
        answer.with_header("content-type", "application/octet-stream"),
    ))
}
