//! The messages between the director of a replay and its two kinds of processes: one JSON object a
//! line, over a Unix socket.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Environment variable with the path of the director's socket.
pub const SOCKET: &str = "STILLPOINT_SIM_SOCKET";

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its exit status, unless a signal ended it.
    pub exit: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// An order to a worker or to the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Daemon: start the worker of that job.
    Spawn(Job),
    /// Worker: take the node's lock; waits for it.
    TakeLock,
    /// Worker: call the hook.
    Call {
        /// The program.
        hook: PathBuf,
        /// Its arguments.
        argv: Vec<String>,
        /// Its whole environment.
        env: BTreeMap<String, String>,
    },
    /// Worker: add these lines to the task log.
    Log(Vec<String>),
    /// End with that status.
    Exit(i32),
}

/// The information for a worker at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Number of the job within the replay.
    pub number: usize,
    /// The id in the task id: a VMID, or empty.
    pub id: String,
    /// Where the node's file system begins.
    pub root: PathBuf,
}

/// A message from a worker or from the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub enum News {
    /// The daemon has started.
    Daemon,
    /// A worker has started.
    Worker {
        /// Number of its job.
        job: usize,
        /// Its pid, which is also the id of its group and its session.
        pid: i32,
        /// Its task id.
        upid: String,
    },
    /// The hook was started.
    Started(i32),
    /// The hook printed a line.
    Said(String),
    /// The hook has ended and nobody holds its pipes any more.
    Returned(Ended),
    /// A signal came: the pipes are closed and the hook is left running.
    Interrupted,
    /// The hook could not be started.
    NotStarted(String),
    /// A process has ended: a leftover of a worker, or the worker itself.
    Reaped(i32, Ended),
    /// The order was carried out.
    Done,
}

/// One end of the connection.
pub struct Wire {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Uses that stream.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Connects to the director named in the environment.
    ///
    /// # Errors
    /// When there is none.
    pub fn to_director() -> Result<Self> {
        let path = std::env::var_os(SOCKET).with_context(|| format!("{SOCKET} is not set"))?;
        let stream = UnixStream::connect(&path).context("connecting to the director")?;
        Ok(Self::new(stream))
    }

    /// The stream, for polling.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the other end is gone.
    pub fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message).context("writing a message")?;
        line.push(b'\n');
        self.stream.write_all(&line).context("sending a message")
    }

    /// Waits for a message until the limit; `None` then. The end of the connection is an error.
    ///
    /// # Errors
    /// If the other end is gone, or sends an invalid message.
    pub fn receive<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<Option<T>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.drain(..=end).collect::<Vec<_>>();
                let message = serde_json::from_slice(&line).context("reading a message")?;
                return Ok(Some(message));
            }
            let limit = limit.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(limit)).context("setting a time limit")?;
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => bail!("the other end has gone"),
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error).context("receiving a message"),
            }
        }
    }
}
