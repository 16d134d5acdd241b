//! The snapshots of a backup server, passed on one by one as they are read: the list of a whole
//! namespace may have a hundred thousand entries, and 70 MB.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::client::{Error, Pbs, printable, small};
use super::snapshot::namespace;
use super::words::NO_DIRECTORY;
use super::{BackupType, Entry, Manifest, Snapshot};
use crate::sys::http::Limit;

/// The longest list, in bytes: more than a million snapshots.
const LIST: usize = 1 << 30;
/// The longest entry of it; a real one has some 700 bytes.
const ENTRY: usize = 1 << 20;
/// The longest pause of a server that is still working.
const PAUSE: Duration = Duration::from_secs(120);
/// How many bytes are read from the connection at a time.
const PIECE: usize = 64 * 1024;

/// The wanted snapshots of a namespace: all, or those of one type, one id, or both.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    pub backup_type: Option<BackupType>,
    pub backup_id: Option<&'a str>,
}

impl Pbs {
    /// Passes on the snapshots in this storage's namespace, in no particular order, each as soon as
    /// it is read; an invalid entry is passed on as its error. Returns the number of entries. The
    /// server leaves out the snapshots of other owners without saying so, unless the user may see
    /// all.
    ///
    /// # Errors
    /// As all calls; what was passed on before is valid, and the error says how many that were.
    pub fn each_snapshot(
        &self,
        choice: Choice<'_>,
        deadline: Instant,
        each: &mut dyn FnMut(Result<Entry, String>) -> ControlFlow<()>,
    ) -> Result<usize, Error> {
        self.each_in(self.target().namespace.as_deref(), choice, deadline, each)
    }

    fn each_in(
        &self,
        ns: Option<&str>,
        choice: Choice<'_>,
        deadline: Instant,
        each: &mut dyn FnMut(Result<Entry, String>) -> ControlFlow<()>,
    ) -> Result<usize, Error> {
        let ns = namespace(ns);
        let mut query = Vec::new();
        query.extend(choice.backup_type.map(|kind| ("backup-type", kind.as_str())));
        query.extend(choice.backup_id.map(|id| ("backup-id", id)));
        query.extend(ns);
        let limit = Limit { deadline, body: LIST };
        let mut body = self.open_body(&self.datastore("snapshots"), &query, limit, PAUSE)?;

        let left = Cell::new(ENTRY);
        let bounded = Bounded { inner: BufReader::with_capacity(PIECE, &mut body), left: &left };
        let mut reading = Reading {
            left: &left,
            read: 0,
            ended: false,
            each: &mut |entry: Result<Entry, String>| {
                each(entry.map(|mut entry| {
                    entry.snapshot.namespace = ns.map(|(_, name)| name.to_owned());
                    entry
                }))
            },
        };
        let mut parser = serde_json::Deserializer::from_reader(bounded);
        let parsed = Document(&mut reading).deserialize(&mut parser).and_then(|()| {
            left.set(ENTRY);
            parser.end()
        });
        let (read, ended) = (reading.read, reading.ended);
        match parsed {
            Ok(()) => Ok(read),
            Err(_) if ended => Ok(read),
            Err(error) => Err(match body.failure() {
                Some(failure) => Error::from(failure),
                None => Error::Invalid(printable(error.to_string().as_bytes())),
            }
            .after(read)),
        }
    }

    /// The snapshots of the same guest and namespace as `of`, oldest first. The server leaves out
    /// those of other owners without saying so.
    ///
    /// # Errors
    /// As all calls.
    pub fn list(&self, of: &Snapshot, deadline: Instant) -> Result<Vec<Entry>, Error> {
        let choice = Choice { backup_type: Some(of.backup_type), backup_id: Some(&of.backup_id) };
        let mut entries = Vec::new();
        let mut odd = None;
        self.each_in(of.namespace.as_deref(), choice, deadline, &mut |entry| match entry {
            Ok(entry) => {
                entries.push(entry);
                ControlFlow::Continue(())
            }
            Err(reason) => {
                odd = Some(reason);
                ControlFlow::Break(())
            }
        })?;
        if let Some(reason) = odd {
            return Err(Error::Invalid(reason));
        }
        entries.sort_by_key(|entry| entry.snapshot.backup_time);
        Ok(entries)
    }

