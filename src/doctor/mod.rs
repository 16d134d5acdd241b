//! Finds what stands in the way of good backups on this node, and how to fix it.
//!
//! Nothing is changed, except this node's file for the other nodes ([`crate::setup::nodes`]).
//! Everything outside (programs, guests, servers, `/etc/pve`) has a time limit, and most of it is
//! asked at once.

mod ask;
mod check;
mod clock;
mod cluster;
mod guest;
mod jobs;
mod layout;
mod leftovers;
mod message;
mod messages;
mod node;
mod space;
mod state;
mod storage;
mod storage_files;
mod storage_owner;
mod storage_prune;
mod storage_rights;
mod storage_server;
mod storage_space;
mod storage_subject;
mod vzdump;

pub use ask::{Question, ask};
pub use check::{Check, Level};
pub use clock::{Clock, clock};
pub use layout::lines;
pub use message::Message;
pub use messages::ALL as MESSAGES;
pub use space::space;
pub use storage::storage;

use std::time::Duration;

use serde::Serialize;

use crate::config::Settings;
use crate::pve;
use crate::pve::node_name;
use crate::sys::Root;

/// The version of the report's shape.
pub const SCHEMA: u32 = 1;

/// The limit for each thing outside: a program of Proxmox VE takes a second to start, a wrong token
/// costs three.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The results.
///
/// As JSON: `{"schema": 1, "version": "0.1.0", "node": "pve1", "worst": "warn", "checks":
/// [{"level": "warn", "about": "guest.9001.start", "message": "...", "fix": ["stillpoint enable
/// 9001"]}]}`. `level` and `worst` are `ok`, `warn` or `fail`; `about` names what was checked and
/// never changes; `message` is for people and may change; `fix` may be empty.
#[derive(Debug, Serialize)]
pub struct Report {
    pub schema: u32,
    /// The version of Stillpoint.
    pub version: &'static str,
    pub node: String,
    pub worst: Level,
    pub checks: Vec<Check>,
}

impl Report {
    fn new(node: String, checks: Vec<Check>) -> Report {
        Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            node,
            worst: checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok),
            checks,
        }
    }

    /// 0, 1 if something warns, 2 if something fails.
    pub fn exit_status(&self) -> u8 {
        self.worst as u8
    }
}

/// Runs all checks; a check that takes longer than `limit` is reported as unanswered.
pub fn examine(root: &Root, limit: Duration) -> Report {
    let begin = |subject: &str, look: fn(&Root) -> Vec<Check>| {
        let root = root.clone();
        ask(subject, limit, move || look(&root))
    };
    let questions = [
        begin("node", node::node),
        begin("node.clock", clock::look),
        begin("node.space", space::look),
        begin("vzdump", vzdump::script),
        begin("jobs", jobs::jobs),
        begin("cluster", cluster::cluster),
        begin("guests", leftovers::leftovers),
        begin("state", state::state),
    ];
    let name = name(root, limit);
    let (settings, understood) = match settings(root, limit).answer() {
        Ok(settings) => (settings.clone(), node::settings(&settings)),
        Err(none) => (Settings::default(), none),
    };
    let metrics = {
        let (root, settings) = (root.clone(), settings.clone());
        ask("node.metrics", limit, move || node::metrics(&root, &settings))
    };
    let storages = storages(root, &settings, limit);
    let guests = guest::guests(root, &settings, limit);
    let mut checks: Vec<Check> = questions.into_iter().flat_map(Question::checks).collect();
    checks.push(understood);
    checks.extend(metrics.checks());
    checks.extend(guests);
    match storages {
        Ok(asked) => checks.extend(asked.into_iter().flat_map(Question::checks)),
        Err(none) => checks.push(none),
    }
    checks.sort_by_key(place);
    Report::new(name, checks)
}

/// Checks one storage of a backup server.
pub fn examine_storage(root: &Root, id: &str, limit: Duration) -> Report {
    let about = format!("storage.{id}");
    let found = {
        let (root, id) = (root.clone(), id.to_string());
        ask(&about, limit, move || pve::storage::find(&root, &id))
    };
    let checks = match found.answer() {
        Err(none) => vec![none],
        Ok(Err(error)) => vec![messages::NO_STORAGE_CFG.check(about, &[("reason", &error)])],
        Ok(Ok(Some(found))) if found.kind == "pbs" => {
            let settings = settings(root, limit).answer().unwrap_or_default();
            ask_storage(root, &settings, id, limit).checks()
        }
        Ok(Ok(_)) => vec![messages::OTHER_STORAGE.check(about, &[])],
    };
    Report::new(name(root, limit), checks)
}

/// The node's name is also in `/etc/pve`; empty if that does not answer.
fn name(root: &Root, limit: Duration) -> String {
    let root = root.clone();
    ask("node", limit, move || node_name(&root)).answer().unwrap_or_default()
}

/// The node first, then guest by guest, then what holds for all guests, then the storages.
fn place(check: &Check) -> (u8, u32) {
    let mut words = check.about.split('.');
    match words.next().unwrap_or_default() {
        "guest" => (1, words.next().and_then(|vmid| vmid.parse().ok()).unwrap_or(0)),
        "guests" => (2, 0),
        "storage" | "storages" => (3, 0),
        _ => (0, 0),
    }
}

fn settings(root: &Root, limit: Duration) -> Question<Settings> {
    let root = root.clone();
    ask("settings", limit, move || Settings::load(&root))
}

/// Starts the checks of each storage of a backup server; the `Err` is the check that says why there
/// is none.
fn storages(
    root: &Root,
    settings: &Settings,
    limit: Duration,
) -> Result<Vec<Question<Vec<Check>>>, Check> {
    let listed = {
        let root = root.clone();
        ask("storages", limit, move || pve::storage::read(&root))
    };
    let all = listed
        .answer()?
        .map_err(|error| messages::NO_STORAGE_CFG.check("storages", &[("reason", &error)]))?;
    let on = all.iter().filter(|storage| storage.kind == "pbs" && !storage.disabled);
    let asked: Vec<_> = on.map(|found| ask_storage(root, settings, &found.id, limit)).collect();
    if asked.is_empty() { Err(messages::NO_STORAGE.check("storages", &[])) } else { Ok(asked) }
}

fn ask_storage(
    root: &Root,
    settings: &Settings,
    id: &str,
    limit: Duration,
) -> Question<Vec<Check>> {
    let (root, settings, id) = (root.clone(), settings.clone(), id.to_string());
    let about = format!("storage.{id}");
    ask(about, limit, move || storage(&root, &settings, &id))
}
