//! Files, locks, processes, sockets and units: everything that talks to the operating system.

pub mod http;
mod stream;

use std::path::{Path, PathBuf};

/// The root directory of the node.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// A node whose files lie below `dir`.
    pub fn at(dir: impl AsRef<Path>) -> Root {
        Root(dir.as_ref().to_path_buf())
    }

    /// Where the file with this absolute path lies.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }
}
