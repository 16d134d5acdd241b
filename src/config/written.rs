use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::{Address, Identity, OnError, OnFailure, Restore, Strategy, Trial, Verify, When};
use crate::sys::Url;
use crate::sys::text::printable;

/// The possible content of a settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Written {
    pub quiesce: WrittenQuiesce,
    pub verify: WrittenVerify,
    pub resume: WrittenResume,
    pub restore: WrittenRestore,
    pub journal: WrittenJournal,
    pub report: WrittenReport,
    pub guest: BTreeMap<String, Guest>,
    pub storage: BTreeMap<String, Storage>,
}

/// `[guest.VMID]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guest {
    pub strategy: Option<Strategy>,
    pub verify: Policy,
    pub restore: Copied,
}

/// `[storage.ID]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    pub verify: Policy,
    #[serde(rename = "key-saved")]
    pub key_saved: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WrittenQuiesce {
    pub strategy: Option<Strategy>,
    pub on_error: Option<OnError>,
    #[serde(deserialize_with = "more_than_nothing")]
    pub time_limit: Option<Span>,
    #[serde(deserialize_with = "more_than_nothing")]
    pub hold_limit: Option<Span>,
    #[serde(deserialize_with = "more_than_nothing")]
    pub budget: Option<Span>,
    #[serde(rename = "try")]
    pub trial: Option<Trial>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WrittenVerify {
    pub wait: Option<Span>,
    pub parallel: Option<NonZeroUsize>,
    pub when: Option<When>,
    pub on_failure: Option<OnFailure>,
    pub require_encryption: Option<bool>,
}

/// The part of `[verify]` that a guest or a storage may override.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    pub when: Option<When>,
    pub on_failure: Option<OnFailure>,
    pub require_encryption: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WrittenResume {
    pub revive_guest: Option<bool>,
    pub unlock: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WrittenRestore {
    pub identity: Option<Identity>,
    #[serde(deserialize_with = "hostname")]
    pub hostname: Option<String>,
    pub address: Option<Address>,
    pub machine_id: Option<bool>,
    pub ssh_host_keys: Option<bool>,
    pub chain: Option<bool>,
    #[serde(deserialize_with = "places")]
    pub shared: Option<Vec<String>>,
}

/// The part of `[restore]` that a guest may override.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Copied {
    pub identity: Option<Identity>,
    #[serde(deserialize_with = "hostname")]
    pub hostname: Option<String>,
    pub address: Option<Address>,
    pub machine_id: Option<bool>,
    pub ssh_host_keys: Option<bool>,
    #[serde(deserialize_with = "places")]
    pub shared: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WrittenJournal {
    #[serde(deserialize_with = "more_than_nothing")]
    pub keep: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WrittenReport {
    #[serde(deserialize_with = "absolute")]
    pub textfile_directory: Option<String>,
    #[serde(deserialize_with = "url")]
    pub ping_url: Option<String>,
}

impl WrittenVerify {
    pub fn policy(&self) -> Policy {
        Policy {
            when: self.when,
            on_failure: self.on_failure,
            require_encryption: self.require_encryption,
        }
    }
}

impl WrittenRestore {
    pub fn copied(&self) -> Copied {
        Copied {
            identity: self.identity,
            hostname: self.hostname.clone(),
            address: self.address,
            machine_id: self.machine_id,
            ssh_host_keys: self.ssh_host_keys,
            shared: self.shared.clone(),
        }
    }
}

impl Policy {
    /// `verify` with these values in place of its own.
    pub fn over(&self, verify: Verify) -> Verify {
        Verify {
            when: self.when.unwrap_or(verify.when),
            on_failure: self.on_failure.unwrap_or(verify.on_failure),
            require_encryption: self.require_encryption.unwrap_or(verify.require_encryption),
            ..verify
        }
    }
}

impl Copied {
    /// `restore` with these values in place of its own.
    pub fn over(&self, restore: Restore) -> Restore {
        Restore {
            identity: self.identity.unwrap_or(restore.identity),
            hostname: self.hostname.clone().unwrap_or(restore.hostname),
            address: self.address.unwrap_or(restore.address),
            machine_id: self.machine_id.unwrap_or(restore.machine_id),
            ssh_host_keys: self.ssh_host_keys.unwrap_or(restore.ssh_host_keys),
            shared: self.shared.clone().unwrap_or(restore.shared),
            ..restore
        }
    }
}

/// A duration with its unit: `90s`, `5min`, `24h`, `7d`, `5y` (of 365 days), `200ms`.
#[derive(Clone, Copy, Debug)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        duration(&text).map(Span).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "'{text}' is not a duration: write a whole number and its unit, as in 90s, 5min, \
                 24h, 7d or 200ms"
            ))
        })
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<When, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "always" => Ok(When::Always),
            "never" => Ok(When::Never),
            age => duration(age).map(When::After).ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "'{text}' must be always, never, or the shortest time between two verifies of \
                     a guest, as in 7d"
                ))
            }),
        }
    }
}

