//! Task ids, shaped like the recorded ones.

use std::fmt;

/// `UPID:NODE:PID:PSTART:TASK:START:TYPE:ID:AUTH:`, numbers in hexadecimal, the id escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upid {
    /// The node's name.
    pub node: String,
    /// Process id of the proxy.
    pub pid: u32,
    /// Start of that process, in clock ticks.
    pub pstart: u64,
    /// Counts up within one process.
    pub task_id: u64,
    /// Start of the task, epoch seconds.
    pub starttime: i64,
    /// `verify`, `verify_group`, `verify_snapshot`.
    pub worker_type: String,
    /// What is worked on, unescaped: `STORE:/ct/100/6B0225DA`.
    pub worker_id: String,
    /// The user or token that started it.
    pub auth_id: String,
}

impl Upid {
    /// The user without the token's name.
    pub fn user(&self) -> &str {
        super::access::user_of(&self.auth_id)
    }

    /// The token's name, when it is a token's task.
    pub fn token(&self) -> Option<&str> {
        self.auth_id.split_once('!').map(|(_, token)| token)
    }

    /// Reads a task id; `None` if it does not have the right format.
    pub fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.strip_prefix("UPID:")?.split(':').collect();
        let [node, pid, pstart, task_id, starttime, worker_type, worker_id, auth_id, ""] =
            fields[..]
        else {
            return None;
        };
        let exact = |field: &str, width: std::ops::RangeInclusive<usize>| {
            width.contains(&field.len()) && field.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if !exact(pid, 8..=8) || !exact(pstart, 8..=9) || !exact(task_id, 8..=16) {
            return None;
        }
        if !exact(starttime, 8..=8) || !super::params::is_node(node) || !auth_id.contains('@') {
            return None;
        }
        Some(Self {
            node: node.to_owned(),
            pid: u32::from_str_radix(pid, 16).ok()?,
            pstart: u64::from_str_radix(pstart, 16).ok()?,
            task_id: u64::from_str_radix(task_id, 16).ok()?,
            starttime: i64::from_str_radix(starttime, 16).ok()?,
            worker_type: worker_type.to_owned(),
            worker_id: unescape(worker_id)?,
            auth_id: auth_id.to_owned(),
        })
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "UPID:{}:{:08X}:{:08X}:{:08X}:{:08X}:{}:{}:{}:",
            self.node,
            self.pid,
            self.pstart,
            self.task_id,
            self.starttime,
            self.worker_type,
            escape(&self.worker_id),
            self.auth_id
        )
    }
}

/// Escapes like a systemd unit name: `/` becomes `-`, special characters become `\xNN`.
pub fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => escaped.push('-'),
            b'.' if at > 0 => escaped.push('.'),
            b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("\\x{byte:02x}")),
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        match first {
            b'-' => plain.push(b'/'),
            b'\\' => {
                let hex = tail.strip_prefix(b"x")?.get(..2)?;
                plain.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
                rest = tail.get(3..)?;
                continue;
            }
            other => plain.push(*other),
        }
        rest = tail;
    }
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_upid_survives_the_round_trip() {
        let text = "UPID:vm:00005DF6:00029750:0000000C:6B022660:verify_snapshot:\
                    felhom\\x2dspike\\x3ans-n100-ct-9001-6B0225DC:felhom@pbs!n100:";
        let upid = Upid::parse(text).unwrap();
        assert_eq!(upid.worker_id, "felhom-spike:ns/n100/ct/9001/6B0225DC");
        assert_eq!(upid.starttime, 1_795_303_008);
        assert_eq!(upid.token(), Some("n100"));
        assert_eq!(upid.to_string(), text);
    }

    #[test]
    fn garbage_is_no_upid() {
        assert_eq!(Upid::parse("UPID:garbage"), None);
        assert_eq!(Upid::parse("UPID:vm:1:2:3:4:verify:x:root@pam:"), None);
    }
}
