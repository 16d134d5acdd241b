use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::client::{Engine, Error};

/// Polling starts with the first interval and slows down to the second.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const SLOWEST_LOOK: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    exit_code: Option<i64>,
}

impl Engine {
    /// Runs `/bin/sh -c COMMAND` inside a running container and waits for its end. Its output is
    /// not read.
    ///
    /// # Errors
    /// Also if its exit status is not 0, and if it has not ended at `deadline`: then it keeps
    /// running in the container.
    pub fn exec(&self, id: &str, command: &str, deadline: Instant) -> Result<(), Error> {
        let command = ["/bin/sh", "-c", command].map(String::from);
        self.run(id, &command, deadline)
    }

    /// As [`Engine::exec`], for a program with arguments.
    ///
    /// # Errors
    /// As [`Engine::exec`].
    pub fn run(&self, id: &str, command: &[String], deadline: Instant) -> Result<(), Error> {
        let body = json!({ "Cmd": command }).to_string();
        let path = format!("/containers/{}/exec", super::client::checked(id)?);
        let created: Created = self.post_json(&path, &body, deadline)?;
        let exec = super::client::checked(&created.id)?;
        let start = json!({ "Detach": true }).to_string();
        self.post(&format!("/exec/{exec}/start"), &start, deadline)?;
        let mut pause = FIRST_LOOK;
        loop {
            let state: State = self.get_json(&format!("/exec/{exec}/json"), deadline)?;
            match (state.running, state.exit_code) {
                (false, Some(0)) => return Ok(()),
                (false, Some(status)) => {
                    return Err(Error::Failed(format!("it ended with status {status}")));
                }
                // Just created: it neither runs nor has ended.
                (true, _) | (false, None) => {}
            }
            if Instant::now() + pause >= deadline {
                return Err(Error::Failed("it has not ended in time".to_string()));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(SLOWEST_LOOK);
        }
    }
}
