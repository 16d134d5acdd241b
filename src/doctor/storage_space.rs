//! Whether a datastore has room for the next backups.

use super::check::Check;
use super::storage_subject::Subject;
use crate::pbs::look::DatastoreStatus;
use crate::sys::Root;
use crate::verify;

/// A warning if there is too little space.
pub fn room(about: Subject<'_>, root: &Root, status: &DatastoreStatus) -> Option<Check> {
    let text = verify::shortage(root, about.id, status)?;
    Some(
        about
            .warn("space", text)
            .fix("make room on the datastore: prune there, then collect garbage"),
    )
}

/// The cost of a verify if the datastore is in an object store.
pub fn object_store(about: Subject<'_>, status: &DatastoreStatus) -> Option<Check> {
    status.is_s3().then(|| {
        about
            .warn(
                "s3",
                "the datastore lies in an S3 object store: each verify downloads the whole backup from there",
            )
            .fix(format!(
                "in /etc/pve/stillpoint/config.toml: [storage.{}.verify] with when = \"7d\", or \"never\"",
                about.id
            ))
    })
}
