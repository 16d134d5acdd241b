//! The storage that is looked at.

use super::check::Check;
use crate::sys::text::printable;

/// It begins the name of each check.
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

/// What a file or a server says is in it.
fn sentence(message: impl ToString) -> String {
    printable(&message.to_string(), 1000)
}
