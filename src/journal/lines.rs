//! The lines of a file of the journal, forwards or backwards, whatever is in it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use crate::sys::sha256::{Hasher, Sha256};

/// The longest line read; a longer one is damage. A record of any run that can be stored is shorter.
pub(super) const LINE_LIMIT: u64 = 32 << 20;

/// How much is read at a time, in bytes.
const BLOCK: u64 = 64 << 10;

/// A line of a file, with its place.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// Without its end; empty where the line is too long.
    pub(super) bytes: &'a [u8],
    /// From 1.
    pub(super) number: u64,
    /// Where it begins and ends in the file, in bytes; its end lies behind the line feed.
    pub(super) begin: u64,
    pub(super) end: u64,
    /// Whether a line feed ends it.
    pub(super) ended: bool,
    /// The hash of one that is too long.
    pub(super) too_long: Option<Sha256>,
}

impl Line<'_> {
    pub(super) fn is_blank(&self) -> bool {
        self.too_long.is_none() && self.bytes.trim_ascii().is_empty()
    }

    /// Of the line without its end.
    pub(super) fn hash(&self) -> Sha256 {
        self.too_long.unwrap_or_else(|| Sha256::of(self.bytes))
    }
}

/// The lines of a file from a place on.
pub(super) struct Lines {
    reader: BufReader<File>,
    held: Vec<u8>,
    number: u64,
    at: u64,
}

impl Lines {
    /// From the line that begins at `offset` bytes, and is the one after line `number`.
    pub(super) fn after(mut file: File, number: u64, offset: u64) -> io::Result<Lines> {
        file.seek(SeekFrom::Start(offset))?;
        let reader = BufReader::with_capacity(256 << 10, file);
        Ok(Lines { reader, held: Vec::new(), number, at: offset })
    }

    /// All lines.
    pub(super) fn all(file: File) -> io::Result<Lines> {
        Lines::after(file, 0, 0)
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.held.clear();
        let begin = self.at;
        let mut count =
            (&mut self.reader).take(LINE_LIMIT).read_until(b'\n', &mut self.held)? as u64;
        if count == 0 {
            return Ok(None);
        }
        self.number += 1;
        let mut ended = self.held.last() == Some(&b'\n');
        let mut too_long = None;
        if ended {
            self.held.pop();
        } else if count == LINE_LIMIT {
            let mut hasher = Hasher::new();
            hasher.update(&self.held);
            self.held = Vec::new();
            (count, ended) = self.skip_rest(count, &mut hasher)?;
            too_long = Some(hasher.finish());
        }
        self.at += count;
        let (number, end) = (self.number, self.at);
        Ok(Some(Line { bytes: &self.held, number, begin, end, ended, too_long }))
    }

    /// Goes on to the end of a line of which `count` bytes were read; its length, and whether a line feed ends it.
    fn skip_rest(&mut self, mut count: u64, hasher: &mut Hasher) -> io::Result<(u64, bool)> {
        loop {
            let block = self.reader.fill_buf()?;
            if block.is_empty() {
                return Ok((count, false));
            }
            let found = block.iter().position(|byte| *byte == b'\n');
            let (text, used) = match found {
                Some(at) => (block.get(..at).unwrap_or_default(), at + 1),
                None => (block, block.len()),
            };
            hasher.update(text);
            self.reader.consume(used);
            count += used as u64;
            if found.is_some() {
                return Ok((count, true));
            }
        }
    }
}

/// A line found from the end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Without its end; `None` where it is longer than what was asked for.
    pub(super) bytes: Option<Vec<u8>>,
    /// Where it begins, in bytes, and where it ends, before its line feed.
    pub(super) begin: u64,
    pub(super) end: u64,
}

impl Found {
    /// Of the line without its end.
    pub(super) fn hash(&self, file: &File) -> io::Result<Sha256> {
        match &self.bytes {
            Some(bytes) => Ok(Sha256::of(bytes)),
            None => hash_between(file, self.begin, self.end),
        }
    }
}

/// The hash of a part of a file.
pub(super) fn hash_between(mut file: &File, begin: u64, end: u64) -> io::Result<Sha256> {
    let mut hasher = Hasher::new();
    let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(4096)];
    file.seek(SeekFrom::Start(begin))?;
    let mut part = file.take(end.saturating_sub(begin));
    loop {
        let count = part.read(&mut block)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(block.get(..count).unwrap_or_default());
    }
}

/// The lines of a file, the last one first; blank ones are passed over.
pub(super) struct Backwards {
    file: File,
    /// What lies before this has not been read yet.
    begin: u64,
    /// What was read and not handed out, in the order of the file.
    held: Vec<u8>,
    /// The line that `held` is the beginning of ends there.
    end: u64,
    /// What was read of that line is thrown away.
    too_long: bool,
    /// The longest line that is kept, in bytes.
    longest: usize,
}

impl Backwards {
    pub(super) fn of(file: File, longest: usize) -> io::Result<Backwards> {
        let begin = file.metadata()?.len();
        Ok(Backwards { file, begin, held: Vec::new(), end: begin, too_long: false, longest })
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        loop {
            let feed = self.held.iter().rposition(|byte| *byte == b'\n');
            if feed.is_none() && self.begin > 0 {
                self.read_more()?;
                continue;
            }
            let at = feed.map_or(0, |feed| feed + 1);
            let found = Found {
                begin: self.begin + at as u64,
                end: self.end,
                bytes: Some(self.held.split_off(at)),
            };
            let too_long = std::mem::take(&mut self.too_long);
            self.held.pop();
            self.end = found.begin.saturating_sub(1);
            match found.bytes {
                Some(_) if too_long => return Ok(Some(Found { bytes: None, ..found })),
                Some(ref line) if !line.trim_ascii().is_empty() => return Ok(Some(found)),
                _ if feed.is_none() => return Ok(None),
                _ => {}
            }
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        if self.held.len() > self.longest {
            self.too_long = true;
            self.held.clear();
        }
        let length = self.begin.min(BLOCK);
        self.begin -= length;
        let mut block = Vec::new();
        self.file.seek(SeekFrom::Start(self.begin))?;
        (&mut self.file).take(length).read_to_end(&mut block)?;
        block.append(&mut self.held);
        self.held = block;
        Ok(())
    }
}
