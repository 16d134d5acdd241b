//! Parses answers without keeping more than needed: a guest can make its lists and maps as long as
//! it likes, and a fully parsed answer takes many times its own size.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::database;
use crate::sys::text;

/// How many containers of one guest are handled. This and
/// [`Container::weight`](super::Container::weight) limit everything that is kept, stored or
/// journalled about a guest.
pub const MOST_CONTAINERS: usize = 10_000;

/// The longest label or path that is kept, in bytes.
const LONGEST_TEXT: usize = 4096;

/// How many labels of one container are kept; compose sets a dozen.
const MOST_LABELS: usize = 256;

/// How many mounts of one container are kept.
const MOST_DATA: usize = 64;

/// The first words of a command contain the entrypoint and the program that it starts.
const MOST_WORDS: usize = 2;

/// Prefixes of the labels that are kept: those of compose, of Swarm and of Stillpoint.
const PREFIXES: [&str; 3] = ["com.docker.compose.", "com.docker.swarm.", "stillpoint."];

/// The labels that have a meaning here.
#[derive(Default)]
pub struct Labels(pub HashMap<String, String>);

/// The mounts whose sources are paths.
#[derive(Default)]
pub struct Mounts {
    pub data: Vec<Data>,
    /// Whether a mount is at a place where databases keep data.
    pub database: bool,
}

/// A mount of a container: a volume or a directory of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Its source in the guest; at most 4096 bytes.
    pub path: String,
    /// The container may write there.
    pub writable: bool,
    /// The volume's name, if it is a volume.
    pub volume: Option<String>,
}

impl Data {
    /// The memory that it takes, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Data>() + self.path.len() + self.volume.as_ref().map_or(0, String::len)
    }
}

/// The first words of a command.
#[derive(Default)]
pub struct Words(pub Vec<String>);

/// The ids in a list of containers.
pub struct Ids(pub Vec<String>);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        deserializer.deserialize_any(Labels::default())
    }
}

impl<'de> Visitor<'de> for Labels {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }

    fn visit_unit<E>(self) -> Result<Labels, E> {
        Ok(self)
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<Labels, M::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let ours = PREFIXES.iter().any(|prefix| key.starts_with(prefix));
            if !ours || key.len() > LONGEST_TEXT || self.0.len() == MOST_LABELS {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value: String = map.next_value()?;
            if value.len() <= LONGEST_TEXT {
                self.0.insert(key, value);
            }
        }
        Ok(self)
    }
}

impl<'de> Deserialize<'de> for Mounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mounts, D::Error> {
        deserializer.deserialize_any(Mounts::default())
    }
}

impl<'de> Visitor<'de> for Mounts {
    type Value = Mounts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mounts")
    }

    fn visit_unit<E>(self) -> Result<Mounts, E> {
        Ok(self)
    }

    fn visit_seq<S: SeqAccess<'de>>(mut self, mut mounts: S) -> Result<Mounts, S::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Mount {
            #[serde(default)]
            source: String,
            #[serde(default)]
            destination: String,
            #[serde(default, rename = "RW")]
            writable: Option<bool>,
            #[serde(default)]
            name: String,
        }
        while let Some(Mount { source, destination, writable, name }) = mounts.next_element()? {
            self.database |= database::is_place(&destination);
            let is_path = source.starts_with('/') && source.len() <= LONGEST_TEXT;
            if is_path && self.data.len() < MOST_DATA {
                // A mount that is not marked read-only counts as writable.
                let writable = writable.unwrap_or(true);
                self.data.push(Data {
                    path: source,
                    writable,
                    volume: is_id(&name).then_some(name),
                });
            }
        }
        Ok(self)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Words, D::Error> {
        deserializer.deserialize_any(Words::default())
    }
}

impl<'de> Visitor<'de> for Words {
    type Value = Words;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the words of a command")
    }

    fn visit_unit<E>(self) -> Result<Words, E> {
        Ok(self)
    }

    fn visit_seq<S: SeqAccess<'de>>(mut self, mut words: S) -> Result<Words, S::Error> {
        while self.0.len() < MOST_WORDS {
            let Some(word) = words.next_element()? else { return Ok(self) };
            self.0.push(word);
        }
        while words.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self)
    }
}

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ids, D::Error> {
        deserializer.deserialize_seq(Ids(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Ids {
    type Value = Ids;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of containers")
    }

    fn visit_seq<S: SeqAccess<'de>>(mut self, mut list: S) -> Result<Ids, S::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listed {
            id: String,
        }
        while let Some(Listed { id }) = list.next_element()? {
            if !is_id(&id) {
                let name = text::printable(&id, 80);
                return Err(S::Error::custom(format!("a container named '{name}'")));
            }
            if self.0.len() == MOST_CONTAINERS {
                return Err(S::Error::custom(format!("more containers than {MOST_CONTAINERS}")));
            }
            self.0.push(id);
        }
        Ok(self)
    }
}

/// An id or a name as engines make them: without characters that have a meaning in a path.
pub fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    id.len() <= 128
        && id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && id.bytes().all(plain)
}
