//! Requests for testing whether an engine can start a container.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::client::{
    ACTION_LIMIT, CONTAINER_LIMIT, Engine, Error, checked, message, not_understood,
};
use crate::sys::http::{Method, Request};
use crate::sys::text;

/// In bytes: a thousand images of about 1.5 kB each in a list.
const IMAGES_LIMIT: usize = 4 << 20;

/// Each layer wraps a runtime's error, so the important part is at its end. In characters.
const LONGEST_WORDS: usize = 2000;

/// An image of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    pub id: String,
    /// In bytes.
    #[serde(default)]
    pub size: i64,
}

/// What a container inherits from its image, as far as it matters for one that never runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// The names of its labels.
    pub labels: Vec<String>,
    /// It declares anonymous volumes.
    pub has_volumes: bool,
}

impl Engine {
    /// The local images.
    pub fn images(&self, deadline: Instant) -> Result<Vec<Image>, Error> {
        let answer = self.get("/images/json", IMAGES_LIMIT, deadline)?;
        serde_json::from_slice(&answer.body).map_err(|error| not_understood(words(&error)))
    }

    /// The id of the image that a container was made from.
    pub fn image_of(&self, id: &str, deadline: Instant) -> Result<String, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            image: String,
        }
        let path = format!("/containers/{}/json", checked(id)?);
        let answer = self.get(&path, CONTAINER_LIMIT, deadline)?;
        let inspected: Inspected =
            serde_json::from_slice(&answer.body).map_err(|error| not_understood(words(&error)))?;
        Ok(inspected.image)
    }

    /// What an image passes on to its containers.
    pub fn image_config(&self, image: &str, deadline: Instant) -> Result<ImageConfig, Error> {
        let path = format!("/images/{}/json", checked_image(image)?);
        let answer = self.get(&path, CONTAINER_LIMIT, deadline)?;
        image_config(&answer.body).map_err(not_understood)
    }

    /// Creates a container of that name and returns its id. A missing image is never fetched.
    pub fn create(&self, name: &str, body: &Value, deadline: Instant) -> Result<String, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        let path = format!("/containers/create?name={}", text::percent_encoded(name));
        let created: Created = self.post_json(&path, &body.to_string(), deadline)?;
        checked(&created.id).map(String::from)
    }

    /// Starts a container and returns the engine's answer: its status and, if it is an error, the
    /// message.
    pub fn start_answer(&self, id: &str, deadline: Instant) -> Result<(u16, String), Error> {
        let path = format!("/containers/{}/start", checked(id)?);
        let request =
            Request { method: Method::Post, path: &path, headers: &[], form: None, json: None };
        let answer = self.exchange(&request, ACTION_LIMIT, deadline)?;
        Ok((answer.status, message(&answer.body, LONGEST_WORDS)))
    }

    /// Removes a container with its anonymous volumes, even if it runs.
    pub fn remove(&self, id: &str, deadline: Instant) -> Result<(), Error> {
        let path = format!("/containers/{}?v=1&force=1", checked(id)?);
        self.send(Method::Delete, &path, ACTION_LIMIT, deadline).map(drop)
    }

    /// The ids of all containers with that label and value, running or not.
    pub fn labelled(
        &self,
        label: &str,
        value: &str,
        deadline: Instant,
    ) -> Result<Vec<String>, Error> {
        let filters = serde_json::json!({ "label": [format!("{label}={value}")] });
        let filters = text::percent_encoded(&filters.to_string());
        self.list(&format!("/containers/json?all=1&filters={filters}"), deadline)
    }
}

fn words(error: &serde_json::Error) -> String {
    text::excerpt(error, 300)
}

/// An image's id: hexadecimal, with or without the digest's name.
fn checked_image(image: &str) -> Result<&str, Error> {
    let digits = image.strip_prefix("sha256:").unwrap_or(image);
    if digits.len() <= 128 && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(image);
    }
    Err(Error::Failed(format!("the engine names an image '{}'", text::printable(image, 80))))
}

fn image_config(answer: &[u8]) -> Result<ImageConfig, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        #[serde(default)]
        config: Option<Config>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        #[serde(default)]
        labels: Option<BTreeMap<String, IgnoredAny>>,
        #[serde(default)]
        volumes: Option<BTreeMap<String, IgnoredAny>>,
    }
    let inspected: Inspected = serde_json::from_slice(answer).map_err(|error| words(&error))?;
    let config = inspected.config.unwrap_or_default();
    Ok(ImageConfig {
        labels: config.labels.unwrap_or_default().into_keys().collect(),
        has_volumes: config.volumes.is_some_and(|volumes| !volumes.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_read_with_what_the_engine_leaves_out() {
        let nothing = ImageConfig { labels: Vec::new(), has_volumes: false };
        for answer in [
            r#"{"Id":"sha256:1","Config":null}"#,
            r#"{"Id":"sha256:1"}"#,
            r#"{"Config":{"Labels":null,"Volumes":null}}"#,
            r#"{"Config":{"Labels":{},"Volumes":{}}}"#,
        ] {
            assert_eq!(image_config(answer.as_bytes()).unwrap(), nothing, "{answer}");
        }
        let answer = br#"{"Config":{"Labels":{"a":"1","b":null},"Volumes":{"/data":{}}}}"#;
        let config = image_config(answer).unwrap();
        assert_eq!(config, ImageConfig { labels: vec!["a".into(), "b".into()], has_volumes: true });
    }

    #[test]
    fn an_image_is_named_by_its_id_alone() {
        assert!(checked_image("sha256:00ff").is_ok() && checked_image("00ff").is_ok());
        for odd in ["", "sha256:", "postgres:17", "../containers", "sha256:00/json", "00?x"] {
            assert!(checked_image(odd).is_err(), "{odd}");
        }
    }
}
