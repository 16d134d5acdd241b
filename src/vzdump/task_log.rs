use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::{Mode, Upid, Vmid};
use crate::sys::Root;

/// The first line is short; the reason of a failure is near the end. No more than this is read at
/// each end.
const WINDOW: u64 = 64 * 1024;

/// A job's log: its beginning and its end, however long it is.
#[derive(Debug, Default)]
pub struct TaskLog {
    head: String,
    tail: String,
}

impl TaskLog {
    /// Reads the log of a task.
    pub fn read(root: &Root, upid: &Upid) -> io::Result<TaskLog> {
        let mut file = File::open(root.path(&upid.log_path()))?;
        let mut head = Vec::new();
        (&mut file).take(WINDOW).read_to_end(&mut head)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(WINDOW)))?;
        let mut tail = Vec::new();
        file.take(WINDOW).read_to_end(&mut tail)?;
        Ok(TaskLog {
            head: String::from_utf8_lossy(&head).into_owned(),
            tail: String::from_utf8_lossy(&tail).into_owned(),
        })
    }

    /// The mode of the job's command line, if it names one.
    pub fn mode_asked(&self) -> Option<Mode> {
        let command = self
            .head
            .lines()
            .find_map(|line| line.split_once("starting new backup job: vzdump "))?
            .1;
        let mut words = command.split_whitespace();
        while let Some(word) = words.next() {
            // `--script '/a b'` and the like are quoted; a mode never is.
            if word == "--mode" {
                return Mode::from_word(words.next()?);
            }
            if let Some(mode) = word.strip_prefix("--mode=") {
                return Mode::from_word(mode);
            }
        }
        None
    }

    /// Whether the job is working on this guest.
    pub fn is_at(&self, vmid: Vmid) -> bool {
        let start = format!("INFO: Starting Backup of VM {vmid} (");
        let boundary = |line: &&str| {
            ["INFO: Starting Backup of VM ", "INFO: Finished Backup of VM ", "INFO: Failed at "]
                .iter()
                .any(|words| line.starts_with(words))
        };
        self.tail.lines().rev().find(boundary).is_some_and(|line| line.starts_with(&start))
    }

    /// Whether the job has finished this guest's backup.
    pub fn is_finished(&self, vmid: Vmid) -> bool {
        let marker = format!("INFO: Finished Backup of VM {vmid} (");
        self.tail.lines().any(|line| line.starts_with(&marker))
    }

    /// Why the backup of a guest failed, in vzdump's words.
    pub fn failure_of(&self, vmid: Vmid) -> Option<String> {
        let marker = format!("ERROR: Backup of VM {vmid} failed - ");
        self.tail
            .lines()
            .rev()
            .find_map(|line| line.split_once(&marker))
            .map(|(_, reason)| crate::sys::text::printable(reason.trim(), 500))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> TaskLog {
        TaskLog { head: text.into(), tail: text.into() }
    }

    #[test]
    fn the_first_line_names_the_mode() {
        let first = |options: &str| {
            log(&format!("INFO: starting new backup job: vzdump 9001 {options}\nINFO: x\n"))
                .mode_asked()
        };
        assert_eq!(first("--storage local --mode suspend --compress zstd"), Some(Mode::Suspend));
        assert_eq!(first("--mode=stop"), Some(Mode::Stop));
        assert_eq!(first("--storage local"), None);
        assert_eq!(first("--mode"), None);
    }

    #[test]
    fn a_job_is_at_one_guest_at_a_time() {
        let begun = "INFO: Starting Backup of VM 9001 (lxc)\nINFO: status = running\n";
        assert!(log(begun).is_at(Vmid(9001)));
        assert!(!log(begun).is_at(Vmid(900)));
        assert!(
            !log(&format!("{begun}INFO: Finished Backup of VM 9001 (00:00:01)\n"))
                .is_at(Vmid(9001))
        );
        assert!(!log(&format!("{begun}INFO: Failed at 2026-11-21 23:15:01\n")).is_at(Vmid(9001)));
        assert!(!log("INFO: starting new backup job: vzdump 9001\n").is_at(Vmid(9001)));
    }

    #[test]
    fn the_last_failure_of_the_guest_counts() {
        let log = log("ERROR: Backup of VM 900 failed - other\n\
             ERROR: Backup of VM 9001 failed - cannot mount\x1b[1m\n\
             INFO: Failed at 2026-11-21 23:15:01\n");
        assert_eq!(log.failure_of(Vmid(9001)).unwrap(), "cannot mount\\u{1b}[1m");
        assert_eq!(log.failure_of(Vmid(9002)), None);
    }
}
