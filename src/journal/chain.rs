//! Whether the journal is as it was written: every record carries the hash of the line before it.
//!
//! What is changed, cut out or swapped afterwards breaks the chain there. Lines that are cut off at the end break
//! nothing: only a head that was kept elsewhere shows that they are gone. Who may write to this node's files
//! and knows that, can write a chain anew from any line on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::lines::{Line, Lines};
use super::link::Link;
use super::{Journal, Removed};
use crate::sys::sha256::Sha256;

/// How many findings are kept: whoever tampers with more has tampered enough.
const MOST: usize = 100;

/// How many numbers of missing records are remembered, to find them in another place.
const MOST_MISSING: u64 = 10_000;

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    /// From 1.
    pub line: u64,
}

/// How the chain is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Break {
    /// This line is not the one that its successor follows on.
    Changed(Place),
    /// Records, by their numbers, are missing before this line.
    CutOut { first: u64, last: u64, before: Place },
    /// This record, by its number, does not stand where it was written.
    Swapped { number: u64, at: Place },
    /// This line was not there when its successor was written.
    Inserted(Place),
    /// What was before this line, the first one, is gone, and no record tells of its removal.
    NoBeginning(Place),
    /// The line with this hash, which was there once, is not there: it was changed, or cut off with all behind it.
    NoSuchLine(String),
}

/// What a check of the chain found.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Records that are tied to the line before them.
    pub records: u64,
    /// Those of a version that did not tie them yet.
    pub untied: u64,
    /// Lines that a power cut or a full disk left unfinished: the chain goes on behind them.
    pub torn: u64,
    /// The first of them.
    pub first_torn: Option<Place>,
    /// The first of what is broken; at most 100.
    pub breaks: Vec<Break>,
    /// The hash of the last line.
    pub head: Option<Sha256>,
    /// The number of the record with the hash that was looked for.
    pub found: Option<u64>,
}

impl Journal {
    /// Checks the whole chain. `kept` are hashes of lines, or their first digits, that were written down elsewhere.
    pub fn check_chain(&self, kept: &[String]) -> Result<Chain> {
        let mut check = Check { missing_heads: kept.to_vec(), ..Check::default() };
        for segment in self.segments()?.files() {
            let (segment, file) = segment?;
            let in_file = || segment.path.display().to_string();
            let mut lines = Lines::all(file).with_context(in_file)?;
            while let Some(line) = lines.next().with_context(in_file)? {
                if !line.is_blank() {
                    check.line(&segment.path, &line);
                }
            }
        }
        Ok(check.end())
    }
}

#[derive(Default)]
struct Check {
    chain: Chain,
    last: Option<Last>,
    /// The last record that stood where it belongs: its number and the hash of its line.
    in_order: Option<(u64, Sha256)>,
    missing: BTreeSet<u64>,
    /// What the first line follows on, where that was removed.
    beginning: Option<(Sha256, Place)>,
    missing_heads: Vec<String>,
}

/// The line before.
struct Last {
    hash: Sha256,
    place: Place,
    /// It is a record that stands in another place than its own.
    is_displaced: bool,
    /// It is no record.
    is_unreadable: bool,
}

impl Check {
    fn line(&mut self, path: &Path, line: &Line<'_>) {
        let hash = line.hash();
        let place = || Place { file: path.to_path_buf(), line: line.number };
        let link = Link::of(line.bytes);
        let (mut is_displaced, mut is_unreadable) = (false, false);
        match link {
            Some(link) => is_displaced = self.record(link, hash, &place),
            None if is_record(line.bytes) => self.chain.untied += 1,
            None => {
                self.chain.torn += 1;
                self.chain.first_torn.get_or_insert_with(&place);
                is_unreadable = true;
            }
        }
        self.look_for(hash, link);
        if let Some(removed) = removed(line.bytes)
            && self.beginning.as_ref().is_some_and(|(hash, _)| *hash == removed.last)
        {
            self.beginning = None;
        }
        self.last = Some(Last { hash, place: place(), is_displaced, is_unreadable });
    }

    /// Whether the record stands in another place than its own.
    fn record(&mut self, link: Link, hash: Sha256, place: &dyn Fn() -> Place) -> bool {
        self.chain.records += 1;
        match self.last.take() {
            None if link.prev != Sha256::of(b"") => self.beginning = Some((link.prev, place())),
            None => {}
            Some(last) if last.hash == link.prev => {}
            Some(_) if self.missing.remove(&link.seq) => {
                self.found(Break::Swapped { number: link.seq, at: place() });
                return true;
            }
            Some(last) => {
                let broken = self.how_broken(link, &last, place);
                broken.into_iter().for_each(|found| self.found(found));
            }
        }
        self.in_order = Some((link.seq, hash));
        false
    }