/// A duration with its unit: `90s`, `5min`, `24h`, `7d`, `200ms`; `None` for anything else.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let milliseconds = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "y" => 365 * 86_400_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// A limit of 0 would start every container again before its data is copied.
fn more_than_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Span>, D::Error> {
    let span = Span::deserialize(deserializer)?;
    if span.0.is_zero() {
        return Err(serde::de::Error::custom("a limit must be longer than 0"));
    }
    Ok(Some(span))
}

fn checked<'de, D: Deserializer<'de>>(
    deserializer: D,
    wrong: fn(&str) -> Option<String>,
) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match wrong(&text) {
        None => Ok(Some(text)),
        Some(wrong) => {
            let text = printable(&text, 100);
            Err(serde::de::Error::custom(format!("'{text}' cannot be used: {wrong}")))
        }
    }
}

fn hostname<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    checked(deserializer, wrong_with_hostname)
}

fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    checked(deserializer, |path| {
        (!path.starts_with('/'))
            .then(|| "a directory must be a full path that begins with /".to_string())
    })
}

/// The value of `restore.shared`: directories of a node, or of a server.
fn places<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let places = Vec::<String>::deserialize(deserializer)?;
    let is_place = |place: &&String| {
        place.starts_with('/')
            || place.split_once(":/").is_some_and(|(server, _)| !server.is_empty())
    };
    if let Some(odd) = places.iter().find(|place| !is_place(place)) {
        let odd = printable(odd, 100);
        return Err(serde::de::Error::custom(format!(
            "'{odd}' cannot be used: write a directory's full path, /DIRECTORY, or \
             SERVER:/DIRECTORY"
        )));
    }
    Ok(Some(places))
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    checked(deserializer, |text| text.parse::<Url>().err().map(|error| error.to_string()))
}

/// The error in a hostname template: each copy needs a different name that is a valid DNS label.
fn wrong_with_hostname(template: &str) -> Option<String> {
    const PLACEHOLDERS: [&str; 2] = ["{hostname}", "{vmid}"];
    if !PLACEHOLDERS.iter().any(|placeholder| template.contains(placeholder)) {
        return Some(
            "it contains neither {hostname} nor {vmid}, so all copies would have the same name"
                .into(),
        );
    }
    let rest =
        PLACEHOLDERS.iter().fold(template.to_string(), |rest, known| rest.replace(known, ""));
    if let Some((_, after)) = rest.split_once('{') {
        let name = printable(after.split('}').next().unwrap_or_default(), 40);
        return Some(format!("there is no {{{name}}}, only {{hostname}} and {{vmid}}"));
    }
    let odd = rest.chars().find(|letter| !letter.is_ascii_alphanumeric() && *letter != '-');
    if let Some(odd) = odd {
        let odd = printable(&odd.to_string(), 10);
        return Some(format!("a hostname may contain letters, digits and -, but not '{odd}'"));
    }
    (template.starts_with('-') || template.ends_with('-'))
        .then(|| "a hostname must not begin or end with -".to_string())
}
