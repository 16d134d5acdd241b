//! Request parameters: checks them, and refuses with the server's own texts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::api::Failure;
use crate::http::{Request, parse_form};

/// The required format of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `vm`, `ct` or `host`.
    BackupType,
    /// A guest's or host's id.
    BackupId,
    /// Epoch seconds, at least 1.
    BackupTime,
    /// A namespace; empty for the root.
    Namespace,
    /// `0`, `1`, `false`, `true`, `no`, `yes`, `off`, `on`.
    Bool,
    /// A number of at least this.
    Int(i64),
    /// Anything.
    Text,
    /// `NAME@REALM`; not a token.
    User,
    /// A task id.
    Upid,
    /// A node's name: no dots, so no addresses.
    Node,
}

/// One parameter of a call.
pub type Known = (&'static str, Kind, bool);

/// A parameter that may be left out.
pub const fn optional(name: &'static str, kind: Kind) -> Known {
    (name, kind, false)
}

/// A required parameter.
pub const fn required(name: &'static str, kind: Kind) -> Known {
    (name, kind, true)
}

/// The checked parameters of one request.
#[derive(Debug, Default)]
pub struct Params(BTreeMap<String, Value>);

impl Params {
    /// The text of a parameter.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The number in a parameter.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(Value::as_i64)
    }

    /// The boolean value of a parameter.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(Value::as_bool)
    }

    /// The namespace, empty for the root.
    pub fn namespace(&self) -> &str {
        self.text("ns").unwrap_or_default()
    }

    /// Reads and checks the parameters of a request, including those in its path.
    ///
    /// # Errors
    /// 400 with the text of the real server.
    pub fn read(
        request: &Request,
        from_path: &[(&str, &str)],
        known: &[Known],
    ) -> Result<Self, Failure> {
        let mut errors = Vec::new();
        let mut values = BTreeMap::new();
        for (name, value) in raw(request)? {
            let Some((_, kind, _)) = known.iter().find(|(known, _, _)| *known == name) else {
                let text = "schema does not allow additional properties.".to_owned();
                errors.push((name, text));
                continue;
            };
            match check(*kind, &value) {
                Ok(value) => drop(values.insert(name, value)),
                Err(error) => errors.push((name, error)),
            }
        }
        for (name, value) in from_path {
            let kind = match *name {
                "upid" => Kind::Upid,
                "node" => Kind::Node,
                _ => Kind::Text,
            };
            match check(kind, &Raw::Text((*value).to_owned())) {
                Ok(value) => drop(values.insert((*name).to_owned(), value)),
                Err(error) => errors.push(((*name).to_owned(), error)),
            }
        }
        for (name, _, required) in known {
            let given = values.contains_key(*name) || errors.iter().any(|(bad, _)| bad == name);
            if *required && !given {
                let text = "parameter is missing and it is not optional.".to_owned();
                errors.push(((*name).to_owned(), text));
            }
        }
        report(&errors)?;
        // The real server reads this one a step later, so its error differs.
        if let Some(text) = values.get("backup-type").and_then(Value::as_str)
            && !matches!(text, "vm" | "ct" | "host")
        {
            let text = format!("unknown variant `{text}`, expected one of `vm`, `ct`, `host`");
            return Err(Failure::new(400, text));
        }
        Ok(Self(values))
    }
}

fn report(errors: &[(String, String)]) -> Result<(), Failure> {
    match errors {
        [] => Ok(()),
        [(name, error)] => {
            let text = format!("parameter verification failed - '{name}': {error}");
            Err(Failure::new(400, text))
        }
        many => {
            let lines = many.iter().map(|(name, error)| format!("- '{name}': {error}"));
            let lines = lines.collect::<Vec<_>>().join("\n");
            let text = format!("parameter verification failed:\n{lines}");
            Err(Failure::new(400, text))
        }
    }
}

enum Raw {
    Text(String),
    Json(Value),
}

