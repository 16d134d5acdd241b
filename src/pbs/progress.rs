use std::time::Instant;

use serde::Deserialize;

use super::Upid;
use super::client::{Error, Pbs, printable, small};

/// How many lines are read at a time; with the longest lines, they fit into a small answer.
const LINES: u32 = 500;

impl Pbs {
    /// The lines of a task's log after the first `read`, at most 500, safe to print.
    ///
    /// # Errors
    /// As all calls; a task that the server never knew is [`Error::Refused`].
    pub fn log_from(
        &self,
        upid: &Upid,
        read: usize,
        deadline: Instant,
    ) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Line {
            n: usize,
            t: String,
        }
        // The server counts lines from 1; for `start`, 0 and 1 both mean the first.
        let (start, limit) = ((read + 1).to_string(), LINES.to_string());
        let query = [("start", start.as_str()), ("limit", &limit)];
        let lines: Vec<Line> = self.get(&upid.path("log"), &query, small(deadline))?;
        let new = lines.into_iter().filter(|line| line.n > read);
        Ok(new.map(|line| printable(line.t.as_bytes())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answering, deadline};
    use crate::sys::http::testserver::answer;

    #[test]
    fn a_line_that_was_read_is_not_read_again() {
        let upid = "UPID:vm:00005DF6:00029750:00000004:6B02265A:verify_snapshot:a:b@pbs!c:";
        let log = r#"{"data":[{"n":2,"t":"two"},{"n":3,"t":"three"}],"total":3,"success":1}"#;
        let (server, pbs) = answering(answer("200 OK", log));
        let lines = pbs.log_from(&upid.parse().unwrap(), 2, deadline()).unwrap();
        assert_eq!(lines, ["three"]);
        assert!(server.requests()[0].contains("/log?start=3&limit="), "{}", server.requests()[0]);
    }
}
