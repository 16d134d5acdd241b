use serde_json::Value;

use crate::sys::text::{printable, seconds};

/// A record of the journal in one line for a person.
pub fn line(record: &Value) -> String {
    let text = |key: &str| printable(record[key].as_str().unwrap_or("-"), 200);
    let mut parts = vec![text("time"), text("kind")];
    if let Some(vmid) = record["vmid"].as_u64() {
        parts.push(format!("guest {vmid}"));
    }
    for key in ["hostname", "storage", "mode_used", "grade", "outcome", "by"] {
        if record[key].is_string() {
            parts.push(text(key));
        }
    }
    if let Some(ms) = record["downtime_ms"].as_u64() {
        parts.push(format!("down for {}", seconds(ms)));
    }
    for change in record["changes"].as_array().into_iter().flatten() {
        let text = |key: &str| printable(change[key].as_str().unwrap_or("-"), 200);
        parts.push(format!("{}: {} -> {}", text("key"), text("from"), text("to")));
    }
    for key in ["error", "reason"] {
        if record[key].is_string() {
            parts.push(format!("({})", text(key)));
        }
    }
    for reason in record["reasons"].as_array().into_iter().flatten() {
        parts.push(format!("({})", printable(reason.as_str().unwrap_or_default(), 200)));
    }
    parts.join("  ")
}
