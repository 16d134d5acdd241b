use anyhow::{Context, Result};

use super::Upid;
use crate::sys::{Root, file};

/// The running and newest tasks, then the ended ones, then older ones. A list that has grown to 50
/// kB is renamed to the older one.
const LISTS: [&str; 3] =
    ["/var/log/pve/tasks/active", "/var/log/pve/tasks/index", "/var/log/pve/tasks/index.1"];

/// Far more than the lists ever have, in bytes.
const LIMIT: u64 = 16 << 20;

/// A task in the node's lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub upid: Upid,
    /// It has ended with an error.
    pub failed: bool,
}

/// The tasks of this node, about the last thousand, in no particular order; a running one may be in
/// two lists. `None` if the node has no list of tasks.
///
/// # Errors
/// If a list exists and cannot be read.
pub fn tasks(root: &Root) -> Result<Option<Vec<Task>>> {
    let mut found = None;
    for list in LISTS {
        let path = root.path(list);
        let text = file::read_text(&path, LIMIT).with_context(|| path.display().to_string())?;
        if let Some(text) = text {
            found.get_or_insert_with(Vec::new).extend(text.lines().filter_map(task));
        }
    }
    Ok(found)
}

/// One task a line: its UPID; in the list of active ones a 0 or 1; and once it has ended, when and
/// how.
fn task(line: &str) -> Option<Task> {
    let (upid, rest) = line.split_once(' ').unwrap_or((line, ""));
    Some(Task { upid: Upid::parse(upid.trim())?, failed: has_failed(rest) })
}

fn has_failed(rest: &str) -> bool {
    let mut words = rest.split_whitespace().skip_while(|word| {
        matches!(*word, "0" | "1") || word.len() == 8 && word.bytes().all(|b| b.is_ascii_hexdigit())
    });
    words.next().is_some_and(|word| word != "OK" && !word.starts_with("WARNINGS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_failed_only_if_its_end_says_so() {
        const UPID: &str = "UPID:one:00006B5F:00A1B2C3:00000010:vzrestore:9002:root@pam:";
        for (rest, failed) in [
            ("", false),
            (" 0", false),
            (" 00000020 OK", false),
            (" 1 00000020 OK", false),
            (" 00000020 WARNINGS: 1", false),
            (" 00000020 unable to restore CT 9002 - CT is running", true),
            (" 1 00000020 interrupted by signal", true),
        ] {
            let task = task(&format!("{UPID}{rest}")).unwrap();
            assert_eq!((task.upid.to_string().as_str(), task.failed), (UPID, failed), "{rest}");
        }
        assert_eq!(task("nonsense"), None);
        assert_eq!(task(""), None);
    }
}
