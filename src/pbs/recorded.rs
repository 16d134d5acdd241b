//! Recorded exchanges with a real backup server, for tests.

use std::fs;

/// One exchange of a recording.
pub struct Exchange {
    pub title: String,
    /// `GET /path?query`
    pub call: String,
    /// The request's body.
    pub form: String,
    pub status: u16,
    pub body: String,
}

impl Exchange {
    /// The answer as a server would send it.
    pub fn answer(&self) -> String {
        crate::sys::http::testserver::answer(&format!("{} Status", self.status), &self.body)
    }
}

/// The exchanges of `tests/fixtures/pbs/NAME`.
pub fn exchanges(name: &str) -> Vec<Exchange> {
    let path = format!("{}/tests/fixtures/pbs/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap();
    let mut exchanges = Vec::new();
    let mut title = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("### ") {
            title = text;
        }
        if line != ">>> REQUEST" {
            continue;
        }
        let call = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        lines.by_ref().find(|line| line.is_empty());
        let form: Vec<&str> =
            lines.by_ref().take_while(|line| !line.starts_with("<<< RESPONSE")).collect();
        let status = lines.next().unwrap();
        lines.by_ref().find(|line| line.is_empty());
        let body: Vec<&str> =
            lines.by_ref().take_while(|line| !line.starts_with("------")).collect();
        // A compressed body was not kept.
        if body.first().is_some_and(|line| line.starts_with('[') && line.ends_with("bytes]")) {
            continue;
        }
        exchanges.push(Exchange {
            title: title.to_owned(),
            call,
            form: form.join("\n"),
            status: status.split(' ').nth(1).unwrap().parse().unwrap(),
            body: body.join("\n"),
        });
    }
    assert!(!exchanges.is_empty());
    exchanges
}

/// The exchange of a recording with this title.
pub fn exchange(name: &str, title: &str) -> Exchange {
    let mut found = exchanges(name).into_iter().filter(|exchange| exchange.title == title);
    let one = found.next().unwrap_or_else(|| panic!("{title} in {name}"));
    assert!(found.next().is_none());
    one
}
