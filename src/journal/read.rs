//! Reading the journal: all of it, what is behind a position, or from its end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::lines::{Backwards, LINE_LIMIT, Line, Lines, hash_between};
use super::position::{LastLine, Position};
use super::{Journal, Written};
use crate::sys::sha256::Sha256;

/// A longer record is skipped when reading from the end, in bytes; the records that are read this way
/// have a few hundred.
const LONGEST: usize = 1 << 20;

/// A line of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A record, of whatever kind and schema.
    Record(Written),
    /// A line that is no record, with its place for an admin.
    Damaged { file: PathBuf, line: u64, reason: String },
}

impl Entry {
    pub(super) fn of(path: &Path, line: &Line<'_>) -> Entry {
        let damaged =
            |reason| Entry::Damaged { file: path.to_path_buf(), line: line.number, reason };
        if line.too_long.is_some() {
            return damaged(format!("it is longer than {LINE_LIMIT} bytes"));
        }
        match serde_json::from_slice::<Value>(line.bytes) {
            Ok(value) => Written::of(value).map_or_else(
                || damaged("it is not a record: it has no kind".to_string()),
                Entry::Record,
            ),
            Err(error) => damaged(error.to_string()),
        }
    }
}

impl Journal {
    /// Passes every line to `visit`, oldest first, across all files; `visit` returns `false` to
    /// stop.
    pub fn read(&self, visit: impl FnMut(Entry) -> bool) -> Result<()> {
        self.read_after(&Position::default(), visit).map(|_| ())
    }

    /// As [`Journal::read`], the lines behind a position only; returns the position behind the last
    /// whole line that was read. The journal has to hold the position: [`Journal::holds`].
    pub fn read_after(
        &self,
        position: &Position,
        mut visit: impl FnMut(Entry) -> bool,
    ) -> Result<Position> {
        self.read_lines_after(position, |path, line| visit(Entry::of(path, line)))
    }

