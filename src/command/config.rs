use anyhow::Result;
use serde_json::{Value, json};

use super::{print, print_json};
use crate::config::{Layers, Setting};
use crate::sys::Root;

/// Prints the settings in force, and where each comes from. The exit status is 1 if a file is not
/// used.
pub fn config(root: &Root, as_json: bool) -> Result<u8> {
    let layers = Layers::read(root);
    if as_json {
        print_json(&serde_json::to_string_pretty(&json_of(&layers)?)?)?;
    } else {
        for line in lines(&layers) {
            print(&line)?;
        }
    }
    Ok(u8::from(layers.complaint().is_some()))
}

/// The lines of a complete settings file.
fn lines(layers: &Layers) -> Vec<String> {
    let mut lines = Vec::new();
    for file in &layers.files {
        if file.faults.is_empty() {
            lines.push(format!("# Settings file: {}", file.place));
        }
        for fault in &file.faults {
            let line = fault.line.map_or(String::new(), |line| format!(", line {line}"));
            lines.push(format!("# Settings file NOT used: {}{line}:", file.place));
            lines.push(format!("#   {}", fault.message));
        }
    }
    if layers.files.is_empty() {
        lines.push("# There is no settings file: every setting has its default.".to_string());
    }
    let mut table = String::new();
    for setting in layers.settings() {
        let (within, name) = parted(&setting.key);
        if within != table {
            lines.push(String::new());
            lines.push(format!("[{within}]"));
            table = within.to_string();
        }
        let written = match &setting.text {
            Some(text) => format!("{name} = {text}"),
            None => format!("# {name} is not set"),
        };
        lines.push(match origin(&setting) {
            Some(origin) => format!("{written:<38}  # {origin}"),
            None => written,
        });
    }
    lines
}

/// The table of a setting and its name there; in the table of a guest or storage, the name may be
/// `verify.when`.
fn parted(key: &str) -> (&str, &str) {
    let tables = if key.starts_with("guest.") || key.starts_with("storage.") { 2 } else { 1 };
    match key.match_indices('.').nth(tables - 1) {
        Some((at, _)) => (&key[..at], &key[at + 1..]),
        None => ("", key),
    }
}

fn origin(setting: &Setting) -> Option<String> {
    match (setting.from, &setting.text) {
        (Some((place, line)), _) => Some(format!("{place}:{line}")),
        (None, Some(_)) => Some("default".to_string()),
        (None, None) => None,
    }
}

fn json_of(layers: &Layers) -> Result<Value> {
    let files: Vec<Value> = layers
        .files
        .iter()
        .map(|file| {
            let faults = file
                .faults
                .iter()
                .map(|fault| json!({ "line": fault.line, "message": fault.message }));
            json!({
                "file": file.place,
                "used": file.faults.is_empty(),
                "faults": faults.collect::<Vec<_>>(),
            })
        })
        .collect();
    let mut settings = Vec::new();
    for setting in layers.settings() {
        settings.push(json!({
            "key": setting.key,
            "value": serde_json::to_value(&setting.value)?,
            "file": setting.from.map(|(place, _)| place),
            "line": setting.from.map(|(_, line)| line),
        }));
    }
    Ok(json!({ "schema": 1, "files": files, "settings": settings }))
}
