use std::path::{Path, PathBuf};

/// Where the node's files are: `/`, or a directory that stands in for it.
///
/// Every absolute path that Stillpoint uses goes through [`Root::path`], except the kernel's own
/// `/proc` and `/sys`. `tests/README.md` describes the layout below a directory.
#[derive(Clone, Debug)]
pub struct Root {
    dir: Option<PathBuf>,
}

impl Root {
    /// The directory in `STILLPOINT_ROOT`, or the real `/` if that is unset or empty.
    pub fn from_env() -> Root {
        match std::env::var_os("STILLPOINT_ROOT") {
            Some(dir) if !dir.is_empty() => Root::at(Path::new(&dir)),
            _ => Root { dir: None },
        }
    }

    /// A node whose files are in `dir`.
    pub fn at(dir: &Path) -> Root {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
        Root { dir: Some(dir) }
    }

    /// The place of the node's `absolute` path.
    pub fn path(&self, absolute: &str) -> PathBuf {
        match &self.dir {
            Some(dir) => dir.join(absolute.trim_start_matches('/')),
            None => PathBuf::from(absolute),
        }
    }

    /// The directory that stands in for `/`, if one does.
    pub fn directory(&self) -> Option<&Path> {
        self.dir.as_deref()
    }
}
