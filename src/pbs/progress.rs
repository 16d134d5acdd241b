use std::time::Instant;

use serde::Deserialize;

use super::Upid;
use super::client::{Error, Pbs, printable, small};

/// Lines that are read at a time; the server cuts none off, so that as many fit into a small answer.
const LINES: u32 = 500;

impl Pbs {
    /// The lines of a task's log from the one with the number `from` on (the first is 0), as far as they are written
    /// and no more than 500: fit to be printed.
    ///
    /// # Errors
    /// As all calls; a task that the server never knew is [`Error::Refused`].
    pub fn log_from(
        &self,
        upid: &Upid,
        from: usize,
        deadline: Instant,
    ) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Line {
            t: String,
        }
        let (start, limit) = (from.to_string(), LINES.to_string());
        let query = [("start", start.as_str()), ("limit", &limit)];
        let lines: Vec<Line> = self.get(&upid.path("log"), &query, small(deadline))?;
        Ok(lines.into_iter().map(|line| printable(line.t.as_bytes())).collect())
    }
}
