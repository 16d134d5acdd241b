//! The call that starts a verify.

use serde_json::json;

use super::api::{Failure, Outcome, Reply};
use super::datastore::{check_owner, check_rights, open};
use super::params::{Kind, Params, optional};
use super::plan::{Filter, Target};
use super::snapshot::SnapshotId;
use super::state::State;
use crate::http::Request;

/// `POST /admin/datastore/STORE/verify`
pub fn verify(state: &mut State, request: &Request, auth_id: &str, store: &str) -> Outcome {
    let known = [
        optional("ns", Kind::Namespace),
        optional("backup-type", Kind::BackupType),
        optional("backup-id", Kind::BackupId),
        optional("backup-time", Kind::BackupTime),
        optional("ignore-verified", Kind::Bool),
        optional("outdated-after", Kind::Int(0)),
        optional("max-depth", Kind::Int(0)),
        optional("read-threads", Kind::Int(1)),
        optional("verify-threads", Kind::Int(1)),
    ];
    let params = Params::read(request, &[], &known)?;
    let ns = params.namespace();
    let only_own = check_rights(state, auth_id, store, ns, &["Datastore.Verify"])?;
    let found = open(state, store)?;
    let target =
        match (params.text("backup-type"), params.text("backup-id"), params.int("backup-time")) {
            (Some(kind), Some(id), time) => {
                if only_own {
                    check_owner(found, ns, kind, id, auth_id)?;
                }
                match time {
                    Some(time) => Target::Snapshot(SnapshotId::new(store, ns, kind, id, time)),
                    None if state.forgets_groups => Target::Namespace(String::new()),
                    None => Target::Group(ns.to_owned(), kind.to_owned(), id.to_owned()),
                }
            }
            (None, None, None) => Target::Namespace(ns.to_owned()),
            _ => {
                let text = "parameters do not specify a backup group or snapshot";
                return Err(Failure::new(400, text));
            }
        };
    let filter = Filter {
        ignore_verified: params.flag("ignore-verified").unwrap_or(true),
        outdated_after: params.int("outdated-after"),
        owner: only_own.then(|| auth_id.to_owned()),
    };
    let upid = state.start(store, &target, filter, auth_id);
    Ok(Reply::Data(json!(upid)))
}
