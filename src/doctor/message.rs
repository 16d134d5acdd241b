use std::fmt::{self, Display};

use super::check::{Check, Level};
use crate::sys::text::{self, excerpt, printable};

/// The longest value in a message: a guest decides how long its names are.
const LONGEST_VALUE: usize = 400;

/// A message of doctor, with `{name}` where a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub level: Level,
    /// One sentence.
    pub text: &'static str,
    /// Commands for the fix; a value is quoted for the shell if necessary.
    pub fix: &'static [&'static str],
}

/// The values of a message, by name.
pub type Values<'a> = &'a [(&'a str, &'a dyn Display)];

impl Message {
    /// The check with this message.
    pub fn check(&self, about: impl Display, values: Values<'_>) -> Check {
        let plain = |value: &dyn Display| excerpt(&value, LONGEST_VALUE);
        let check = Check {
            level: self.level,
            about: excerpt(&about, LONGEST_VALUE),
            message: filled(self.text, values, plain),
            fix: Vec::new(),
        };
        let quoted = |value: &dyn Display| quoted(&value.to_string());
        self.fix.iter().fold(check, |check, line| check.fix(filled(line, values, quoted)))
    }
}

fn filled(text: &str, values: Values<'_>, form: impl Fn(&dyn Display) -> String) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => filled.push_str(&form(*value)),
            // Left unfilled: a test checks for that.
            None => filled.push_str(&format!("{{{name}}}")),
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

/// A word of a shell command. A guest or a file may contain anything; quoted it is one word for a
/// shell and cannot control the terminal.
pub fn quoted(word: &str) -> String {
    text::quoted(word, LONGEST_VALUE)
}

/// `db, cache and 3 more`: a limited number of names.
pub struct Names<'a>(pub Vec<&'a str>);

impl Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 4;
        let shown = if self.0.len() > MOST + 1 { MOST } else { self.0.len() };
        for (index, name) in self.0.iter().take(shown).enumerate() {
            let separator = match index {
                0 => "",
                _ if index + 1 == self.0.len() => " and ",
                _ => ", ",
            };
            write!(f, "{separator}{}", printable(name, 60))?;
        }
        match self.0.len() - shown {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: Message =
        Message { level: Level::Warn, text: "{name} is {name}, {other}", fix: &["look at {name}"] };

    #[test]
    fn values_go_where_their_names_stand() {
        let check = MESSAGE.check("guest.1", &[("name", &"db")]);
        assert_eq!(check.message, "db is db, {other}");
        assert_eq!(check.fix, ["look at db"]);
    }

    #[test]
    fn what_a_guest_says_is_one_harmless_word_in_a_command() {
        let check = MESSAGE.check("x", &[("name", &"db; rm -rf / '\x1b[2J\n"), ("other", &1)]);
        assert_eq!(check.fix, [r"look at 'db; rm -rf / '\''\u{1b}[2J\u{a}'"]);
        assert!(!check.message.contains('\x1b') && !check.message.contains('\n'));
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("local:snippets/x"), "local:snippets/x");
    }

    #[test]
    fn many_names_are_cut_short() {
        assert_eq!(Names(vec!["a"]).to_string(), "a");
        assert_eq!(Names(vec!["a", "b", "c"]).to_string(), "a, b and c");
        assert_eq!(Names(vec!["a", "b", "c", "d", "e", "f"]).to_string(), "a, b, c, d and 2 more");
    }
}