/// With a JSON body the server ignores the query string: recorded, and a trap.
fn raw(request: &Request) -> Result<Vec<(String, Raw)>, Failure> {
    let content_type = request.header("content-type");
    match content_type.and_then(|value| value.split(';').next()) {
        Some("application/json") => {
            if request.body.is_empty() {
                return Ok(Vec::new());
            }
            let body: Value = serde_json::from_slice(&request.body)
                .map_err(|error| Failure::new(400, error.to_string()))?;
            let Value::Object(body) = body else {
                return Err(Failure::new(400, "Expected object".to_owned()));
            };
            let pairs = body.into_iter().map(|(name, value)| (name, Raw::Json(value)));
            Ok(pairs.collect())
        }
        None | Some("application/x-www-form-urlencoded") => {
            let form = parse_form(&String::from_utf8_lossy(&request.body));
            let pairs = form.into_iter().chain(request.query.iter().cloned());
            Ok(pairs
                .filter(|(name, _)| name != "_dc")
                .map(|(name, value)| (name, Raw::Text(value)))
                .collect())
        }
        Some(_) => {
            let text =
                format!("unsupported content type Ok({:?})", content_type.unwrap_or_default());
            Err(Failure::new(400, text))
        }
    }
}

fn check(kind: Kind, value: &Raw) -> Result<Value, String> {
    let wrong = |what: &str| Err(what.to_owned());
    match (kind, value) {
        (Kind::Bool, Raw::Json(Value::Bool(flag))) => Ok(Value::from(*flag)),
        (Kind::Bool, Raw::Json(_)) => wrong("Expected boolean value."),
        (Kind::Bool, Raw::Text(text)) => match text.to_lowercase().as_str() {
            "1" | "on" | "yes" | "true" => Ok(Value::from(true)),
            "0" | "off" | "no" | "false" => Ok(Value::from(false)),
            _ => wrong("Unable to parse boolean option."),
        },
        (Kind::BackupTime, value) => number(value, 1),
        (Kind::Int(least), value) => number(value, least),
        (_, Raw::Json(Value::String(text))) | (_, Raw::Text(text)) => {
            match_text(kind, text)?;
            Ok(Value::from(text.as_str()))
        }
        (_, Raw::Json(_)) => wrong("Expected string value."),
    }
}

fn number(value: &Raw, least: i64) -> Result<Value, String> {
    let number = match value {
        Raw::Json(value) => value.as_i64().ok_or_else(|| "Expected integer value.".to_owned())?,
        Raw::Text(text) => text.parse::<i64>().map_err(|error| error.to_string())?,
    };
    if number < least {
        return Err(format!("value must have a minimum value of {least} (got {number})"));
    }
    Ok(Value::from(number))
}

fn match_text(kind: Kind, text: &str) -> Result<(), String> {
    let fits = match kind {
        Kind::BackupId => is_id(text),
        Kind::Namespace => {
            text.is_empty() || text.split('/').count() <= 8 && text.split('/').all(is_id)
        }
        Kind::Node => is_node(text),
        Kind::User => is_user(text),
        Kind::Upid if text.len() < 36 => {
            return Err("value must be at least 36 characters long".to_owned());
        }
        Kind::Upid => super::upid::Upid::parse(text).is_some(),
        _ => true,
    };
    if fits { Ok(()) } else { Err("value does not match the regex pattern".to_owned()) }
}

/// Letters, digits, `_`, `.` and `-`; not beginning with the last two.
fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || byte == b'.' || byte == b'-')
}

fn is_user(text: &str) -> bool {
    let Some((name, realm)) = text.rsplit_once('@') else {
        return false;
    };
    let in_name =
        |letter: char| !letter.is_whitespace() && !letter.is_control() && !":/".contains(letter);
    !name.is_empty() && name.chars().all(in_name) && is_id(realm)
}

/// A host name without a dot.
pub fn is_node(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
