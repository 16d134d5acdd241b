//! Helpers for text, for people and for names.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};

/// `text` with control characters escaped and cut after `limit` characters, for printing what a
/// guest or a server said.
pub fn printable(text: &str, limit: usize) -> String {
    excerpt(&text, limit)
}

/// As [`printable`], for anything that can be displayed; no more than the limit is ever produced.
pub fn excerpt(text: &impl fmt::Display, limit: usize) -> String {
    let mut excerpt = Excerpt { text: String::new(), left: limit };
    // The only possible error is that the limit was reached.
    if write!(excerpt, "{text}").is_err() {
        excerpt.text.push('…');
    }
    excerpt.text
}

/// Collects a limited number of characters, with control characters escaped.
struct Excerpt {
    text: String,
    left: usize,
}

impl Write for Excerpt {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            if moves_a_cursor(character) {
                write!(self.text, "\\u{{{:x}}}", u32::from(character))?;
            } else {
                self.text.push(character);
            }
        }
        Ok(())
    }
}

/// Whether a terminal acts on the character instead of showing it. Bidirectional overrides reorder
/// a line, as escape codes can.
fn moves_a_cursor(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON for a terminal: the same value, with control characters escaped. Its own line breaks and
/// blanks stay.
pub fn json_for_terminal(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        // Outside of strings JSON has none of these characters, and inside strings no C0 controls.
        if character != '\n' && moves_a_cursor(character) {
            // Writing to a String does not fail.
            let _ = write!(shown, "\\u{:04x}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// `word` as one word of a shell command, cut after `limit` characters. Whatever a guest or a file
/// says, it stays one word in a shell and cannot control the terminal.
pub fn quoted(word: &str, limit: usize) -> String {
    let word = printable(word, limit);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@%+=,-".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Percent-encodes everything except RFC 3986's unreserved characters: for path segments, queries
/// and forms.
pub fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                // Writing to a String does not fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// `1 container`, `2 containers`.
pub fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// Milliseconds as seconds: `0.41 s`, `12.3 s`, `185 s`.
pub fn seconds(ms: u64) -> String {
    let seconds = ms as f64 / 1000.0;
    match ms {
        0..10_000 => format!("{seconds:.2} s"),
        10_000..100_000 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

/// Bytes in the largest unit that gives at least 1: `512 B`, `17.0 MiB`, `1.2 TiB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = number as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{number} B"),
        _ => format!("{size:.1} {}", UNITS[unit]),
    }
}

/// `text` in lines of at most so many columns, with the later lines indented. It breaks between
/// words; a word longer than a line stays whole, so that it can be copied.
pub fn wrapped(text: &str, columns: usize, indent: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("{:indent$}{word}", "")),
            None => lines.push(word.to_string()),
        }
    }
    lines
}

/// A short name that no other call on this node returns: boot clock, pid and a counter.
pub fn token() -> String {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        return walk.token();
    }
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{count:x}", super::clock::now().timestamp_micros(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_are_made_visible() {
        assert_eq!(printable("db\x1b[31m\r\n", 99), "db\\u{1b}[31m\\u{d}\\u{a}");
        assert_eq!(printable("a\u{202e}b", 99), "a\\u{202e}b");
        assert_eq!(printable("abcdef", 3), "abc…");
    }

    #[test]
    fn json_on_a_terminal_is_the_same_value_and_moves_no_cursor() {
        let value =
            serde_json::json!({ "a\u{9b}31m": ["\u{202e}b\u{2028}\u{7f}", "\u{1b}[2J", "\u{fc}"] });
        for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = json_for_terminal(&json);
            assert!(!shown.chars().any(|it| it != '\n' && moves_a_cursor(it)), "{shown}");
            assert!(
                shown.contains("\\u202eb\\u2028\\u007f") && shown.contains('\u{fc}'),
                "{shown}"
            );
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
        assert_eq!(json_for_terminal("{\n  \"a\": 1\n}"), "{\n  \"a\": 1\n}");
    }

    #[test]
    fn sentences_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 7, 2), ["one two", "  three"]);
        assert_eq!(wrapped("one-that-is-long two", 8, 2), ["one-that-is-long", "  two"]);
        assert_eq!(wrapped("a  gap stays", 20, 0), ["a  gap stays"]);
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(412), "0.41 s");
        assert_eq!(seconds(12_345), "12.3 s");
        assert_eq!(seconds(185_000), "185 s");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(17 << 20), "17.0 MiB");
        assert_eq!(bytes(1 << 52), "4096.0 TiB");
    }
}
