//! The initial inputs of the targets: the handmade samples in `seeds`, and recordings of real nodes
//! and servers.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The samples of a target, each with its name. `tests` is the directory that contains `fixtures`
/// and `fuzz`.
pub fn of(tests: &Path, target: &str) -> Vec<(String, Vec<u8>)> {
    let mut samples = handmade(&tests.join("fuzz/seeds").join(target));
    let recorded = match target {
        "call" => calls(&traces(tests)),
        "target" => targets(&traces(tests)),
        "task_log" => task_logs(&traces(tests)),
        "pbs_upid" | "vzdump_upid" => upids(tests),
        "pbs_snapshots" => snapshots(tests),
        _ => Vec::new(),
    };
    let recorded = recorded.into_iter().map(String::into_bytes).enumerate();
    samples.extend(recorded.map(|(number, bytes)| (format!("recorded-{number}"), bytes)));
    samples
}

fn handmade(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut samples: Vec<(String, Vec<u8>)> = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect();
    samples.sort();
    samples
}

/// The recorded runs of vzdump.
fn traces(tests: &Path) -> Vec<Value> {
    let text = fs::read(tests.join("fixtures/vzdump/traces.json")).unwrap();
    let traces: Value = serde_json::from_slice(&text).unwrap();
    traces["scenarios"].as_object().unwrap().values().cloned().collect()
}

fn each_call(traces: &[Value]) -> impl Iterator<Item = &Value> {
    traces.iter().flat_map(|trace| trace["calls"].as_array().unwrap())
}

fn calls(traces: &[Value]) -> Vec<String> {
    let call = |call: &Value| {
        let mut lines: Vec<String> = strings(&call["argv"]);
        let environment = call["env"].as_object().unwrap();
        lines.extend(
            environment
                .iter()
                .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())),
        );
        lines.join("\n")
    };
    unique(each_call(traces).map(call).collect())
}

fn targets(traces: &[Value]) -> Vec<String> {
    let target = |call: &Value| call["env"]["TARGET"].as_str().map(String::from);
    unique(each_call(traces).filter_map(target).collect())
}

fn task_logs(traces: &[Value]) -> Vec<String> {
    unique(traces.iter().map(|trace| strings(&trace["task_log"]).join("\n")).collect())
}

/// The recorded exchanges with backup servers.
fn exchanges(tests: &Path) -> Vec<String> {
    let mut paths: Vec<_> = fs::read_dir(tests.join("fixtures/pbs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

fn upids(tests: &Path) -> Vec<String> {
    let mut upids = Vec::new();
    for text in exchanges(tests) {
        for piece in text.split("\"UPID:").skip(1) {
            let end = piece.find('"').unwrap();
            upids.push(format!("UPID:{}", piece[..end].replace(r"\\", r"\")));
        }
    }
    unique(upids)
}

fn snapshots(tests: &Path) -> Vec<String> {
    let mut lists = Vec::new();
    for text in exchanges(tests) {
        for line in text.lines().filter(|line| line.starts_with(r#"{"data":[{"backup-type""#)) {
            let list: Value = serde_json::from_str(line).unwrap();
            lists.push(list["data"].to_string());
        }
    }
    unique(lists)
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap();
    list.iter().map(|text| text.as_str().unwrap().to_string()).collect()
}

fn unique(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts.dedup();
    texts
}
