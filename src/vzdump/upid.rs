use std::fmt;

use serde::{Deserialize, Serialize};

/// PVE's name of a task: `UPID:NODE:PID:PSTART:STARTTIME:TYPE:ID:USER:`, numbers in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upid(String);

impl Upid {
    /// The UPID in a worker's command line, `task UPID:...:`.
    pub fn from_command_line(first_argument: &str) -> Option<Upid> {
        Upid::parse(first_argument.strip_prefix("task ")?.trim_end_matches(' '))
    }

    /// Checks the format; the text becomes part of a file's name, so it must contain nothing else.
    pub fn parse(text: &str) -> Option<Upid> {
        let fields: Vec<&str> = text.split(':').collect();
        let [tag, node, pid, pstart, starttime, kind, _, user, end] = fields.as_slice() else {
            return None;
        };
        let hexadecimal = |field: &str, length: std::ops::RangeInclusive<usize>| {
            length.contains(&field.len()) && field.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let well_formed = *tag == "UPID"
            && end.is_empty()
            && !node.is_empty()
            && !kind.is_empty()
            && !user.is_empty()
            && hexadecimal(pid, 8..=8)
            && hexadecimal(pstart, 8..=9)
            && hexadecimal(starttime, 8..=8)
            && text.len() <= 255
            && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        well_formed.then(|| Upid(text.to_string()))
    }

    /// The task's log below the node's root: the directory is the start time's last digit.
    pub fn log_path(&self) -> String {
        let starttime = self.field(4);
        let directory = starttime.get(7..).unwrap_or_default();
        format!("/var/log/pve/tasks/{directory}/{}", self.0)
    }

    /// Whether it is a vzdump task.
    pub fn is_backup(&self) -> bool {
        self.kind() == "vzdump"
    }

    /// The kind of task, such as `vzrestore`.
    pub fn kind(&self) -> &str {
        self.field(5)
    }

    /// Its subject: for a guest's task the VMID.
    pub fn subject(&self) -> &str {
        self.field(6)
    }

    /// When it started, in seconds since 1970.
    pub fn started(&self) -> i64 {
        i64::from_str_radix(self.field(4), 16).unwrap_or_default()
    }

    /// Its worker: pid, and start time in clock ticks since boot.
    pub fn worker(&self) -> Option<(i32, u64)> {
        let number = |field| u64::from_str_radix(self.field(field), 16).ok();
        Some((i32::try_from(number(2)?).ok()?, number(3)?))
    }

    fn field(&self, number: usize) -> &str {
        self.0.split(':').nth(number).unwrap_or_default()
    }

    /// The node it runs on.
    pub fn node(&self) -> &str {
        self.field(1)
    }
}

/// A file with anything else is damaged, because a path is made from a UPID.
impl TryFrom<String> for Upid {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Upid, &'static str> {
        Upid::parse(&text).ok_or("not a UPID of Proxmox VE's")
    }
}

impl From<Upid> for String {
    fn from(upid: Upid) -> String {
        upid.0
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: &str = "UPID:pve1:00006B5F:00A1B2C3:6B02265C:vzdump:9001:root@pam:";

    #[test]
    fn a_worker_is_known_by_its_command_line() {
        let upid = Upid::from_command_line(&format!("task {TASK}")).unwrap();
        assert_eq!(upid.to_string(), TASK);
        assert_eq!(upid.node(), "pve1");
        assert_eq!((upid.kind(), upid.subject(), upid.started()), ("vzdump", "9001", 0x6B02_265C));
        assert_eq!(upid.worker(), Some((0x6B5F, 0xA1_B2C3)));
        assert_eq!(upid.log_path(), format!("/var/log/pve/tasks/C/{TASK}"));
    }

    #[test]
    fn anything_else_is_no_upid() {
        assert_eq!(Upid::from_command_line(TASK), None);
        for text in [
            "",
            "UPID:",
            "UPID:pve1:00006B5F:00A1B2C3:6B02265C:vzdump:9001:root@pam",
            "UPID:pve1:00006B5F:00A1B2C3:6B02265:vzdump:9001:root@pam:",
            "UPID:pve1:0000/B5F:00A1B2C3:6B02265C:vzdump:9001:root@pam:",
            "UPID:../..:00006B5F:00A1B2C3:6B02265C:vzdump:9001:root@pam:",
        ] {
            assert_eq!(Upid::parse(text), None, "{text}");
        }
    }
}
