//! What can be learnt from a server before backups are trusted to it: its certificate, its clock,
//! and the rights of the login.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::certificate::Certificate;
use super::client::{Error, Pbs, small};
use super::snapshot::{BackupType, namespace};
use super::tls;
use crate::sys::clock;
use crate::sys::http::{Client, Failure, Method, Request};

const VERSION: &str = "/api2/json/version";

/// Datastore privileges, as parts of their names.
pub const AUDIT: &str = "Datastore.Audit";
pub const BACKUP: &str = "Datastore.Backup";
pub const MODIFY: &str = "Datastore.Modify";
pub const PRUNE: &str = "Datastore.Prune";
pub const VERIFY: &str = "Datastore.Verify";

impl Pbs {
    /// The certificate that the server presents, valid or not; nothing is sent to the server after
    /// it.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if it presents none.
    pub fn certificate(&self, deadline: Instant) -> Result<Certificate, Error> {
        let seen = Arc::default();
        let config =
            tls::looking(&seen).map_err(|error| Error::Misconfigured(error.to_string()))?;
        let target = self.target();
        let client = Client::tls(&target.server, target.port, config);
        let request =
            Request { method: Method::Get, path: VERSION, headers: &[], form: None, json: None };
        let result = client.send(&request, small(deadline));
        let seen = *seen.lock().unwrap_or_else(PoisonError::into_inner);
        match (seen, result) {
            (Some(certificate), _) => Ok(certificate),
            (None, Err(failure)) => Err(Failure::into(failure)),
            (None, Ok(_)) => Err(Error::Invalid("no certificate".to_owned())),
        }
    }

    /// Logs in, and returns how far the server's clock is ahead of this node's; `None` if it does
    /// not tell the time. A difference within the time of the request does not count.
    ///
    /// # Errors
    /// As all calls.
    pub fn clock_ahead(&self, deadline: Instant) -> Result<Option<TimeDelta>, Error> {
        let before = clock::now();
        let (date, _) = self.get_dated::<IgnoredAny>(VERSION, deadline)?;
        let date = date.and_then(|date| DateTime::parse_from_rfc2822(&date).ok());
        Ok(date.map(|date| ahead(date.to_utc(), before, clock::now())))
    }

    /// The privileges of the login on this storage's datastore and namespace.
    ///
    /// # Errors
    /// As all calls.
    pub fn privileges(&self, deadline: Instant) -> Result<BTreeSet<String>, Error> {
        let path = self.target().acl_path();
        let query = [("path", path.as_str())];
        let paths: BTreeMap<String, BTreeMap<String, IgnoredAny>> =
            self.get("/api2/json/access/permissions", &query, small(deadline))?;
        Ok(paths.into_values().flat_map(BTreeMap::into_keys).collect())
    }

    /// Whether the storage's namespace exists, as far as the login may see it. An inherited right
    /// says nothing about that, and the server lists a requested namespace even if it does not
    /// exist: so the one above it is asked.
    ///
    /// # Errors
    /// As all calls.
    pub fn has_namespace(&self, deadline: Instant) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Listed {
            ns: String,
        }
        let Some(namespace) = self.target().namespace.as_deref().filter(|name| !name.is_empty())
        else {
            return Ok(true);
        };
        let mut query = vec![("max-depth", "1")];
        query.extend(namespace.rsplit_once('/').map(|(above, _)| ("parent", above)));
        let listed: Vec<Listed> =
            self.get(&self.datastore("namespace"), &query, small(deadline))?;
        Ok(listed.iter().any(|listed| listed.ns == namespace))
    }

    /// Whether the datastore can be used, and what it reports.
    ///
    /// # Errors
    /// As all calls; one under maintenance is [`Error::Refused`].
    pub fn datastore_status(&self, deadline: Instant) -> Result<DatastoreStatus, Error> {
        self.get(&self.datastore("status"), &[], small(deadline))
    }

    /// The owner of a guest's backups, if it is another login than this storage's. Such a group is
    /// in no list that this login may see; the refusal of any request about it names both.
    ///
    /// # Errors
    /// As all calls. A guest without backups is no error.
    pub fn foreign_owner(
        &self,
        backup_type: BackupType,
        backup_id: &str,
        deadline: Instant,
    ) -> Result<Option<String>, Error> {
        let mut query = vec![("backup-type", backup_type.as_str()), ("backup-id", backup_id)];
        query.extend(namespace(self.target().namespace.as_deref()));
        let path = self.datastore("group-notes");
        match self.get::<IgnoredAny>(&path, &query, small(deadline)) {
            Ok(_) | Err(Error::Refused { status: 400, .. }) => Ok(None),
            Err(error @ Error::Denied { status: 400, .. }) => {
                Ok(error.foreign_owner().map(String::from))
            }
            Err(error) => Err(error),
        }
    }
}

/// What a datastore reports. A login without the right to see the sizes gets zeros.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DatastoreStatus {
    /// Bytes that are free.
    pub avail: u64,
    /// Bytes in all.
    pub total: u64,
    backend_type: String,
}

impl DatastoreStatus {
    /// It is in an object store; a verify downloads everything that it reads from there.
    pub fn is_s3(&self) -> bool {
        self.backend_type == "s3"
    }
}

/// How far `date`, rounded down to the second, is outside of the time of the request.
fn ahead(date: DateTime<Utc>, before: DateTime<Utc>, after: DateTime<Utc>) -> TimeDelta {
    let second = TimeDelta::from_std(Duration::from_secs(1)).unwrap_or_default();
    if date > after {
        date - after
    } else if date + second < before {
        date + second - before
    } else {
        TimeDelta::zero()
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answering, deadline};
    use super::super::recorded::exchange;
    use super::*;
    use crate::sys::http::testserver::{Identity, TestServer};

    #[test]
    fn the_way_of_an_answer_is_no_difference_between_clocks() {
        let time = |text: &str| format!("2026-11-21T23:{text}Z").parse::<DateTime<Utc>>().unwrap();
        let ahead =
            |date, before, after| ahead(time(date), time(before), time(after)).num_seconds();
        assert_eq!(ahead("14:30", "14:30.9", "14:31.2"), 0);
        assert_eq!(ahead("14:30", "14:10", "14:50"), 0, "it took 40 s");
        assert_eq!(ahead("15:30", "14:30.0", "14:30.0"), 60);
        assert_eq!(ahead("13:29", "14:30.0", "14:30.0"), -60);
    }

    #[test]
    fn recorded_rights_are_understood() {
        let recorded = exchange(
            "06-verify-errors.http",
            "ACL on /datastore only: permissions?path=/datastore/felhom-spike",
        );
        let (server, mut pbs) = answering(recorded.answer());
        let held = pbs.privileges(deadline()).unwrap();
        assert_eq!(held.into_iter().collect::<Vec<_>>(), [BACKUP]);
        assert!(
            server.requests()[0].contains("/access/permissions?path=%2Fdatastore%2Ffelhom-spike ")
        );
        pbs.set_namespace(Some("pve/n100"));
        pbs.privileges(deadline()).unwrap();
        assert!(server.requests()[1].contains("%2Ffelhom-spike%2Fpve%2Fn100 "));
    }

    #[test]
    fn a_certificate_is_looked_at_without_a_word() {
        let identity = Identity::self_signed();
        let server = TestServer::start(&identity, |_| String::new());
        let pbs = super::super::client::tests::client_as("a@pbs!b", &identity, &server);
        let seen = pbs.certificate(deadline()).unwrap();
        assert_eq!(seen, Certificate::of(&identity.certificate));
        assert_eq!((server.handshakes(), server.requests().len()), (0, 0));
    }
}
