//! What the journal says last of each guest, kept so that nobody reads all of it to know that.
//!
//! `/var/lib/stillpoint/journal/checkpoint.json` is derived: it names the line up to which it is true,
//! and whoever reads takes in what came after. One that is missing, damaged, from another version, or of
//! another journal is made anew from the whole.

use anyhow::{Context, Result};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::history::History;
use crate::journal::{Journal, Position};
use crate::sys::sha256::Sha256;
use crate::sys::{Root, file};

const FILE: &str = "/var/lib/stillpoint/journal/checkpoint.json";

/// The version of what is in it: any other is made anew. To be raised when [`History`] changes.
const VERSION: u32 = 1;

/// A thousand guests have some 4 MB.
const LIMIT: u64 = 64 << 20;

/// Reading so many records costs less than writing the checkpoint.
const MOST_BEHIND: u64 = 200;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    crate_version: &'a str,
    upto: &'a Position,
    history: &'a History,
}

#[derive(Deserialize)]
struct Read {
    version: u32,
    crate_version: String,
    upto: Position,
    history: History,
}

/// The past of every guest. Who may write there also leaves a newer checkpoint, once enough was read.
pub fn history(root: &Root) -> Result<History> {
    let journal = Journal::of(root);
    let (mut history, from) = match read(root) {
        Some(known) if journal.holds(&known.upto)? => (known.history, known.upto),
        _ => (History::default(), Position::default()),
    };
    let known = history.records;
    let upto = journal.read_after(&from, |entry| {
        history.take_in(entry);
        true
    })?;
    if history.records - known >= MOST_BEHIND && !upto.is_beginning() && geteuid().is_root() {
        // What cannot be kept, as on a disk that is full, is read again next time.
        let _ = write(root, &upto, &history);
    }
    Ok(history)
}

/// The SHA-256 of the last line that the checkpoint has taken in, where there is a checkpoint.
pub fn head(root: &Root) -> Option<Sha256> {
    read(root)?.upto.head()
}

fn read(root: &Root) -> Option<Read> {
    let text = file::read(&root.path(FILE), LIMIT).ok()?;
    let known: Read = serde_json::from_slice(&text).ok()?;
    let is_ours = known.version == VERSION && known.crate_version == env!("CARGO_PKG_VERSION");
    is_ours.then_some(known)
}

fn write(root: &Root, upto: &Position, history: &History) -> Result<()> {
    let path = root.path(FILE);
    if let Some(directory) = path.parent() {
        file::own_directory(directory)?;
    }
    let crate_version = env!("CARGO_PKG_VERSION");
    let content = Written { version: VERSION, crate_version, upto, history };
    file::replace(&path, &serde_json::to_vec(&content)?, 0o600).context(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::text;

    #[test]
    fn whatever_the_checkpoint_holds_the_past_is_the_same() {
        let directory = std::env::temp_dir().join(format!("stillpoint-known-{}", text::token()));
        let root = Root::at(&directory);
        let journal = Journal::closing_at(&root, 20 << 10);
        let whole = || {
            let mut whole = History::default();
            Journal::of(&root)
                .read(|entry| {
                    whole.take_in(entry);
                    true
                })
                .unwrap();
            whole
        };
        let examples = crate::journal::examples();
        for round in 0..6_u32 {
            for (number, example) in examples.iter().cycle().take(210).enumerate() {
                let mut example = serde_json::to_value(example).unwrap();
                if let Some(vmid) = example.get_mut("vmid") {
                    // Another guest each time: of none is too much written within an hour.
                    *vmid = (10_000 + round * 1000 + u32::try_from(number).unwrap() / 8).into();
                }
                journal.append(&serde_json::from_value(example).unwrap()).unwrap();
            }
            let path = root.path(FILE);
            let open = root.path("/var/lib/stillpoint/journal.jsonl");
            match round {
                1 => std::fs::write(&path, "{}").unwrap(),
                2 => drop(std::fs::remove_file(&path)),
                3 => {
                    // The journal of another node.
                    let directory = root.path("/var/lib/stillpoint/journal");
                    let files = std::fs::read_dir(directory).unwrap().map(|it| it.unwrap().path());
                    let closed = files.filter(|it| it.extension().is_some_and(|it| it == "jsonl"));
                    closed.for_each(|it| std::fs::remove_file(it).unwrap());
                }
                4 => std::fs::write(&open, "{\"kind\":\"verify\"}\n".repeat(210)).unwrap(),
                _ => {}
            }
            assert!(history(&root).unwrap() == whole(), "{round}");
            assert_eq!(read(&root).is_some(), geteuid().is_root());
            assert!(history(&root).unwrap() == whole(), "{round}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
