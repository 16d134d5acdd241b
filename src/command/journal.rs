use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use super::cli::JournalArguments;
use super::{print_json, tell};
use crate::journal::{Break, Chain, Entry, Journal, Place, Position, Query};
use crate::report;
use crate::sys::Root;
use crate::sys::text::count;

/// How often `--follow` looks for new records.
const LOOK: Duration = Duration::from_millis(300);

/// Prints the journal, or what of it is asked for, and returns the exit status.
pub fn journal(root: &Root, arguments: &JournalArguments) -> Result<u8> {
    let journal = Journal::of(root);
    if arguments.check_chain {
        return check_chain(root, &journal, arguments.against.as_deref());
    }
    let query = Query {
        guest: arguments.guest,
        kind: arguments.kind.clone(),
        since: arguments.since,
        until: arguments.until,
    };
    let mut printed = Ok(());
    let mut print = |entry| {
        printed = print_entry(&entry, arguments.json);
        printed.is_ok()
    };
    let mut reached = match arguments.last {
        Some(number) => {
            // What is written meanwhile is then found behind the end.
            let end = if arguments.follow { journal.position()? } else { Position::default() };
            let _ = journal.last(&query, number)?.into_iter().all(&mut print);
            end
        }
        None => journal.search(&query, &mut print)?,
    };
    while arguments.follow && printed.is_ok() {
        thread::sleep(LOOK);
        let mut print = |entry| {
            printed = print_entry(&entry, arguments.json);
            printed.is_ok()
        };
        reached = journal.search_after(&reached, &query, &mut print)?;
    }
    printed.map(|()| 0)
}

fn print_entry(entry: &Entry, as_json: bool) -> Result<()> {
    match entry {
        Entry::Damaged { file, line, reason } => {
            eprintln!("{}, line {line}, is damaged: {reason}", file.display());
            Ok(())
        }
        Entry::Record(record) if as_json => print_json(&record.json.to_string()),
        Entry::Record(record) => tell(&report::record::line(&record.json)),
    }
}

/// Whether the journal is as it was written: 0 where it is, 1 where it is not.
fn check_chain(root: &Root, journal: &Journal, against: Option<&str>) -> Result<u8> {
    let against = against.map(head).transpose()?;
    let known = report::checkpoint_head(root).map(|head| head.to_string());
    let kept: Vec<String> = against.iter().cloned().chain(known).collect();
    let chain = journal.check_chain(&kept)?;
    for broken in &chain.breaks {
        tell(&in_words(broken))?;
    }
    if let Some(first) = &chain.first_torn {
        let lines =
            if chain.torn == 1 { "1 line is" } else { &format!("{} lines are", chain.torn) };
        tell(&format!(
            "{lines} unfinished, the first is {}: torn by a power cut or a full disk. The chain goes on \
             behind it, so nobody changed it later",
            at(first)
        ))?;
    }
    if chain.untied > 0 {
        tell(&format!(
            "{} of a version of Stillpoint that did not chain them yet",
            count(usize::try_from(chain.untied).unwrap_or(usize::MAX), "record")
        ))?;
    }
    verdict(&chain, !kept.is_empty())
}

fn verdict(chain: &Chain, was_compared: bool) -> Result<u8> {
    if !chain.breaks.is_empty() {
        tell("the chain is broken: the journal is not as it was written")?;
        return Ok(1);
    }
    let records = count(usize::try_from(chain.records).unwrap_or(usize::MAX), "chained record");
    let Some(head) = chain.head else {
        tell("the journal is empty")?;
        return Ok(0);
    };
    tell(&format!("sound: {records}, head {head}"))?;
    if !was_compared {
        tell(
            "cannot know whether whole records were cut off at the end: compare with a head from the \
             summary of a job, stillpoint journal --check-chain --against HEAD",
        )?;
    }
    Ok(0)
}

/// A head as a person copied it from a summary: its first digits are enough.
fn head(text: &str) -> Result<String> {
    let text = text.trim().to_ascii_lowercase();
    if !(16..=64).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("'{}' is no head: it is 16 to 64 hexadecimal digits", text.escape_debug());
    }
    Ok(text)
}

fn in_words(broken: &Break) -> String {
    match broken {
        Break::Changed(place) => format!("{} was changed", at(place)),
        Break::CutOut { first, last, before } if first == last => {
            format!("record {first} was cut out, before {}", at(before))
        }
        Break::CutOut { first, last, before } => {
            format!("records {first} to {last} were cut out, before {}", at(before))
        }
        Break::Swapped { number, at: place } => {
            format!("{}, record {number}, was moved there from another place", at(place))
        }
        Break::Inserted(place) => format!("{} was inserted", at(place)),
        Break::NoBeginning(place) => {
            format!(
                "the records before {} are gone, and no record tells of their removal",
                at(place)
            )
        }
        Break::NoSuchLine(head) => format!(
            "no line has the head {head}: the line that had it was changed, or was cut off with all \
             that followed"
        ),
    }
}

fn at(place: &Place) -> String {
    format!("{}, line {}", place.file.display(), place.line)
}
