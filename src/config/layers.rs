//! The settings files: their entries with lines, and their errors.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::keys::{KEYS, Kind, kind, nearest};
use super::written::Written;
use crate::sys::look::Watched;
use crate::sys::text::{excerpt, printable};
use crate::sys::{Root, bounded, file};

/// The second file is this node's; it overrides the cluster's.
const PLACES: [&str; 2] = ["/etc/pve/stillpoint/config.toml", "/etc/stillpoint/config.toml"];

/// The largest file in pmxcfs.
const LIMIT: u64 = 1 << 20;

/// pmxcfs answers in microseconds, unless it hangs.
const CLUSTER_LIMIT: Duration = Duration::from_secs(5);

/// Nobody reads more errors at once.
const MOST_FAULTS: usize = 20;

/// The content of the settings files.
#[derive(Debug, Default)]
pub struct Layers {
    /// The existing files, the cluster's first.
    pub files: Vec<File>,
    /// The entries of the files in use, by path.
    entries: BTreeMap<Vec<String>, Entry>,
}

/// A settings file.
#[derive(Debug)]
pub struct File {
    pub place: &'static str,
    /// Why it is not used; empty if it is used.
    pub faults: Vec<Fault>,
}

/// An error in a settings file.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1; `None` if the error concerns the whole file.
    pub line: Option<usize>,
    pub message: String,
}

#[derive(Debug)]
struct Entry {
    value: Value,
    /// The value as it is written in the file.
    text: String,
    place: &'static str,
    line: usize,
}

/// A setting in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// `quiesce.hold-limit`
    pub key: String,
    /// The value as a file has it; `None` if it is not set and has no default.
    pub text: Option<String>,
    pub value: Option<Value>,
    /// File and line; `None` for the default.
    pub from: Option<(&'static str, usize)>,
}

impl Layers {
    /// Reads the files of a node.
    pub fn read(root: &Root) -> Layers {
        Layers::read_by(|place| file::read_text(&root.path(place), LIMIT))
    }

    /// As [`Layers::read`], but a cluster's file that cannot be read within five seconds is not
    /// used.
    pub fn read_bounded(root: &Root) -> Layers {
        Layers::read_by(|place| {
            let read = || file::read_text(&root.path(place), LIMIT);
            match place.starts_with("/etc/pve/") {
                true => bounded::within(&Watched::cluster(root), CLUSTER_LIMIT, || {
                    read().map_err(|error| error.to_string())
                })?
                .map_err(io::Error::other),
                false => read(),
            }
        })
    }

    fn read_by(read: impl Fn(&str) -> io::Result<Option<String>>) -> Layers {
        let mut layers = Layers::default();
        for place in PLACES {
            let read = match read(place) {
                Ok(None) => continue,
                Ok(Some(text)) => entries(&text, place),
                Err(error) => Err(vec![Fault { line: None, message: error.to_string() }]),
            };
            let faults = match read {
                Ok(entries) => {
                    layers.entries.extend(entries);
                    Vec::new()
                }
                Err(faults) => faults,
            };
            layers.files.push(File { place, faults });
        }
        layers
    }

    /// The files in use, combined; this node's file overrides the cluster's, key by key.
    pub(super) fn written(&self) -> Result<Written, String> {
        let mut table = Table::new();
        for (path, entry) in &self.entries {
            insert(&mut table, path, entry.value.clone());
        }
        Written::deserialize(table).map_err(|error| error.message().to_string())
    }

    /// Why files are not used, in words for a person; `None` if all are used.
    pub fn complaint(&self) -> Option<String> {
        let complaints: Vec<String> = self.files.iter().filter_map(File::complaint).collect();
        (!complaints.is_empty()).then(|| complaints.join("; "))
    }

    /// Every setting, in the order of the documentation, then those of guests and storages.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for (key, default) in KEYS.iter().filter(|(key, _)| !key.contains('*')) {
            let path: Vec<String> = key.split('.').map(String::from).collect();
            settings.push(match self.entries.get(&path) {
                Some(entry) => setting(&path, entry),
                None => Setting {
                    key: (*key).to_string(),
                    text: default.map(String::from),
                    value: default.and_then(|text| text.parse().ok()),
                    from: None,
                },
            });
        }
        let of_one = |path: &&Vec<String>| path.len() > 2;
        let own = self.entries.iter().filter(|(path, _)| of_one(path));
        settings.extend(own.map(|(path, entry)| setting(path, entry)));
        settings
    }
}

