//! Limits the size of a record: a guest decides how many containers it has, and how long their
//! names are.

use serde_json::{Value, json};

/// The longest record that is written, in bytes. Readers of the newest records skip those above 1
/// MiB.
pub(super) const LONGEST: usize = 256 << 10;

/// The longest name, in bytes: names of files and hosts are not longer, nor are containers' names
/// that a person gave.
const NAME: usize = 255;

/// The fields that are names; all others are text for people.
const NAMES: [&str; 7] = ["name", "id", "stack", "service", "hostname", "action", "fate"];

/// How much of a record to write.
struct Bounds {
    /// The number of containers; the rest is counted.
    containers: usize,
    /// The number of entries in every other list.
    list: usize,
    /// The bytes of a text.
    text: usize,
}

/// From large to small: the first that makes a record fit into [`LONGEST`] is used.
const BOUNDS: [Bounds; 4] = [
    Bounds { containers: 200, list: 50, text: 2000 },
    Bounds { containers: 200, list: 20, text: 300 },
    Bounds { containers: 50, list: 20, text: 200 },
    Bounds { containers: 20, list: 5, text: 100 },
];

/// The record within the limits.
pub(super) fn bounded(record: &Value) -> Value {
    let within = |bounds: &Bounds| {
        let mut record = record.clone();
        cut_object(&mut record, bounds);
        record
    };
    let mut cut = Value::Null;
    for bounds in &BOUNDS {
        cut = within(bounds);
        if cut.to_string().len() <= LONGEST {
            break;
        }
    }
    cut
}

fn cut_object(value: &mut Value, bounds: &Bounds) {
    let Value::Object(fields) = value else { return };
    let mut left_out = 0;
    for (key, value) in fields.iter_mut() {
        match value {
            Value::String(text) => {
                let limit = if NAMES.contains(&key.as_str()) { NAME } else { bounds.text };
                cut_text(text, limit);
            }
            Value::Array(list) if key == "containers" => {
                left_out = list.len().saturating_sub(bounds.containers);
                if left_out > 0 {
                    // Containers that are not back come first, because readers look for those.
                    list.sort_by_key(|it| (it["not_back"] != true, it["fate"] == "back"));
                    list.truncate(bounds.containers);
                }
                list.iter_mut().for_each(|container| cut_object(container, bounds));
            }
            Value::Array(list) => cut_list(list, bounds),
            Value::Object(_) => cut_object(value, bounds),
            _ => {}
        }
    }
    if left_out > 0 {
        let earlier = fields.get("containers_left_out").and_then(Value::as_u64).unwrap_or(0);
        fields.insert("containers_left_out".to_string(), json!(earlier + left_out as u64));
    }
}

fn cut_list(list: &mut Vec<Value>, bounds: &Bounds) {
    let more = list.len().saturating_sub(bounds.list);
    list.truncate(bounds.list);
    for entry in list.iter_mut() {
        match entry {
            Value::String(text) => cut_text(text, bounds.text),
            _ => cut_object(entry, bounds),
        }
    }
    if more > 0 && list.first().is_some_and(Value::is_string) {
        list.push(json!(format!("and {more} more")));
    }
}

/// Cuts a text to so many bytes, between characters.
fn cut_text(text: &mut String, limit: usize) {
    if text.len() > limit {
        let room = limit.saturating_sub('…'.len_utf8());
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_within_its_bounds_stays_as_it_is() {
        for record in crate::journal::examples() {
            let record = serde_json::to_value(record).unwrap();
            assert_eq!(bounded(&record), record);
        }
    }

    #[test]
    fn whatever_a_guest_names_a_record_fits_and_says_what_it_leaves_out() {
        let container = |number: usize, name: &str| {
            json!({
                "name": name, "id": number.to_string(), "stack": name, "service": name, "action": "stop",
                "fate": if number == 900 { "failed" } else { "back" }, "error": name,
                "not_in_backup": vec![name; 10],
            })
        };
        for (name, count) in
            [("\u{1}".repeat(1 << 12), 1000), ("ü".repeat(900), 1000), ("db".into(), 1000)]
        {
            let containers: Vec<Value> =
                (0..count).map(|number| container(number, &name)).collect();
            let record = json!({
                "kind": "settled", "vmid": 9001, "left": name, "notes": vec![&name; 1000],
                "containers": containers,
            });
            let cut = bounded(&record);
            assert!(cut.to_string().len() <= LONGEST);
            let containers = cut["containers"].as_array().unwrap();
            let left_out = cut["containers_left_out"].as_u64().unwrap();
            assert_eq!(containers.len() as u64 + left_out, 1000);
            assert_eq!(containers[0]["id"], "900", "the one that is not back");
            assert!(
                containers
                    .iter()
                    .all(|container| container["name"].as_str().unwrap().len() <= NAME)
            );
            assert!(
                cut["notes"]
                    .as_array()
                    .unwrap()
                    .last()
                    .unwrap()
                    .as_str()
                    .unwrap()
                    .ends_with("more")
            );
        }
        assert_eq!(
            bounded(&json!({ "containers": vec![container(0, "db"); 200] }))["containers"]
                .as_array()
                .unwrap()
                .len(),
            200
        );
    }
}
