//! Tasks of a backup server: starting and polling a verify, and reading its log.
//!
//! A task that ends with `OK` has proved nothing: what counts is the snapshot's own state
//! afterwards, with this task's UPID or one that started no earlier (FACTS-PBS.md, Verify).

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::client::{Error, Pbs, small};
use super::{Ending, Snapshot};
use crate::sys::text::percent_encoded;

/// How many tasks are listed, of about 350 bytes each; running ones and the newest ended ones come
/// first.
const TASKS: u32 = 200;

/// How many lines of a log are read at a time, and in all: more than the verify of a group with
/// 50,000 snapshots writes.
const PAGE: usize = 1000;
const MOST_LINES: usize = 400_000;

/// The kind of a task that verifies one group.
const GROUP_VERIFY: &str = "verify_group";

/// Parts of the relevant lines.
const TELLING: [&str; 3] = ["SKIPPED: ", " failed: ", " error: "];

/// The unique id of a task, such as
/// `UPID:vm:00005DF6:00029750:00000004:6B02265A:verify_snapshot:tank\x3a-ct-9001-6B0225DA:felhom@pbs!n100:`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upid {
    text: String,
    node: String,
    /// `verify_snapshot`, `verify_group`, `verify`, ...
    kind: String,
    /// The datastore, if the task is about one.
    datastore: Option<String>,
    /// The server's process (pid and start time), and its counter of tasks.
    process: (u64, u64),
    number: u64,
    started: i64,
}

/// The text is not a UPID.
#[derive(Debug, PartialEq, Eq)]
pub struct NoUpid;

impl fmt::Display for NoUpid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a task id of a backup server (UPID:NODE:PID:PSTART:TASK:START:TYPE:ID:USER:)",
        )
    }
}

impl std::error::Error for NoUpid {}

impl Upid {
    /// The name of the node that runs the task.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The type of the task, in the server's word.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The datastore of the task; `None` if its id begins with none. A sync copies verify states,
    /// so a snapshot may have a task of another datastore.
    pub fn datastore(&self) -> Option<&str> {
        self.datastore.as_deref()
    }

    /// When the task started, by the server's clock, in seconds since the epoch.
    pub fn started(&self) -> i64 {
        self.started
    }

    /// Whether it started no earlier than another task of the same server. Within one second, or
    /// after the clock was set back, the counter of the server's process decides.
    pub fn is_no_earlier_than(&self, other: &Upid) -> bool {
        self.started >= other.started
            && (self.process != other.process || self.number >= other.number)
    }

    /// Whether it ran on the same node, for the same datastore. A sync copies results from
    /// elsewhere.
    pub fn is_of_the_same_place(&self, other: &Upid) -> bool {
        self.node == other.node && self.datastore == other.datastore
    }

    /// The verbatim text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path of a request about this task. The server accepts any plain name of a node, but none
    /// with a dot; `localhost` was seen to answer `unknown` on 4.2.1, so it is the last resort.
    pub(super) fn path(&self, call: &str) -> String {
        let node = match self.node.as_str() {
            dotted if dotted.contains('.') => "localhost",
            plain => plain,
        };
        let (node, upid) = (percent_encoded(node), percent_encoded(&self.text));
        format!("/api2/json/nodes/{node}/tasks/{upid}/{call}")
    }
}

impl FromStr for Upid {
    type Err = NoUpid;

    fn from_str(text: &str) -> Result<Upid, NoUpid> {
        let parts: Vec<&str> = text.split(':').collect();
        let ["UPID", node, pid, pstart, task, start, kind, id, user, ""] = parts.as_slice() else {
            return Err(NoUpid);
        };
        let hex = |digits: &str| {
            let plain = digits.len() >= 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let words = [node, kind, user].iter().all(|word| !word.is_empty());
        let printable = !text.chars().any(|character| character.is_control());
        let started = hex(start).and_then(|start| i64::try_from(start).ok());
        match (hex(pid), hex(pstart), hex(task), started) {
            (Some(pid), Some(pstart), Some(number), Some(started)) if words && printable => {
                let (text, node) = (text.to_owned(), (*node).to_owned());
                let (datastore, process) = (datastore_of(id), (pid, pstart));
                let kind = (*kind).to_owned();
                Ok(Upid { text, node, kind, datastore, process, number, started })
            }
            _ => Err(NoUpid),
        }
    }
}

/// The datastore in a task's id, such as `tank\x3a-ct-9001-6B0225DA`; special characters are
/// escaped as in a unit's name.
fn datastore_of(id: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = id;
    while let Some(letter) = rest.chars().next() {
        let code = rest.strip_prefix("\\x").and_then(|rest| rest.get(..2));
        let (letter, length) = match code.map(|code| u8::from_str_radix(code, 16)) {
            Some(Ok(byte)) if byte.is_ascii() => (char::from(byte), 4),
            _ => (letter, letter.len_utf8()),
        };
        if letter == ':' {
            break;
        }
        name.push(letter);
        rest = rest.get(length..)?;
    }
    (!name.is_empty()).then_some(name)
}

impl TryFrom<String> for Upid {
    type Error = NoUpid;

