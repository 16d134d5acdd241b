//! The storage that is being checked.

use super::check::Check;
use crate::sys::text::printable;

/// It is the prefix of each check's name.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub id: &'a str,
}

impl Subject<'_> {
    /// `storage.offsite.rights`
    pub fn about(self, what: &str) -> String {
        format!("storage.{}.{what}", self.id)
    }

    pub fn ok(self, what: &str, message: impl ToString) -> Check {
        Check::ok(self.about(what), sentence(message))
    }

    pub fn warn(self, what: &str, message: impl ToString) -> Check {
        Check::warn(self.about(what), sentence(message))
    }

    pub fn fail(self, what: &str, message: impl ToString) -> Check {
        Check::fail(self.about(what), sentence(message))
    }
}

/// A message that may contain text from a file or a server.
fn sentence(message: impl ToString) -> String {
    printable(&message.to_string(), 1000)
}
