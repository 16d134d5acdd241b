//! Promises that every parser of untrusted or damaged input keeps for any input.
//!
//! One function for each parser, which panics if a promise is broken. The fuzz targets call them
//! with inputs from the fuzzer, `tests/parsers.rs` with recorded and handmade samples and with
//! seeded mutations of them.

mod engine;
pub mod memory;
mod names;
mod node;
pub mod samples;
mod state;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use stillpoint::sys::{Root, text};

/// A function that accepts any bytes and panics if a promise is broken.
pub type Target = fn(&[u8]);

/// Every target by name, which is also the name of its file in `fuzz_targets` and of its directory
/// in `seeds`.
pub const ALL: [(&str, Target); 19] = [
    ("call", names::call),
    ("container", engine::container),
    ("container_list", engine::container_list),
    ("guest_config", node::guest_config),
    ("guest_edit", node::guest_edit),
    ("info", engine::info),
    ("journal", state::journal),
    ("mountinfo", engine::mountinfo),
    ("pbs_snapshots", names::pbs_snapshots),
    ("pbs_upid", names::pbs_upid),
    ("plan", engine::plan),
    ("quiesced", state::quiesced),
    ("run", state::run),
    ("settings", node::settings),
    ("storage", node::storage),
    ("target", names::target),
    ("task_log", node::task_log),
    ("text", names::text),
    ("vzdump_upid", names::vzdump_upid),
];

/// The memory that a target may use: this many times its input, plus a fixed amount. The parser of
/// an engine's answer uses far less; the rest is for the simulated node and the assertions.
const TIMES: usize = 64;
const BASE: usize = 1 << 20;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Calls the target of this name; panics if a promise is broken or it uses too much memory.
pub fn call(name: &str, input: &[u8]) {
    let found = ALL.into_iter().find(|(other, _)| *other == name);
    let Some((_, target)) = found else { panic!("there is no target {name}") };
    let ((), most) = memory::most_of(|| target(input));
    assert!(most <= BASE + TIMES * input.len(), "{most} bytes of memory for {}", input.len());
}

/// A node in a directory of its own, removed when dropped.
struct Node {
    root: Root,
    directory: PathBuf,
}

impl Node {
    fn new() -> Node {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("stillpoint-parsers-{}-{count}", std::process::id());
        // In memory if possible, because thousands of records are fsynced.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let directory = parent.join(name);
        Node { root: Root::at(&directory), directory }
    }

    /// A node with one file.
    fn with(path: &str, content: &[u8]) -> Node {
        let node = Node::new();
        node.write(path, content);
        node
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.root.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It does not exist if nothing was written.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A character that moves the cursor, changes colours, or reorders a line: a terminal must never
/// receive it.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Checks that `text` can be printed safely.
fn assert_fit_for_a_terminal(text: &str) {
    assert!(!text.contains(is_hostile), "unfit for a terminal: {text:?}");
}

/// Error texts go into the task log and the journal, so they must be short and harmless.
fn assert_short_words(text: &str) {
    // At most 500 characters, each of which may have become \u{202e}.
    assert!(text.chars().count() <= 4001, "{} characters: {text:.100}", text.chars().count());
    assert_fit_for_a_terminal(text);
}

/// Checks that `text` can be quoted in the task log.
fn assert_sayable(text: &str) {
    assert_fit_for_a_terminal(&text::printable(text, 1000));
}
