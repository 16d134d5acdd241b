//! The simulated backup server answers every recorded request as the real one did.
//!
//! The recordings in `fixtures/pbs` are replayed byte for byte, in the order of recording, against
//! one simulated server. `pbs_contract/world.rs` does what the recorder did between requests;
//! `pbs_contract/normal.rs` lists what cannot be compared.

#[path = "pbs_contract/client.rs"]
mod client;
#[path = "pbs_contract/later.rs"]
mod later;
#[path = "pbs_contract/normal.rs"]
mod normal;
#[path = "pbs_contract/recording.rs"]
mod recording;
#[path = "pbs_contract/world.rs"]
mod world;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use stillpoint_sim::pbs::upid::Upid;
use stillpoint_sim::pbs::{Config, SimPbs, State};

use client::Answer;
use recording::Exchange;

/// In the order of recording, with the number of exchanges in each.
const FILES: [(&str, usize); 7] = [
    ("01-version-auth.http", 17),
    ("03-snapshots.http", 20),
    ("04-verify.http", 58),
    ("04b-task-status.http", 61),
    ("02-acl.http", 130),
    ("05-corrupt.http", 85),
    ("06-verify-errors.http", 87),
];

#[test]
fn every_recorded_exchange_is_answered_as_recorded() {
    let pbs = world::start();
    let mut differences = Vec::new();
    let mut compared = 0;
    for (file, count) in FILES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pbs").join(file);
        let recording = recording::read(&path);
        assert_eq!(recording.requests, count, "{file} has changed");
        assert_eq!(recording.exchanges.len(), count, "{file} was not read whole");
        pbs.edit(|state| world::before_file(state, file));
        for exchange in &recording.exchanges {
            pbs.edit(|state| world::act(state, &exchange.comments));
            let request = prepare(&pbs, exchange);
            let answer = client::send(&pbs, &request);
            compared += 1;
            if let Err(difference) = compare(&pbs, exchange, &answer) {
                let (place, target) = (&exchange.place, &exchange.target);
                let title = exchange.comments.last().map_or("", String::as_str);
                differences.push(format!("{place} {title}\n  {target}\n{difference}"));
            }
        }
    }
    assert_eq!(compared, FILES.iter().map(|(_, count)| count).sum::<usize>());
    assert!(
        differences.is_empty(),
        "{} of {compared} answers differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn what_was_recorded_of_every_ill_is_answered_as_recorded() {
    let pbs = later::start();
    let mut differences = Vec::new();
    let mut compared = 0;
    for (file, count) in later::FILES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pbs").join(file);
        let recording = recording::read(&path);
        assert_eq!(recording.requests, count, "{file} has changed");
        assert_eq!(recording.exchanges.len(), count, "{file} was not read whole");
        for (at, exchange) in recording.exchanges.iter().enumerate() {
            pbs.edit(|state| {
                state.stop_clock(later::date(exchange));
                later::act(state, &exchange.comments, &recording.exchanges[at..]);
            });
            if !later::is_replayed(exchange) {
                continue;
            }
            let request = prepare(&pbs, exchange);
            let answer = client::send(&pbs, &request);
            compared += 1;
            if let Err(difference) = compare(&pbs, exchange, &answer) {
                let (place, target) = (&exchange.place, &exchange.target);
                let title = exchange.comments.last().map_or("", String::as_str);
                differences.push(format!("{place} {title}\n  {target}\n{difference}"));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {compared} answers differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn every_recording_is_replayed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pbs");
    let entries = std::fs::read_dir(folder).expect("the recordings");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("a name"))
        .collect();
    names.sort();
    let known = FILES.iter().chain(&later::FILES);
    let mut known: Vec<String> = known.map(|(file, _)| (*file).to_owned()).collect();
    known.sort();
    assert_eq!(names, known);
}

#[test]
fn a_refused_login_takes_three_seconds_unless_a_test_says_otherwise() {
    let delay = Config::default().unauthorized_delay;
    assert_eq!(delay, Duration::from_secs(3));
}

/// Puts the server into the state of that moment, and prepares the request.
fn prepare(pbs: &SimPbs, exchange: &Exchange) -> Vec<u8> {
    let date = exchange.header("date").expect("a date");
    let date = chrono::DateTime::parse_from_rfc2822(date).expect("a date");
    let body: Option<Value> = serde_json::from_str(&exchange.body).ok();
    pbs.edit(|state| {
        if let Some(body) = &body {
            finish_what_is_over(state, exchange, body);
        }
        state.stop_clock(date.timestamp());
        if let Some(upid) = body.as_ref().and_then(|body| body["data"].as_str()) {
            let upid = Upid::parse(upid).expect("a task id");
            state.last_task = upid.task_id - 1;
            state.stop_clock(upid.starttime);
        }
    });
    let request = String::from_utf8(exchange.request.clone()).expect("a request in UTF-8");
    let request = request.replace("<SECRET>", world::secret(exchange));
    request.into_bytes()
}

/// If the recorded answer shows that a task is over, or that it has changed a snapshot, it ends at
/// that second. The used space of the disk is set too.
fn finish_what_is_over(state: &mut State, exchange: &Exchange, body: &Value) {
    let data = &body["data"];
    if let (Some(upid), Some(end)) = (data["upid"].as_str(), data["endtime"].as_i64()) {
        state.stop_clock(end);
        assert!(state.finish(upid), "{}: no task {upid}", exchange.place);
    }
    for entry in data.as_array().into_iter().flatten() {
        if let Some(upid) = entry["verification"]["upid"].as_str()
            && state.task(upid).is_some_and(|task| task.end.is_none())
        {
            state.finish(upid);
        }
    }
    if let (Some(total), Some(used), Some(avail)) = (
        data["total"].as_u64().filter(|total| *total > 0),
        data["used"].as_u64(),
        data["avail"].as_u64(),
    ) {
        let named =
            |name: &str| exchange.target.contains(&format!("/admin/datastore/{name}/status"));
        for (_, store) in state.datastores.iter_mut().filter(|(name, _)| named(name)) {
            store.space = [total, used, avail];
        }
    }
}

fn compare(pbs: &SimPbs, exchange: &Exchange, answer: &Answer) -> Result<(), String> {
    same("status", &exchange.status, &answer.status)?;
    let left_out = exchange.body.strip_suffix(" bytes]");
    let left_out = left_out.and_then(|body| body.strip_prefix('['));
    let as_is = match left_out {
        Some(length) => compare_left_out(pbs, exchange, answer, length)?,
        None => compare_body(exchange, answer)?,
    };
    // The recorder's own directory had a longer name than the placeholder.
    let as_is = as_is && !exchange.body.contains("$RIG");
    // A body with parts that are not compared may have another length.
    let fixed = |headers: &[(String, String)]| -> Vec<(String, String)> {
        let headers = headers.iter().map(|(name, value)| match name.as_str() {
            "date" => (name.clone(), "checked below".to_owned()),
            "content-length" if !as_is => (name.clone(), "of another body".to_owned()),
            _ => (name.clone(), value.clone()),
        });
        headers.collect()
    };
    same("headers", &fixed(&exchange.headers), &fixed(&answer.headers))?;
    let mut lengths = answer.headers.iter();
    if let Some((_, length)) = lengths.find(|(name, _)| name == "content-length")
        && !exchange.target.starts_with("HEAD ")
    {
        same("length", length, &answer.body.len().to_string())?;
    }
    let mut dates = answer.headers.iter().filter(|(name, _)| name == "date");
    let (_, date) = dates.next().ok_or("no date")?;
    chrono::DateTime::parse_from_rfc2822(date).map_err(|error| error.to_string())?;
    let waited = answer.seconds >= world::UNAUTHORIZED_DELAY.as_secs_f64();
    if exchange.seconds >= 3.0 && !waited {
        return Err(format!("  answered after {} s", answer.seconds));
    }
    Ok(())
}

/// Compares the bodies; returns whether they are equal without normalising.
fn compare_body(exchange: &Exchange, answer: &Answer) -> Result<bool, String> {
    let body = String::from_utf8(answer.body.clone()).map_err(|error| error.to_string())?;
    let expected: Result<Value, _> = serde_json::from_str(&exchange.body);
    match expected {
        Ok(expected) => {
            let found: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
            let as_is = expected == found;
            let expected = normal::document(expected);
            let found = normal::document(found);
            same("body", &expected, &found)?;
            Ok(as_is)
        }
        Err(_) if exchange.target.contains("/log?download=1") => {
            let expected = normal::log_text(&exchange.body);
            same("log", &expected, &normal::log_text(&body))?;
            Ok(expected == body)
        }
        Err(_) => same("text", &exchange.body, &body).map(|()| true),
    }
}

/// The recorder left out two bodies and noted their lengths. One was uncompressed: its length is
/// compared. The other was compressed, and compressors differ: its content is compared with the
/// answer to the same request without compression.
fn compare_left_out(
    pbs: &SimPbs,
    exchange: &Exchange,
    answer: &Answer,
    length: &str,
) -> Result<bool, String> {
    if exchange.header("content-encoding").is_none() {
        same("length", length, &answer.body.len().to_string())?;
        return Ok(true);
    }
    let plain = client::inflate_stored(&answer.body);
    let request = String::from_utf8_lossy(&exchange.request);
    let request = request.replace("Accept-Encoding: gzip, deflate\r\n", "");
    let request = request.replace("<SECRET>", world::secret(exchange));
    let uncompressed = client::send(pbs, request.as_bytes());
    same("unpacked body", &uncompressed.body, &plain)?;
    Ok(false)
}

fn same<T: PartialEq + std::fmt::Debug + ?Sized>(
    what: &str,
    recorded: &T,
    found: &T,
) -> Result<(), String> {
    if recorded == found {
        return Ok(());
    }
    let (recorded, found) = (format!("{recorded:?}"), format!("{found:?}"));
    let common = recorded.chars().zip(found.chars());
    let common = common.take_while(|(one, other)| one == other).count();
    let excerpt = |text: &str| -> String {
        let from = common.saturating_sub(120);
        text.chars().skip(from).take(400).collect()
    };
    Err(format!(
        "  {what} recorded: {}\n  {what} answered: {}",
        excerpt(&recorded),
        excerpt(&found)
    ))
}