fn setting(path: &[String], entry: &Entry) -> Setting {
    Setting {
        key: path.join("."),
        text: Some(printable(&entry.text, 1000)),
        value: Some(entry.value.clone()),
        from: Some((entry.place, entry.line)),
    }
}

impl File {
    fn complaint(&self) -> Option<String> {
        let first = self.faults.first()?;
        let line = first.line.map_or(String::new(), |line| format!("line {line}: "));
        let more = match self.faults.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more: `stillpoint config` lists them)"),
        };
        Some(format!("{} is not used: {line}{}{more}", self.place, first.message))
    }
}

/// The entries of a file, or all of its errors.
fn entries(text: &str, place: &'static str) -> Result<BTreeMap<Vec<String>, Entry>, Vec<Fault>> {
    let line_of = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let parsed = DeTable::parse(text).and_then(|spans| Ok((spans, text.parse::<Table>()?)));
    let (spans, values) = parsed.map_err(|error| {
        let line = error.span().map(|span| line_of(span.start));
        vec![Fault { line, message: excerpt(&error.message(), 300) }]
    })?;
    let mut found = Found::default();
    found.walk(&mut Vec::new(), spans.get_ref());
    let mut entries = BTreeMap::new();
    for (path, span) in found.leaves {
        let line = line_of(span.start);
        let Some(value) = value_at(&values, &path).cloned() else { continue };
        let mut alone = Table::new();
        insert(&mut alone, &path, value.clone());
        if let Err(error) = Written::deserialize(alone) {
            let message = format!("{}: {}", path.join("."), printable(error.message(), 300));
            found.faults.push((span.start, message));
        }
        let text = text.get(span).unwrap_or_default().to_string();
        entries.insert(path, Entry { value, text, place, line });
    }
    if found.faults.is_empty() {
        return Ok(entries);
    }
    found.faults.sort();
    let faults = found.faults.into_iter().take(MOST_FAULTS);
    Err(faults.map(|(at, message)| Fault { line: Some(line_of(at)), message }).collect())
}

/// The entries and errors of a file, each with its byte offset.
#[derive(Default)]
struct Found {
    leaves: Vec<(Vec<String>, Range<usize>)>,
    faults: Vec<(usize, String)>,
}

impl Found {
    /// Descends only as deep as settings are.
    fn walk(&mut self, path: &mut Vec<String>, table: &DeTable<'_>) {
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            if let Err(message) = self.one(path, value) {
                self.faults.push((key.span().start, message));
            }
            path.pop();
        }
    }

    fn one(&mut self, path: &mut Vec<String>, value: &Spanned<DeValue<'_>>) -> Result<(), String> {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let name = printable(&words.join("."), 200);
        if let ["guest", vmid] = words.as_slice()
            && !is_vmid(vmid)
        {
            return Err(format!(
                "'{}' in [{name}] is not a VMID: write a number from 100 on, as `pct list` shows \
                 it",
                printable(vmid, 40)
            ));
        }
        match (kind(&words), value.get_ref()) {
            (Kind::Table, DeValue::Table(inner)) => self.walk(path, inner),
            (Kind::Table, _) => return Err(format!("{name} is a table of settings: [{name}]")),
            (Kind::Setting, DeValue::Table(_)) => {
                return Err(format!("{name} is one setting, not a table of settings"));
            }
            (Kind::Setting, _) => self.leaves.push((path.clone(), value.span())),
            (Kind::Nothing, _) => {
                let nearest = printable(&nearest(&words), 200);
                return Err(format!("there is no setting {name}, the nearest is {nearest}"));
            }
        }
        Ok(())
    }
}

/// A VMID as Proxmox VE writes it: a decimal number of at least 100.
fn is_vmid(text: &str) -> bool {
    text.parse::<u32>().is_ok_and(|number| number >= 100 && number.to_string() == text)
}

fn value_at<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (last, tables) = path.split_last()?;
    let mut table = table;
    for name in tables {
        table = table.get(name)?.as_table()?;
    }
    table.get(last)
}