    /// What became of the line before a record that follows on another one.
    fn how_broken(&mut self, link: Link, last: &Last, place: &dyn Fn() -> Place) -> Option<Break> {
        // The line before is no whole record any more; or was put in before this one.
        if last.is_unreadable {
            self.chain.torn -= 1;
            self.chain.first_torn.take_if(|torn| *torn == last.place);
        }
        let Some((number, in_order)) = self.in_order else {
            return Some(Break::Changed(last.place.clone()));
        };
        let step = link.seq.saturating_sub(number);
        match step {
            1 if in_order == link.prev && last.is_displaced => None,
            0 => Some(Break::Inserted(last.place.clone())),
            1 if in_order == link.prev => Some(Break::Inserted(last.place.clone())),
            1 => Some(Break::Changed(last.place.clone())),
            2 if last.is_unreadable => Some(Break::Changed(last.place.clone())),
            _ => {
                let (first, last) = (number.saturating_add(1), link.seq.saturating_sub(1));
                let some = usize::try_from(MOST_MISSING).unwrap_or(0);
                self.missing.extend((first..=last).take(some));
                Some(Break::CutOut { first, last, before: place() })
            }
        }
    }

    fn found(&mut self, found: Break) {
        if self.chain.breaks.len() < MOST {
            self.chain.breaks.push(found);
        }
    }

    fn look_for(&mut self, hash: Sha256, link: Option<Link>) {
        if !self.missing_heads.is_empty() {
            let text = hash.to_string();
            let before = self.missing_heads.len();
            self.missing_heads.retain(|head| !text.starts_with(head.as_str()));
            if self.missing_heads.len() < before {
                self.chain.found = link.map(|link| link.seq);
            }
        }
    }

    fn end(mut self) -> Chain {
        // Records that stand in another place are not cut out.
        let missing = std::mem::take(&mut self.missing);
        self.chain.breaks.retain(|found| match found {
            Break::CutOut { first, last, .. } => {
                last - first >= MOST_MISSING || missing.range(first..=last).next().is_some()
            }
            _ => true,
        });
        if let Some((_, place)) = self.beginning.take() {
            self.found(Break::NoBeginning(place));
        }
        for head in std::mem::take(&mut self.missing_heads) {
            self.found(Break::NoSuchLine(head));
        }
        self.chain.head = self.last.map(|last| last.hash);
        self.chain
    }
}

fn is_record(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "kind")]
        _kind: String,
    }
    serde_json::from_slice::<Kind>(line).is_ok()
}

