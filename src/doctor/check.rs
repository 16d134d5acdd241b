use std::fmt;

use serde::Serialize;

/// The result of a check, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Backups are made, but something about them could be better.
    Warn,
    /// Something does not work.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        })
    }
}

/// What was checked, the result, and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub level: Level,
    /// A short name that stays the same, such as `storage.offsite.rights`.
    pub about: String,
    /// One sentence.
    pub message: String,
    /// Commands to copy, or instructions; one line each.
    pub fix: Vec<String>,
}

impl Check {
    pub fn ok(about: impl Into<String>, message: impl Into<String>) -> Check {
        Check::new(Level::Ok, about, message)
    }

    pub fn warn(about: impl Into<String>, message: impl Into<String>) -> Check {
        Check::new(Level::Warn, about, message)
    }

    pub fn fail(about: impl Into<String>, message: impl Into<String>) -> Check {
        Check::new(Level::Fail, about, message)
    }

    fn new(level: Level, about: impl Into<String>, message: impl Into<String>) -> Check {
        Check { level, about: about.into(), message: message.into(), fix: Vec::new() }
    }

    /// The same check with one more line for the fix.
    pub fn fix(mut self, line: impl Into<String>) -> Check {
        self.fix.push(line.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_in_json_has_these_names() {
        let check = Check::warn("storage.offsite.key", "It is on this node only.").fix("copy it");
        let json = serde_json::to_string(&check).unwrap();
        assert_eq!(
            json,
            r#"{"level":"warn","about":"storage.offsite.key","message":"It is on this node only.","fix":["copy it"]}"#
        );
        assert!(Level::Ok < Level::Warn && Level::Warn < Level::Fail);
    }
}