fn insert(table: &mut Table, path: &[String], value: Value) {
    let Some((last, tables)) = path.split_last() else { return };
    let mut table = table;
    for name in tables {
        let inner = table.entry(name.as_str()).or_insert_with(|| Value::Table(Table::new()));
        // `kind` says that this path is a table.
        let Value::Table(inner) = inner else { return };
        table = inner;
    }
    table.insert(last.clone(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<Fault> {
        entries(text, "/etc/stillpoint/config.toml").err().unwrap_or_default()
    }

    /// The only fault of a file, with its line.
    fn fault(text: &str) -> (usize, String) {
        let mut faults = faults(text);
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        let fault = faults.remove(0);
        (fault.line.unwrap(), fault.message)
    }

    #[test]
    fn a_fault_names_its_line_and_the_way_out() {
        for (text, line, words) in [
            ("\n[quiesce]\nhold-limt = \"5min\"\n", 3, "the nearest is quiesce.hold-limit"),
            ("[quiesce]\nhold-limit = \"5\"\n", 2, "as in 90s, 5min"),
            ("[quiesce]\nhold-limit = 5\n", 2, "quiesce.hold-limit"),
            ("[quiesce]\nhold-limit = \"0s\"\n", 2, "longer than 0"),
            ("[quiesce]\nstrategy = \"halt\"\n", 2, "`stop`, `pause`, `none`"),
            ("[quiese]\nstrategy = \"stop\"\n", 1, "the nearest is quiesce"),
            ("quiesce = 1\n", 1, "[quiesce]"),
            ("[quiesce.strategy]\nx = 1\n", 1, "not a table"),
            ("[verify]\nparallel = 0\n", 2, "verify.parallel"),
            ("[verify]\nwhen = \"sometimes\"\n", 2, "must be always, never, or"),
            ("[restore]\nhostname = \"copy\"\n", 2, "{hostname}"),
            ("[restore]\nhostname = \"{hostname}-{host}\"\n", 2, "{host}"),
            ("[restore]\nhostname = \"{hostname}_{vmid}\"\n", 2, "'_'"),
            ("[report]\nping-url = \"ftp://hc.example.org/\"\n", 2, "https://"),
            ("[report]\ntextfile-directory = \"metrics\"\n", 2, "begins with /"),
            ("[guest.web]\nstrategy = \"stop\"\n", 1, "not a VMID"),
            ("[guest.099]\n", 1, "not a VMID"),
            ("[guest.9001]\nverify.wen = \"7d\"\n", 2, "guest.9001.verify.when"),
            ("[storage.offsite.verify]\nwait = \"1min\"\n", 2, "the nearest is verify.wait"),
            ("[quiesce\n", 1, ""),
            ("[quiesce]\nstrategy = \"stop\"\nstrategy = \"pause\"\n", 3, "duplicate"),
        ] {
            let (found, message) = fault(text);
            assert_eq!(found, line, "{text}: {message}");
            assert!(message.contains(words), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn all_faults_of_a_file_are_told_in_its_order() {
        let text = "[quiesce]\nwait = \"1\"\nhold-limit = \"1\"\n[guest.1]\nstrategy = \"stop\"\n";
        let lines: Vec<_> = faults(text).into_iter().map(|fault| fault.line.unwrap()).collect();
        assert_eq!(lines, [2, 3, 4]);
    }

    #[test]
    fn every_default_that_is_listed_is_the_one_that_is_used() {
        let mut table = Table::new();
        for (key, default) in KEYS {
            let path: Vec<String> = key.split('.').map(String::from).collect();
            if let Some(default) = default {
                insert(&mut table, &path, default.parse().unwrap());
            }
        }
        let listed = crate::config::Settings::from(Written::deserialize(table).unwrap());
        assert_eq!(format!("{listed:?}"), format!("{:?}", crate::config::Settings::default()));
    }

    #[test]
    fn every_setting_can_be_set() {
        for (key, default) in KEYS {
            let name = key.rsplit('.').next().unwrap();
            let default = default.or_else(|| {
                let same = |(other, default): &(&str, Option<&'static str>)| {
                    default.filter(|_| other.rsplit('.').next() == Some(name))
                };
                KEYS.iter().find_map(same)
            });
            let value = match (name, default) {
                ("textfile-directory", _) => "\"/var/lib/prometheus/node-exporter\"",
                ("ping-url", _) => "\"https://hc.example.org/ping/0b0b\"",
                ("key-saved", _) => "true",
                (_, Some(default)) => default,
                (_, None) => panic!("{key} has no example"),
            };
            let text = format!("{} = {value}\n", key.replace('*', "9001"));
            assert_eq!(faults(&text), [], "{text}");
        }
    }
}
