//! Calls that read groups and snapshots.

use std::io::Write;

use serde_json::{Value, json};

use super::access::owns;
use super::api::{Failure, Outcome, Reply};
use super::datastore::{acl_path, check_owner, check_rights, open};
use super::params::{Kind, Known, Params, optional, required};
use super::snapshot::{MANIFEST, SnapshotId};
use super::state::State;
use super::store::{Datastore, Group};
use super::task::lock;
use super::verify::{ManifestError, manifest_error, missing};
use crate::http::{Answer, Body, Request};

const NO_ENTRY: &str = "ENOENT: No such file or directory";

const GROUP: [Known; 3] = [
    required("backup-type", Kind::BackupType),
    required("backup-id", Kind::BackupId),
    optional("ns", Kind::Namespace),
];
const SNAPSHOT: [Known; 4] = [
    required("backup-type", Kind::BackupType),
    required("backup-id", Kind::BackupId),
    required("backup-time", Kind::BackupTime),
    optional("ns", Kind::Namespace),
];

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
    // A directory is read only if no group is named; a type's directory exists from its first
    // backup on.
    let there = match (kind, id) {
        (_, Some(_)) => true,
        (Some(kind), None) => store.groups.iter().any(|group| group.ns == ns && group.kind == kind),
        (None, None) => store.has_namespace(ns),
    };
    if !there {
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

/// One of very many snapshots, a hundred for each guest, as large as a real entry.
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

/// `DELETE /admin/datastore/STORE/snapshots`: removes one.
pub fn forget(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let params = Params::read(request, &[], &SNAPSHOT)?;
    let text = |name| params.text(name).unwrap_or_default();
    let (kind, guest) = (text("backup-type"), text("backup-id"));
    let time = params.int("backup-time").unwrap_or_default();
    let id = SnapshotId::new(store, params.namespace(), kind, guest, time);
    let path = acl_path(store, &id.ns);
    if !state.access.has_any(auth_id, &path, &["Datastore.Modify", "Datastore.Prune"]) {
        let missing = "missing Datastore.Modify|Datastore.Prune";
        return Err(Failure::new(403, format!("permission check failed - {missing} on {path}")));
    }
    let open = open(state, store)?;
    if !state.access.has_any(auth_id, &path, &["Datastore.Modify"]) {
        check_owner(open, &id.ns, &id.kind, &id.id, auth_id)?;
    }
    let Some((_, snapshot)) = open.snapshot(&id) else {
        return Err(Failure::new(400, NO_ENTRY));
    };
    if snapshot.protected {
        let text = "failed to delete snapshot - cannot remove protected snapshot";
        return Err(Failure::new(400, text));
    }
    if snapshot.locked || !snapshot.finished || state.tasks.iter().any(|task| task.reads(&id)) {
        let (path, lock) = (open.snapshot_path(&id), lock(&id));
        let text = format!(
            "failed to delete snapshot - while destroying snapshot {path:?}: \
             unable to acquire snapshot lock {lock:?}"
        );
        return Err(Failure::new(400, text));
    }
    state.remove_snapshot(&id);
    Ok(Reply::Data(Value::Null))
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
    match manifest_error(store, &chosen.id, snapshot) {
        Some(ManifestError::Missing(_)) => Err(no_manifest(&chosen.id)),
        Some(ManifestError::Altered(error)) => Err(Failure::new(400, error)),
        None => Ok(Reply::Data(snapshot.list_files())),
    }
}

/// The error of most calls if the manifest, or the whole snapshot, does not exist.
fn no_manifest(id: &SnapshotId) -> Failure {
    Failure::new(400, format!("manifest not found for snapshot '{id}'"))
}

/// The manifest of a snapshot that may not exist.
fn manifest(store: &Datastore, id: &SnapshotId) -> Result<Value, ManifestError> {
    let (group, snapshot) = store.snapshot(id).ok_or_else(|| missing(store, id))?;
    manifest_error(store, id, snapshot).map_or_else(|| Ok(snapshot.manifest(group)), Err)
}

/// `GET /admin/datastore/STORE/notes`
pub fn notes(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let chosen = choose(state, request, auth_id, store, &["Datastore.Audit"], &[])?;
    let manifest = manifest(open(state, store)?, &chosen.id)
        .map_err(|error| Failure::new(400, error.to_string()))?;
    let notes = manifest["unprotected"]["notes"].as_str().unwrap_or_default();
    Ok(Reply::Data(json!(notes)))
}

/// `GET /admin/datastore/STORE/group-notes`: always empty here.
pub fn group_notes(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let params = Params::read(request, &[], &GROUP)?;
    let ns = params.namespace().to_owned();
    let text = |name| params.text(name).unwrap_or_default();
    let only_own = check_rights(state, auth_id, store, &ns, &["Datastore.Audit"])?;
    let store = open(state, store)?;
    if only_own {
        check_owner(store, &ns, text("backup-type"), text("backup-id"), auth_id)?;
    }
    Ok(Reply::Data(json!("")))
}

/// `GET /admin/datastore/STORE/protected`
pub fn protected(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let chosen = choose(state, request, auth_id, store, &["Datastore.Audit"], &[])?;
    // One that is not there is not protected.
    let snapshot = open(state, store)?.snapshot(&chosen.id);
    Ok(Reply::Data(json!(snapshot.is_some_and(|(_, snapshot)| snapshot.protected))))
}

/// `GET /admin/datastore/STORE/download-decoded`: the manifest; other files are encrypted or not
/// simulated.
pub fn download_decoded(
    state: &mut State,
    request: &Request,
    auth_id: &str,
    store: &str,
) -> Outcome {
    let more = [required("file-name", Kind::Text)];
    let chosen = choose(state, request, auth_id, store, &["Datastore.Read"], &more)?;
    let manifest = manifest(open(state, store)?, &chosen.id).map_err(|error| match error {
        ManifestError::Missing(_) => no_manifest(&chosen.id),
        ManifestError::Altered(text) => Failure::new(400, text),
    })?;
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
    Ok(Reply::Other(answer.with_header("content-type", "application/octet-stream")))
}