/// The record of a removal; what is too short or begins otherwise is not parsed.
fn removed(line: &[u8]) -> Option<Removed> {
    const KIND: &[u8] = b"\"kind\":\"removed\"";
    let beginning = line.get(..100.min(line.len()))?;
    beginning.windows(KIND.len()).any(|window| window == KIND).then_some(())?;
    serde_json::from_slice(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{LeftOut, Record};
    use crate::sys::{Root, text};
    use crate::vzdump::Vmid;

    struct Node(PathBuf, Journal);

    impl Node {
        /// With ten records in several files.
        fn new() -> Node {
            let directory =
                std::env::temp_dir().join(format!("stillpoint-chain-{}", text::token()));
            let root = Root::at(&directory);
            let node = Node(directory, Journal::closing_at(&root, 700));
            (0..10).for_each(|number| node.append(number));
            assert!(node.files().len() > 2, "{:?}", node.files());
            node
        }

        fn append(&self, number: u64) {
            let since = "2026-11-21T23:22:50.000Z".to_string();
            let record = LeftOut { vmid: Vmid(9001), since, records: number };
            self.1.append(&Record::LeftOut(record)).unwrap();
        }

        fn files(&self) -> Vec<PathBuf> {
            let files = self.1.segments().unwrap().files();
            files.map(|file| file.unwrap().0.path).collect()
        }

        fn lines(&self) -> Vec<(PathBuf, String)> {
            let mut lines = Vec::new();
            for file in self.files() {
                let text = std::fs::read_to_string(&file).unwrap();
                lines.extend(text.lines().map(|line| (file.clone(), line.to_string())));
            }
            lines
        }

        fn write(&self, lines: &[(PathBuf, String)]) {
            for file in self.files() {
                let of_file = lines.iter().filter(|(path, _)| *path == file);
                let text: String = of_file.map(|(_, line)| format!("{line}\n")).collect();
                std::fs::write(&file, text).unwrap();
            }
        }

        fn breaks(&self) -> Vec<Break> {
            self.1.check_chain(&[]).unwrap().breaks
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_journal_that_nobody_touched_is_sound_across_its_files() {
        let node = Node::new();
        let chain = node.1.check_chain(&[]).unwrap();
        assert_eq!((chain.records, chain.untied, chain.breaks), (10, 0, Vec::new()));
        assert_eq!(chain.torn, 0);
        assert_eq!(chain.head, Some(Sha256::of(node.lines()[9].1.as_bytes())));
    }

    #[test]
    fn a_line_that_was_changed_cut_out_or_inserted_is_named_wherever_it_is() {
        for at in 0..9 {
            let node = Node::new();
            let lines = node.lines();
            let mut changed = lines.clone();
            changed[at].1 = changed[at].1.replace("\"vmid\":9001", "\"vmid\":9002");
            node.write(&changed);
            let breaks = node.breaks();
            let [Break::Changed(place)] = breaks.as_slice() else { panic!("{at}: {breaks:?}") };
            assert_eq!(place.file, lines[at].0);

            let mut broken = lines.clone();
            broken[at].1 = "{".into();
            node.write(&broken);
            let breaks = node.breaks();
            assert!(matches!(breaks.as_slice(), [Break::Changed(_)]), "{breaks:?}");

            let mut copied = lines.clone();
            copied.insert(at + 1, lines[at].clone());
            node.write(&copied);
            let breaks = node.breaks();
            assert!(matches!(breaks.as_slice(), [Break::Inserted(_)]), "{at}: {breaks:?}");

            let mut forged = lines.clone();
            forged.insert(at + 1, (lines[at].0.clone(), "{\"kind\":\"backup\"}".into()));
            node.write(&forged);
            let breaks = node.breaks();
            assert!(matches!(breaks.as_slice(), [Break::Inserted(_)]), "{at}: {breaks:?}");

            let mut cut = lines.clone();
            cut.remove(at);
            node.write(&cut);
            let number = at as u64 + 1;
            match node.breaks().as_slice() {
                [Break::NoBeginning(_)] if at == 0 => {}
                [Break::CutOut { first, last, .. }] => {
                    assert_eq!((*first, *last), (number, number))
                }
                other => panic!("{at}: {other:?}"),
            }
        }
    }

    #[test]
    fn two_lines_that_were_swapped_are_told_as_that() {
        for at in 1..8 {
            let node = Node::new();
            let mut lines = node.lines();
            let (one, other) = (lines[at].1.clone(), lines[at + 1].1.clone());
            lines[at].1 = other;
            lines[at + 1].1 = one;
            node.write(&lines);
            let breaks = node.breaks();
            let [Break::Swapped { number, .. }] = breaks.as_slice() else { panic!("{breaks:?}") };
            assert_eq!(*number, at as u64 + 1);
        }
    }

    #[test]
    fn lines_cut_off_at_the_end_are_found_by_a_head_that_was_kept() {
        let node = Node::new();
        let head = node.1.check_chain(&[]).unwrap().head.unwrap().to_string();
        let lines = node.lines();
        node.write(&lines[..8]);
        assert_eq!(node.breaks(), []);
        let against = |head: &str| node.1.check_chain(&[head.to_string()]).unwrap();
        assert_eq!(against(&head[..16]).breaks, [Break::NoSuchLine(head[..16].to_string())]);
        node.write(&lines);
        node.append(10);
        let chain = against(&head[..16]);
        assert_eq!((chain.breaks, chain.found), (Vec::new(), Some(10)));
    }

    #[test]
    fn a_line_that_a_power_cut_tore_is_no_tampering_at_any_byte() {
        let node = Node::new();
        let open = node.files().pop().unwrap();
        let text = std::fs::read(&open).unwrap();
        let before =
            text[..text.len() - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for length in before..text.len() {
            std::fs::write(&open, &text[..length]).unwrap();
            node.append(100 + length as u64);
            let chain = node.1.check_chain(&[]).unwrap();
            assert_eq!(chain.breaks, [], "{length}");
            let torn = u64::from(length > before && length < text.len() - 1);
            assert_eq!(chain.torn, torn, "{length} of {}", text.len());
        }
    }

    #[test]
    fn behind_the_journal_of_an_earlier_version_the_chain_begins() {
        let node = Node::new();
        let old: Vec<(PathBuf, String)> = node
            .lines()
            .into_iter()
            .map(|(file, line)| {
                let end = line.find(",\"seq\"").unwrap();
                (file, format!("{}}}", &line[..end]))
            })
            .collect();
        node.write(&old);
        // As an older hook that is still at work during an upgrade.
        let open = node.files().pop().unwrap();
        node.append(10);
        let text = std::fs::read_to_string(&open).unwrap();
        std::fs::write(&open, format!("{text}{}\n", old[0].1)).unwrap();
        node.append(11);
        let chain = node.1.check_chain(&[]).unwrap();
        assert_eq!((chain.records, chain.untied, chain.breaks), (2, 11, Vec::new()));
        node.write(&old[1..]);
        node.append(12);
        assert_eq!(node.breaks(), []);
    }
}
