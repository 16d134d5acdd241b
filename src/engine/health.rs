//! A container's own health check, in a form that Stillpoint can run itself.

use std::time::Duration;

use serde::Deserialize;

/// The engine's default limit for one run of a health command.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest start period that counts; longer than any in practice.
const LONGEST_START: Duration = Duration::from_secs(600);

/// The longest health command that is run: in words, and in bytes.
const MOST_WORDS: usize = 256;
const LONGEST: usize = 16 << 10;

/// A container's health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The command that runs in the container: it ends with 0 if the container is healthy. Never
    /// empty.
    pub command: Vec<String>,
    /// The limit for one run.
    pub timeout: Duration,
    /// This long after its start, a container still counts as starting.
    pub start_period: Duration,
}

/// `Config.Healthcheck` of an inspected container; times are in nanoseconds, 0 means the engine's
/// default.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    #[serde(default)]
    test: Option<Vec<String>>,
    #[serde(default)]
    timeout: i64,
    #[serde(default)]
    start_period: i64,
}

impl Inspected {
    /// The check; `None` if there is none, if it is off (`NONE`), or if it is too long to keep.
    /// `shell` is the container's own (`Config.Shell`), for `CMD-SHELL`.
    pub fn check(self, shell: Option<Vec<String>>) -> Option<HealthCheck> {
        let mut words = self.test?.into_iter();
        let mut command = match words.next()?.as_str() {
            "CMD" => Vec::new(),
            "CMD-SHELL" => shell
                .filter(|shell| !shell.is_empty())
                .unwrap_or_else(|| vec!["/bin/sh".to_string(), "-c".to_string()]),
            _ => return None,
        };
        let own = command.len();
        command.extend(words);
        let length = command.iter().map(String::len).sum::<usize>();
        let runs = command.len() > own && command.len() <= MOST_WORDS && length <= LONGEST;
        let time = |nanoseconds: i64| u64::try_from(nanoseconds).ok().map(Duration::from_nanos);
        runs.then(|| HealthCheck {
            command,
            timeout: time(self.timeout).filter(|time| !time.is_zero()).unwrap_or(TIMEOUT),
            start_period: time(self.start_period).unwrap_or_default().min(LONGEST_START),
        })
    }
}

impl HealthCheck {
    /// The memory that it takes, in bytes.
    pub fn weight(&self) -> usize {
        self.command.iter().map(|word| 24 + word.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Option<HealthCheck> {
        serde_json::from_str::<Inspected>(json).unwrap().check(None)
    }

    #[test]
    fn a_check_is_run_as_its_engine_runs_it() {
        let shell =
            check(r#"{"Test":["CMD-SHELL","pg_isready -U x"],"StartPeriod":5000000000}"#).unwrap();
        assert_eq!(shell.command, ["/bin/sh", "-c", "pg_isready -U x"]);
        assert_eq!((shell.timeout.as_secs(), shell.start_period.as_secs()), (30, 5));
        let plain = check(r#"{"Test":["CMD","redis-cli","ping"],"Timeout":2000000000}"#).unwrap();
        assert_eq!(
            (plain.command.as_slice(), plain.timeout.as_secs()),
            (&["redis-cli".to_string(), "ping".to_string()][..], 2)
        );
        let own = serde_json::from_str::<Inspected>(r#"{"Test":["CMD-SHELL","x"]}"#).unwrap();
        let own = own.check(Some(vec!["/bin/bash".into(), "-c".into()])).unwrap();
        assert_eq!(own.command, ["/bin/bash", "-c", "x"]);
    }

    #[test]
    fn what_is_no_check_is_none() {
        for json in [
            "{}",
            r#"{"Test":null}"#,
            r#"{"Test":[]}"#,
            r#"{"Test":["NONE"]}"#,
            r#"{"Test":["CMD"]}"#,
            r#"{"Test":["CMD-SHELL"]}"#,
        ] {
            assert_eq!(check(json), None, "{json}");
        }
    }
}