    fn try_from(text: String) -> Result<Upid, NoUpid> {
        text.parse()
    }
}

impl From<Upid> for String {
    fn from(upid: Upid) -> String {
        upid.text
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The state of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStatus {
    Running,
    /// Over, or never known to the server.
    Stopped(Ending),
}

impl Pbs {
    /// Starts a verify of one snapshot, whatever its last state was.
    ///
    /// # Errors
    /// As all calls; if the guest has no snapshot at all, [`Error::Gone`]. After an
    /// [`Error::Unreachable`] that is not `unsent`, the verify may be running.
    pub fn start_verify(&self, snapshot: &Snapshot, deadline: Instant) -> Result<Upid, Error> {
        // Without all three fields the server would verify the whole group or datastore.
        if snapshot.backup_id.is_empty() || snapshot.backup_time <= 0 {
            return Err(Error::Misconfigured(format!("{snapshot} is not a snapshot")));
        }
        let time = snapshot.backup_time.to_string();
        let mut form = snapshot.fields(&time);
        // It defaults to true, and then skips even a snapshot whose last verify failed.
        form.push(("ignore-verified", "0"));
        self.post(&self.datastore("verify"), &form, small(deadline))
            .map_err(|error| self.gone_or(error, snapshot, deadline))
    }

    /// Starts a verify of all snapshots of a snapshot's group, whatever their last states were:
    /// shared data is read once.
    ///
    /// # Errors
    /// As [`Pbs::start_verify`]. If the server started anything other than the verify of a group of
    /// this datastore, that is stopped, and the error is [`Error::Invalid`].
    pub fn start_group_verify(&self, of: &Snapshot, deadline: Instant) -> Result<Upid, Error> {
        // Without both the server would verify the whole datastore.
        if of.backup_id.is_empty() || of.backup_type.as_str().is_empty() {
            return Err(Error::Misconfigured(format!("{of} is in no group")));
        }
        let mut form = of.group_fields();
        form.push(("ignore-verified", "0"));
        let upid: Upid = self
            .post(&self.datastore("verify"), &form, small(deadline))
            .map_err(|error| self.gone_or(error, of, deadline))?;
        if upid.kind == GROUP_VERIFY && upid.datastore() == Some(&self.target().datastore) {
            return Ok(upid);
        }
        let stopped = match self.stop_task(&upid, deadline) {
            Ok(()) => "it was stopped".to_owned(),
            Err(error) => format!("it could not be stopped: {error}"),
        };
        let text = format!(
            "asked to verify one group, the server began something else ({upid}); {stopped}"
        );
        Err(Error::Invalid(super::client::printable(text.as_bytes())))
    }

    /// Stops one of this login's own tasks.
    ///
    /// # Errors
    /// As all calls.
    pub fn stop_task(&self, upid: &Upid, deadline: Instant) -> Result<(), Error> {
        self.delete(upid.path("").trim_end_matches('/'), small(deadline))
    }

    /// The state of a task.
    ///
    /// # Errors
    /// As all calls.
    pub fn status(&self, upid: &Upid, deadline: Instant) -> Result<TaskStatus, Error> {
        #[derive(Deserialize)]
        struct Status {
            status: String,
            exitstatus: Option<String>,
        }
        let status: Status = self.get(&upid.path("status"), &[], small(deadline))?;
        match status.status.as_str() {
            "running" => Ok(TaskStatus::Running),
            "stopped" => {
                let exitstatus = status.exitstatus.unwrap_or_else(|| "unknown".to_owned());
                Ok(TaskStatus::Stopped(exitstatus.into()))
            }
            other => {
                let text = format!("task status {other}");
                Err(Error::Invalid(super::client::printable(text.as_bytes())))
            }
        }
    }

    /// A task that verifies this very snapshot, started at `since` (seconds since 1970) or later,
    /// by anybody: a running one, else the latest. A datastore with `verify-new` starts one itself
    /// when the backup ends.
    ///
    /// One request, whatever the size of the datastore: a token sees its own tasks, a user also
    /// those of its tokens.
    ///
    /// # Errors
    /// As all calls.
    pub fn verify_task(
        &self,
        snapshot: &Snapshot,
        since: i64,
        deadline: Instant,
    ) -> Result<Option<Upid>, Error> {
        let names = worker_ids(&self.target().datastore, snapshot);
        self.task_about(&["verify", "verify_snapshot"], &names, since, deadline)
    }

    /// The same for a task that verifies the group of a snapshot.
    ///
    /// # Errors
    /// As all calls.
    pub fn group_verify_task(
        &self,
        of: &Snapshot,
        since: i64,
        deadline: Instant,
    ) -> Result<Option<Upid>, Error> {
        let name = group_worker_id(&self.target().datastore, of);
        self.task_about(&[GROUP_VERIFY], &[name], since, deadline)
    }

    fn task_about(
        &self,
        kinds: &[&str],
        names: &[String],
        since: i64,
        deadline: Instant,
    ) -> Result<Option<Upid>, Error> {
        #[derive(Deserialize)]
        struct Task {
            upid: String,
            worker_type: String,
            worker_id: Option<String>,
            /// Only if the task has ended.
            status: Option<String>,
        }
        let since = since.max(0).to_string();
        let limit = TASKS.to_string();
        let query = [("typefilter", "verify"), ("since", &since), ("limit", &limit)];
        // The node's name is not known from a task yet, and the list does not depend on it.
        let path = "/api2/json/nodes/localhost/tasks";
        let tasks: Vec<Task> = self.get(path, &query, small(deadline))?;
        let ours = |task: &&Task| {
            kinds.contains(&task.worker_type.as_str())
                && task.worker_id.as_ref().is_some_and(|id| names.contains(id))
        };
        let found: Vec<(bool, Upid)> = tasks
            .iter()
            .filter(ours)
            .filter_map(|task| Some((task.status.is_none(), task.upid.parse().ok()?)))
            .collect();
        let best = found.into_iter().max_by_key(|(runs, upid)| (*runs, upid.started()));
        Ok(best.map(|(_, upid)| upid))
    }

    /// The lines of a verify's log about snapshots that were skipped, are damaged, or could not be
    /// loaded or written. The log of a large group has a hundred thousand other lines.
    ///
    /// # Errors
    /// As all calls; a task that the server never knew is [`Error::Refused`].
    pub fn telling_log(&self, upid: &Upid, deadline: Instant) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Line {
            t: String,
        }
        let tells = |line: &Line| TELLING.iter().any(|word| line.t.contains(word));
        let (mut telling, mut read) = (Vec::new(), 0);
        let limit = PAGE.to_string();
        while read < MOST_LINES {
            // The server counts lines from 1.
            let start = (read + 1).to_string();
            let query = [("start", start.as_str()), ("limit", &limit)];
            let lines: Vec<Line> = self.get(&upid.path("log"), &query, small(deadline))?;
            let last = lines.len() < PAGE;
            read += lines.len();
            telling.extend(lines.into_iter().filter(tells).map(|line| line.t));
            if last {
                break;
            }
        }
        Ok(telling)
    }
}

/// The id of a task that verifies one snapshot: if it was requested, and if the server started it
/// itself, without the namespace.
fn worker_ids(datastore: &str, snapshot: &Snapshot) -> [String; 2] {
    let (kind, id) = (snapshot.backup_type.as_str(), &snapshot.backup_id);
    let time = snapshot.backup_time;
    [
        format!("{}/{time:08X}", group_worker_id(datastore, snapshot)),
        format!("{datastore}:{kind}/{id}/{time:08X}"),
    ]
}

/// The id of a task that verifies a group.
fn group_worker_id(datastore: &str, of: &Snapshot) -> String {
    let levels = of.namespace.iter().flat_map(|name| name.split('/'));
    let levels: Vec<String> =
        levels.filter(|level| !level.is_empty()).map(|level| format!("ns/{level}")).collect();
    format!("{datastore}:{}/{}/{}", levels.join("/"), of.backup_type.as_str(), of.backup_id)
}

#[cfg(test)]
mod tests;
