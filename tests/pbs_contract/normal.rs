//! The few parts of an answer that no simulation can repeat, and how they are normalised.
//!
//! Everything else is compared exactly: the replay sets the simulated clock and task counter, so
//! that even task ids, start and end times are the recorded ones.

use serde_json::{Value, json};

/// Makes two JSON documents comparable.
///
/// 1. Lists of snapshots and groups come in directory order: sorted here by type, id and time.
/// 2. A group's `files` come in directory order too, and so do those of a snapshot with an
///    unreadable manifest: sorted by name.
/// 3. The manifest is stored compressed, so the size of `index.json.blob` after a verify depends on
///    the compressor. It is removed, and subtracted from the snapshot's size. Before any verify it
///    is state that the replay sets, and is compared.
/// 4. Log lines: the time stamp is removed after a check of its format; sizes, durations and speeds
///    of a `verified` line are removed, its count of errors is not.
/// 5. A manifest's checksums and counts of chunks depend on the data, which is not simulated.
pub fn document(mut document: Value) -> Value {
    if let Some(list) = document.get_mut("data").and_then(Value::as_array_mut) {
        for entry in list.iter_mut() {
            normalise_entry(entry);
        }
        if list.iter().all(|entry| entry.get("backup-id").is_some()) {
            list.sort_by_key(|entry| {
                let text = |name| entry[name].as_str().map(str::to_owned);
                let time = entry["backup-time"].as_i64();
                (text("backup-type"), text("backup-id"), time)
            });
        }
    }
    if document["unprotected"].is_object() {
        document["unprotected"]["chunk_upload_stats"] = json!("of the data");
        for file in document["files"].as_array_mut().into_iter().flatten() {
            file["csum"] = json!("of the data");
        }
    }
    document
}

fn normalise_entry(entry: &mut Value) {
    if let Some(line) = entry.get("t").and_then(Value::as_str) {
        entry["t"] = json!(log_line(line));
    }
    // An entry of `files`, which does not show whether the snapshot was verified.
    if entry["filename"] == "index.json.blob" && entry.get("size").is_some() {
        entry["size"] = json!("as compressed");
    }
    let verified = entry.get("verification").is_some();
    let mut compressed = 0;
    if let Some(files) = entry.get_mut("files").and_then(Value::as_array_mut) {
        for file in files.iter_mut() {
            if verified && file["filename"] == "index.json.blob" {
                compressed = file["size"].as_u64().expect("the manifest's size");
                file["size"] = json!("as compressed");
            }
        }
        let unordered = |file: &Value| file.is_string() || file.get("crypt-mode").is_none();
        if files.iter().all(unordered) {
            files.sort_by_key(Value::to_string);
        }
    }
    if verified {
        let size = entry["size"].as_u64().expect("the snapshot's size");
        entry["size"] = json!(size - compressed);
    }
}

/// Normalises the text of a task log, line by line.
pub fn log_text(text: &str) -> String {
    text.lines().map(|line| log_line(line) + "\n").collect()
}

/// Removes the time stamp of a log line, and the measurements of a `verified` line.
pub fn log_line(line: &str) -> String {
    let (stamp, text) = line.split_at_checked(25).expect("a time stamp");
    chrono::DateTime::parse_from_rfc3339(stamp).expect("a time stamp");
    let text = text.strip_prefix(": ").expect("a colon and a blank");
    let Some(measured) = text.strip_prefix("  verified ") else {
        return text.to_owned();
    };
    // "8.65/8.68 MiB in 0.01 seconds, speed 593.31/595.21 MiB/s (0 errors)"
    let words: Vec<String> = measured
        .split(' ')
        .enumerate()
        .map(|(at, word)| match at {
            0 | 6 => {
                let numbers: Vec<&str> = word.split('/').collect();
                assert_eq!(numbers.len(), 2, "{line}");
                numbers.iter().for_each(|number| assert_measured(number, line));
                "N/N".to_owned()
            }
            3 => {
                assert_measured(word, line);
                "N".to_owned()
            }
            _ => word.to_owned(),
        })
        .collect();
    format!("  verified {}", words.join(" "))
}

fn assert_measured(number: &str, line: &str) {
    let decimals = number.split_once('.').map(|(_, decimals)| decimals.len());
    assert!(number.parse::<f64>().is_ok(), "{line}");
    assert_eq!(decimals, Some(2), "{line}");
}