    /// What a refused request about a snapshot means: [`Error::Gone`] if the server has no such
    /// snapshot, else the refusal itself. The server has several texts for a missing snapshot, and
    /// one of them also means a missing manifest. A foreign owner, whose snapshots it does not list
    /// either, is [`Error::Denied`].
    pub(super) fn gone_or(&self, error: Error, snapshot: &Snapshot, deadline: Instant) -> Error {
        if !matches!(error, Error::Refused { status: 400..500, .. }) || error.not_now().is_some() {
            return error;
        }
        // A manifest that cannot be loaded exists, and so does its snapshot.
        if let Some(Manifest::Damaged(_) | Manifest::Unreadable(_)) = Manifest::of_refusal(&error) {
            return error;
        }
        let there = self.is_there(snapshot, deadline).or_else(|| {
            let entries = self.list(snapshot, deadline).ok()?;
            Some(entries.iter().any(|entry| entry.snapshot == *snapshot))
        });
        if there != Some(false) {
            return error;
        }
        // Without its directory a datastore looks like an empty one.
        match self.datastore_status(deadline) {
            Err(refused @ Error::Refused { .. }) if refused.not_now().is_some() => refused,
            Err(Error::Refused { status, reason }) => {
                Error::Refused { status, reason: format!("{NO_DIRECTORY}: {reason}") }
            }
            _ => Error::Gone,
        }
    }

    /// Whether a snapshot exists, by one small request; `None` if the answer does not show it.
    fn is_there(&self, snapshot: &Snapshot, deadline: Instant) -> Option<bool> {
        let time = snapshot.backup_time.to_string();
        let fields = snapshot.fields(&time);
        match self.get::<IgnoredAny>(&self.datastore("files"), &fields, small(deadline)) {
            Ok(_) => Some(true),
            Err(error) if Manifest::of_refusal(&error).is_some() => Some(true),
            Err(Error::Refused { reason, .. }) if reason.starts_with("ENOENT") => Some(false),
            Err(_) => None,
        }
    }
}

impl Error {
    /// The same error, with the number of entries that were read before it.
    fn after(self, read: usize) -> Error {
        let told = |reason: String| match read {
            0 => reason,
            1 => format!("{reason} (after 1 snapshot was read)"),
            _ => format!("{reason} (after {read} snapshots were read)"),
        };
        match self {
            Error::Unreachable { reason, unsent } => {
                Error::Unreachable { reason: told(reason), unsent }
            }
            Error::Invalid(reason) => Error::Invalid(told(reason)),
            other => other,
        }
    }
}

/// Passes on a limited number of bytes; the limit starts again with each entry.
struct Bounded<'a, R> {
    inner: R,
    left: &'a Cell<usize>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.left.get());
        if room == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!("an entry has more than {ENTRY} bytes")));
        }
        let read = self.inner.read(buffer.get_mut(..room).unwrap_or_default())?;
        self.left.set(self.left.get() - read);
        Ok(read)
    }
}

/// The progress of reading a list.
struct Reading<'a> {
    left: &'a Cell<usize>,
    read: usize,
    /// Whether the receiver has asked to stop.
    ended: bool,
    each: &'a mut dyn FnMut(Result<Entry, String>) -> ControlFlow<()>,
}

/// `{"data":[...]}`
struct Document<'a, 'b>(&'a mut Reading<'b>);

/// `[...]`
struct Entries<'a, 'b>(&'a mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for Document<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list of snapshots as data")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "data" && !found {
                found = true;
                map.next_value_seed(Entries(&mut *self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            self.0.left.set(ENTRY);
        }
        if found { Ok(()) } else { Err(A::Error::missing_field("data")) }
    }
}

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of snapshots")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        // First taken as text, so that an invalid entry does not end the list.
        while let Some(text) = entries.next_element::<Box<RawValue>>()? {
            self.0.left.set(ENTRY);
            self.0.read += 1;
            let entry = super::client::json(text.get().as_bytes()).map_err(|error| match error {
                Error::Invalid(reason) => reason,
                other => other.to_string(),
            });
            if (self.0.each)(entry).is_break() {
                self.0.ended = true;
                return Err(A::Error::custom("enough"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