    /// As [`Journal::read_after`], with lines as they are; blank ones are left out.
    pub(super) fn read_lines_after(
        &self,
        position: &Position,
        mut visit: impl FnMut(&Path, &Line<'_>) -> bool,
    ) -> Result<Position> {
        let mut segments = self.segments()?;
        if position.is_beginning()
            && let Some((path, file)) = segments.carried.take()
            && !read_carried(&path, file, &mut visit)?
        {
            return Ok(position.clone());
        }
        let mut reached = Reached::default();
        for segment in segments.files() {
            let (segment, file) = segment?;
            if segment.number < position.segment {
                continue;
            }
            let in_file = || segment.path.display().to_string();
            let mut lines = match segment.number == position.segment {
                true => Lines::after(file.try_clone()?, position.line, position.offset),
                false => Lines::all(file.try_clone()?),
            }
            .with_context(in_file)?;
            let mut last = None;
            let mut goes_on = true;
            while goes_on && let Some(line) = lines.next().with_context(in_file)? {
                goes_on = line.is_blank() || visit(&segment.path, &line);
                if line.ended {
                    last = Some((line.number, line.begin, line.end));
                }
            }
            if let Some(last) = last {
                reached = Reached(Some((segment.number, file, last)));
            }
            if !goes_on {
                break;
            }
        }
        Ok(reached.position()?.unwrap_or_else(|| position.clone()))
    }

    /// The position behind the last line.
    pub fn position(&self) -> Result<Position> {
        let open = self.segments()?.open.0.number;
        self.read_lines_after(&Position::beginning_of(open), |_, _| true)
    }

    /// The SHA-256 of the last line, which ties all lines before it.
    pub fn head(&self) -> Result<Option<Sha256>> {
        Ok(self.position()?.head())
    }

    /// Whether the line before a position is still the one that it was.
    pub fn holds(&self, position: &Position) -> Result<bool> {
        let Some(last) = &position.last else { return Ok(position.is_beginning()) };
        for segment in self.segments()?.files().rev() {
            let (segment, file) = segment?;
            if segment.number == position.segment {
                let is_there = file.metadata()?.len() >= position.offset;
                let hash = hash_between(&file, last.begin, position.offset.saturating_sub(1))?;
                return Ok(is_there && hash == last.hash);
            }
        }
        Ok(false)
    }

    /// Passes the records to `visit`, newest first, across all files; `visit` returns `false` to stop.
    /// Lines that are no record, or longer than 1 MiB, are skipped: [`Journal::read`] reports damage.
    ///
    /// For questions about the recent past: the cost depends on how far back the answer is, not on
    /// the journal's length.
    pub fn read_newest_first(&self, mut visit: impl FnMut(Written) -> bool) -> Result<()> {
        self.read_lines_backwards(|line| Written::of_line(line).is_none_or(&mut visit))
    }

    /// As [`Journal::read_newest_first`], with lines as they are.
    pub(super) fn read_lines_backwards(&self, mut visit: impl FnMut(&[u8]) -> bool) -> Result<()> {
        let mut segments = self.segments()?;
        let carried = segments.carried.take().map(Ok);
        let files = segments.files().rev().map(|it| it.map(|(it, file)| (it.path, file)));
        for file in files.chain(carried) {
            let (path, file) = file?;
            let in_file = || path.display().to_string();
            let mut lines = Backwards::of(file, LONGEST).with_context(in_file)?;
            while let Some(line) = lines.next().with_context(in_file)? {
                if line.bytes.is_some_and(|line| !visit(&line)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The last whole line that was read: its file's number, the file, and its number, begin and end.
#[derive(Default)]
struct Reached(Option<(u64, File, (u64, u64, u64))>);

impl Reached {
    fn position(&self) -> io::Result<Option<Position>> {
        let Some((segment, file, (line, begin, end))) = &self.0 else { return Ok(None) };
        let hash = hash_between(file, *begin, end.saturating_sub(1))?;
        let last = Some(LastLine { begin: *begin, hash });
        Ok(Some(Position { segment: *segment, line: *line, offset: *end, last }))
    }
}

/// The first line of that file is its own.
fn read_carried(
    path: &Path,
    file: File,
    visit: &mut impl FnMut(&Path, &Line<'_>) -> bool,
) -> Result<bool> {
    let in_file = || path.display().to_string();
    let mut lines = Lines::all(file).with_context(in_file)?;
    lines.next().with_context(in_file)?;
    while let Some(line) = lines.next().with_context(in_file)? {
        if !line.is_blank() && !visit(path, &line) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Root, text};

    #[test]
    fn lines_come_newest_first_across_blocks_and_files() {
        let directory = std::env::temp_dir().join(format!("stillpoint-newest-{}", text::token()));
        let place = directory.join("var/lib/stillpoint");
        std::fs::create_dir_all(&place).unwrap();
        let line = |number: usize, length: usize| {
            format!("{{\"kind\":\"a\",\"number\":{number},\"fill\":\"{}\"}}\n", "x".repeat(length))
        };
        let old: String = (0..5).map(|number| line(number, 30_000)).collect();
        let mut new: String = (5..2000).map(|number| line(number, number % 90)).collect();
        new.push_str("torn and sealed\n\n");
        new.push_str(&line(2000, 3 << 20));
        new.push_str(&line(2001, 70_000));
        new.push_str("{\"kind\":\"a\",\"num");
        std::fs::write(place.join("journal.jsonl.1"), old).unwrap();
        std::fs::write(place.join("journal.jsonl"), new).unwrap();
        let journal = Journal::of(&Root::at(&directory));
        let mut found = Vec::new();
        let visit = |record: Written| {
            found.push(record.json["number"].as_u64().unwrap());
            found.len() < 2000
        };
        journal.read_newest_first(visit).unwrap();
        let wanted: Vec<u64> = std::iter::once(2001).chain((1..2000).rev()).collect();
        assert_eq!(found, wanted);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
