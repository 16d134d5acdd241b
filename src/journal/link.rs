//! How each record is tied to the line before it: its line ends with its number and that line's SHA-256.

use crate::sys::sha256::Sha256;

const SEQ: &[u8] = b",\"seq\":";
const PREV: &[u8] = b",\"prev\":\"";
const END: &[u8] = b"\"}";

/// No number has more digits.
const MOST_DIGITS: usize = 20;

/// The end of a record's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The first record of the chain has 1, each that follows one more.
    pub(super) seq: u64,
    /// Of the line before, without its end. In the very first line of a journal: of nothing.
    pub(super) prev: Sha256,
}

impl Link {
    /// The link at the end of a line, if the line has one: those of earlier versions have none.
    pub(super) fn of(line: &[u8]) -> Option<Link> {
        let rest = line.strip_suffix(END)?;
        let (rest, prev) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let rest = rest.strip_suffix(PREV)?;
        let tail = rest.get(rest.len().saturating_sub(SEQ.len() + MOST_DIGITS)..)?;
        let at = tail.windows(SEQ.len()).rposition(|window| window == SEQ)?;
        let seq = std::str::from_utf8(tail.get(at + SEQ.len()..)?).ok()?.parse().ok()?;
        let prev = std::str::from_utf8(prev).ok()?.parse().ok()?;
        Some(Link { seq, prev })
    }

    /// The object with this link at its end.
    pub(super) fn tie(self, object: &mut Vec<u8>) {
        if object.last() == Some(&b'}') {
            object.pop();
            object.extend(SEQ);
            object.extend(self.seq.to_string().bytes());
            object.extend(PREV);
            object.extend(self.prev.to_string().bytes());
            object.extend(END);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_it_was_written() {
        for seq in [1, 42, u64::MAX] {
            let link = Link { seq, prev: Sha256::of(b"before") };
            let mut line = br#"{"kind":"backup","note":",\"seq\":7,\"prev\":\""}"#.to_vec();
            assert_eq!(Link::of(&line), None);
            link.tie(&mut line);
            assert_eq!(Link::of(&line), Some(link));
            serde_json::from_slice::<serde_json::Value>(&line).unwrap();
            line.push(b' ');
            assert_eq!(Link::of(&line), None);
        }
    }
}
