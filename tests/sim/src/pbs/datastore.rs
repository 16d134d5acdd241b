//! Calls about datastores themselves, and the checks that every call on a datastore begins with.

use std::collections::BTreeSet;

use serde_json::json;

use super::access::owns;
use super::api::{Failure, Outcome, Reply};
use super::params::{Kind, Params, optional};
use super::state::State;
use super::store::{Datastore, Maintenance};
use crate::http::Request;

const LIST: [&str; 2] = ["Datastore.Audit", "Datastore.Backup"];
/// With any of these, a login can see that a datastore exists.
const SEE: [&str; 4] =
    ["Datastore.Audit", "Datastore.Backup", "Datastore.Modify", "Datastore.Read"];

/// The access control path of a namespace.
pub fn acl_path(store: &str, ns: &str) -> String {
    let separator = if ns.is_empty() { "" } else { "/" };
    format!("/datastore/{store}{separator}{ns}")
}

/// Refuses logins that have neither the full right nor the right that counts for owners; returns
/// whether they may touch only their own backups.
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

/// A datastore that can be read.
pub fn open<'a>(state: &'a State, store: &str) -> Result<&'a Datastore, Failure> {
    let found = state.datastores.get(store);
    let found = found.ok_or_else(|| Failure::new(400, format!("no such datastore '{store}'")))?;
    let refusal = found.maintenance.as_ref().and_then(|maintenance| maintenance.refusal(store));
    refusal.map_or(Ok(found), |text| Err(Failure::new(400, text)))
}

/// Refuses a login that does not own the group.
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
            Some(Maintenance::Unmounting) => {
                entry["maintenance"] = json!("unmount");
                entry["mount-status"] = json!("mounted");
            }
            Some(Maintenance::Deleting) => entry["maintenance"] = json!("delete"),
            Some(Maintenance::NotMounted) => entry["mount-status"] = json!("notmounted"),
            Some(Maintenance::Refresh(text)) => {
                entry["maintenance"] = json!(format!("type=s3-refresh,message={text}"));
            }
            Some(Maintenance::NoDirectory | Maintenance::Vanished) | None => {}
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
    if store.maintenance == Some(Maintenance::Vanished) {
        return Err(Failure::new(400, "ENOENT: No such file or directory"));
    }
    let [total, used, avail] = if numbers { store.space } else { [0; 3] };
    Ok(Reply::Data(json!({
        "avail": avail,
        "backend-type": store.backend,
        "total": total,
        "used": used,
    })))
}

/// `GET /admin/datastore/STORE/namespace`
pub fn namespaces(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let known = [optional("parent", Kind::Namespace), optional("max-depth", Kind::Int(0))];
    let params = Params::read(request, &[], &known)?;
    let parent = params.text("parent").unwrap_or_default();
    let depth = usize::try_from(params.int("max-depth").unwrap_or(7)).unwrap_or(7);
    // A namespace is visible if a right is held on it; a right further below does not show those
    // above.
    let sees = |ns: &str| state.access.has_any(auth_id, &acl_path(store, ns), &SEE);
    let known = state.datastores.get(store);
    let namespaces = known.iter().flat_map(|store| store.namespaces.iter().map(String::as_str));
    let below = |ns: &&str| {
        let rest = if parent.is_empty() {
            Some(*ns)
        } else {
            ns.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/'))
        };
        rest.is_some_and(|rest| rest.split('/').count() <= depth)
    };
    // The requested namespace is listed even if it does not exist.
    let all: BTreeSet<&str> = std::iter::once(parent).chain(namespaces.filter(below)).collect();
    let seen: Vec<&str> = all.into_iter().filter(|ns| sees(ns)).collect();
    if seen.is_empty() {
        return Err(Failure::new(403, "permission check failed"));
    }
    open(state, store)?;
    Ok(Reply::Data(seen.into_iter().map(|ns| json!({ "ns": ns })).collect()))
}
