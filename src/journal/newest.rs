use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Journal, Written};

/// How many bytes are read at a time.
const BLOCK: u64 = 64 * 1024;

/// A longer record is skipped, in bytes; the records that this reader is used for have a few
/// hundred.
const LONGEST: usize = 1 << 20;

impl Journal {
    /// Passes the records to `visit`, newest first, across the rotation; `visit` returns `false` to
    /// stop. Lines that are no record, or longer than 1 MiB, are skipped: [`Journal::read`] reports
    /// damage.
    ///
    /// For questions about the recent past: the cost depends on how far back the answer is, not on
    /// the journal's length.
    pub fn read_newest_first(&self, mut visit: impl FnMut(Written) -> bool) -> Result<()> {
        for (path, file) in self.files()?.into_iter().rev() {
            let mut lines = Backwards::of(file).with_context(|| path.display().to_string())?;
            while let Some(line) = lines.next().with_context(|| path.display().to_string())? {
                if let Ok(value) = serde_json::from_slice::<Value>(&line)
                    && let Some(written) = Written::of(value)
                    && !visit(written)
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The lines of a file, the last one first.
struct Backwards {
    file: File,
    /// Everything before this offset has not been read yet.
    begin: u64,
    /// Bytes that were read and not returned yet, in the order of the file.
    held: Vec<u8>,
    /// The line that ends in `held` is too long; its beginning is skipped too.
    too_long: bool,
}

impl Backwards {
    fn of(file: File) -> io::Result<Backwards> {
        let begin = file.metadata()?.len();
        Ok(Backwards { file, begin, held: Vec::new(), too_long: false })
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.held.iter().rposition(|byte| *byte == b'\n') {
                let line = self.held.split_off(end + 1);
                self.held.pop();
                if !std::mem::take(&mut self.too_long) && !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.begin == 0 {
                let line = std::mem::take(&mut self.held);
                let whole = !std::mem::take(&mut self.too_long) && !line.trim_ascii().is_empty();
                return Ok(whole.then_some(line));
            }
            if self.held.len() > LONGEST {
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Root, text};

    #[test]
    fn lines_come_newest_first_across_blocks_and_the_rotation() {
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
