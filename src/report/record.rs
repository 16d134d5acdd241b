use chrono::{DateTime, Local};
use serde_json::Value;

use crate::sys::text::{count, printable, seconds};

/// Long, because a reason may end with a command to copy.
const REASON: usize = 1000;

/// A record of the journal in one line for a person.
pub fn line(record: &Value) -> String {
    let text = |key: &str| printable(record[key].as_str().unwrap_or("-"), 200);
    let mut parts = vec![local(&text("time")), text("kind")];
    if let Some(vmid) = record["vmid"].as_u64() {
        parts.push(format!("guest {vmid}"));
    }
    for key in ["hostname", "storage", "mode_used", "grade", "outcome", "by"] {
        if record[key].is_string() {
            parts.push(text(key));
        }
    }
    parts.extend(snapshot(record));
    if let Some(original) = record["original"].as_u64() {
        parts.push(format!("copy of guest {original}"));
    }
    if let Some(ms) = record["downtime_ms"].as_u64() {
        parts.push(format!("down for {}", seconds(ms)));
    }
    parts.extend(containers(record));
    for change in record["changes"].as_array().into_iter().flatten() {
        let text = |key: &str| printable(change[key].as_str().unwrap_or("-"), 200);
        parts.push(format!("{}: {} -> {}", text("key"), text("from"), text("to")));
    }
    for key in ["guest", "done"] {
        parts.extend(texts(&record[key]));
    }
    parts.extend(texts(&record["failed"]).map(|what| format!("FAILED: {what}")));
    if let Some(number) = record["records"].as_u64() {
        parts.push(format!("{number} more not written in the hour from {}", text("since")));
    }
    if record["file"].is_string() {
        parts.push(format!("{} of the journal, up to {}", text("file"), local(&text("until"))));
    }
    for key in ["error", "reason", "left"] {
        if let Some(why) = record[key].as_str() {
            parts.push(format!("({})", printable(why, REASON)));
        }
    }
    for key in ["reasons", "notes"] {
        parts.extend(texts(&record[key]).map(|why| format!("({why})")));
    }
    parts.join("  ")
}

/// In the local time zone: `2026-11-21 23:22:56`.
fn local(time: &str) -> String {
    match time.parse::<DateTime<Local>>() {
        Ok(time) => time.format("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => time.to_string(),
    }
}

/// `ct/9001/2026-11-21T23:22:56Z`, for a verify.
fn snapshot(record: &Value) -> Option<String> {
    let (kind, id) = (record["backup_type"].as_str()?, record["backup_id"].as_str()?);
    let time = DateTime::from_timestamp(record["backup_time"].as_i64()?, 0)?;
    Some(printable(&format!("{kind}/{id}/{}", time.format("%Y-%m-%dT%H:%M:%SZ")), 200))
}

/// `3 of 4 containers back, not db (permission denied)`
fn containers(record: &Value) -> Option<String> {
    let all = record["containers"].as_array().filter(|all| !all.is_empty())?;
    let lost: Vec<String> = all
        .iter()
        .filter(|container| container["fate"] != "back" && container["fate"] != "finished")
        .map(|container| {
            let name = printable(container["name"].as_str().unwrap_or("-"), 80);
            match container["error"].as_str().filter(|_| container["not_back"] == true) {
                Some(why) => format!("{name} ({})", printable(why, 300)),
                None => name,
            }
        })
        .collect();
    let whole = count(all.len(), "container");
    Some(match lost.len() {
        0 => format!("{whole} back"),
        number => format!("{} of {whole} back, not {}", all.len() - number, lost.join(", ")),
    })
}

fn texts(list: &Value) -> impl Iterator<Item = String> {
    let all = list.as_array().into_iter().flatten();
    all.map(|text| printable(text.as_str().unwrap_or_default(), REASON))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of an object, including those of nested objects and lists.
    fn fields(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    found.push(key.clone());
                    fields(value, found);
                }
            }
            Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_kind_and_field_is_documented() {
        let page = include_str!("../../packaging/doc/json.md");
        for record in crate::journal::examples() {
            let record = serde_json::to_value(record).unwrap();
            let mut names = vec![record["kind"].as_str().unwrap().to_string()];
            fields(&record, &mut names);
            for name in names {
                assert!(page.contains(&format!("`{name}`")), "{name}");
            }
        }
    }

    #[test]
    fn a_record_of_every_kind_tells_what_a_person_asks_of_it() {
        let lines: Vec<String> = crate::journal::examples()
            .into_iter()
            .map(|record| line(&serde_json::to_value(record).unwrap()))
            .collect();
        let told = [
            "-  backup  guest 9001  prod  offsite  suspend  crash-consistent  ok  down for 0.76 s  \
             0 of 1 container back, not db  (db was started by somebody)  \
             (cache is left running by its settings)",
            "-  verify  guest 9001  offsite  unreachable  ct/9001/2026-11-21T23:22:56Z  \
             (connection refused)",
            "-  recovered  guest 9001  guard  down for 4.00 s  1 container back  thawed  unlocked  \
             (vzdump is dead)",
            "-  settled  guest 9002  1 container back  (web could not be started)  \
             (db runs and is not healthy)",
            "-  identity  guest 9002  changed  copy of guest 9001  hostname: prod -> prod-9002  \
             (guest 9001 has its MAC)",
            "-  renewed  guest 9002  copy of guest 9001  machine-id  \
             FAILED: ssh-host-keys: no space left",
            "-  left-out  guest 9002  12 more not written in the hour from 2026-11-21T23:22:50.000Z",
            &format!(
                "-  removed  000001.jsonl of the journal, up to {}  (all of it is older than journal.keep)",
                local("2026-11-21T23:22:50.000Z")
            ),
        ];
        assert_eq!(lines, told);
    }
}
