use anyhow::Result;

use super::{print_json, tell};
use crate::journal::{Entry, Journal};
use crate::report::record;
use crate::sys::Root;
use crate::vzdump::Vmid;

/// Prints the journal, all of it or one guest's records.
pub fn journal(root: &Root, guest: Option<Vmid>, as_json: bool) -> Result<()> {
    let mut printed = Ok(());
    Journal::of(root).read(|entry| {
        match entry {
            Entry::Damaged { file, line, reason } => {
                eprintln!("{}, line {line}, is damaged: {reason}", file.display());
                return true;
            }
            Entry::Record(record) => {
                if guest.is_some_and(|guest| record.json["vmid"] != guest.0) {
                    return true;
                }
                printed = if as_json {
                    print_json(&record.json.to_string())
                } else {
                    tell(&record::line(&record.json))
                };
            }
        }
        printed.is_ok()
    })?;
    printed
}
