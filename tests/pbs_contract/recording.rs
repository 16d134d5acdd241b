//! Reads the recordings.

use std::path::Path;

/// One recorded request and its answer.
#[derive(Debug)]
pub struct Exchange {
    /// Its place: file and line.
    pub place: String,
    /// The `###` lines and other text before the request.
    pub comments: Vec<String>,
    /// `GET /path HTTP/1.1`, headers and body, as they were sent.
    pub request: Vec<u8>,
    /// The request's first line without the protocol.
    pub target: String,
    /// How long the answer took, in seconds.
    pub seconds: f64,
    /// `HTTP/1.1 200 OK`
    pub status: String,
    /// Names and values, in order.
    pub headers: Vec<(String, String)>,
    /// The body, or `[N bytes]` if the recorder left it out.
    pub body: String,
}

impl Exchange {
    /// The value of a header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(known, _)| known == name)?;
        Some(value)
    }
}

/// The content of one file.
pub struct Recording {
    /// The exchanges in order.
    pub exchanges: Vec<Exchange>,
    /// How many `>>> REQUEST` lines the file has.
    pub requests: usize,
}

/// Reads one file.
pub fn read(path: &Path) -> Recording {
    let text = std::fs::read_to_string(path).expect("a recording");
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.expect("a file name");
    let rule = "-".repeat(70);
    let mut exchanges = Vec::new();
    let mut line = 1;
    for part in text.split(&format!("{rule}\n")) {
        // A file may end with a remark of the recorder.
        if part.contains(">>> REQUEST") {
            exchanges.push(parse(part, format!("{name}:{line}")));
        }
        line += part.matches('\n').count() + 1;
    }
    let requests = text.lines().filter(|line| *line == ">>> REQUEST").count();
    Recording { exchanges, requests }
}

fn parse(part: &str, place: String) -> Exchange {
    let (before, rest) =
        part.split_once(">>> REQUEST\n").unwrap_or_else(|| panic!("{place}: no request"));
    let (request, rest) =
        rest.split_once("<<< RESPONSE (").unwrap_or_else(|| panic!("{place}: no response"));
    let (seconds, rest) = rest.split_once(" s)\n").expect("a duration");
    let (head, body) = rest.split_once("\n\n").expect("an empty line");
    let mut lines = head.lines();
    let status = lines.next().expect("a status line").to_owned();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").expect("a header");
        (name.to_owned(), value.to_owned())
    });
    Exchange {
        comments: before.lines().map(str::to_owned).collect(),
        target: request
            .lines()
            .next()
            .and_then(|line| line.strip_suffix(" HTTP/1.1"))
            .expect("a request line")
            .to_owned(),
        request: on_the_wire(request),
        seconds: seconds.parse().expect("seconds"),
        status,
        headers: headers.collect(),
        // The recorder added a line feed to every body.
        body: body.strip_suffix('\n').unwrap_or(body).to_owned(),
        place,
    }
}

/// The request with its original line ends, and its body cut to the announced length.
fn on_the_wire(request: &str) -> Vec<u8> {
    let (head, body) = request.split_once("\n\n").expect("an empty line");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |length| length.parse().expect("a length"));
    let mut bytes = format!("{}\r\n\r\n", head.replace('\n', "\r\n")).into_bytes();
    bytes.extend_from_slice(&body.as_bytes()[..length]);
    bytes
}
