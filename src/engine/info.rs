use serde::Deserialize;

use crate::sys::text;

/// What an engine says of itself, as far as backups are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Such as `29.0.1`.
    pub version: String,
    /// Containers run on while the engine is down.
    pub live_restore: bool,
    /// Where containers, images and volumes lie in the guest; at most 4096 bytes.
    pub data_root: Option<String>,
}

impl Info {
    /// Reads the engine's answer to `GET /info`.
    pub fn parse(answer: &[u8]) -> Result<Info, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            #[serde(default)]
            server_version: String,
            #[serde(default)]
            live_restore_enabled: bool,
            #[serde(default)]
            docker_root_dir: String,
        }
        let answer: Answer =
            serde_json::from_slice(answer).map_err(|error| text::excerpt(&error, 300))?;
        Ok(Info {
            version: answer.server_version.chars().take(40).collect(),
            live_restore: answer.live_restore_enabled,
            data_root: Some(answer.docker_root_dir).filter(|path| is_path(path)),
        })
    }
}

/// No longer than the kernel takes one.
fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_leaves_out_is_not_so() {
        let info = Info::parse(b"{}").unwrap();
        assert_eq!((info.live_restore, info.data_root), (false, None));
        let answer =
            br#"{"ServerVersion":"29.0.1","LiveRestoreEnabled":true,"DockerRootDir":"/srv"}"#;
        let info = Info::parse(answer).unwrap();
        assert!(info.live_restore && info.data_root.as_deref() == Some("/srv"));
        assert!(Info::parse(b"[").is_err());
    }
}
