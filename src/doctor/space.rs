//! Free space for Stillpoint's files, and for vzdump's temporary files.

use std::io;
use std::path::Path;

use super::check::Check;
use super::messages::{LITTLE_SPACE, NO_SPACE, NO_TMPDIR, READ_ONLY, SPACE, SPACE_UNKNOWN};
use crate::pve::vzdump_conf::VzdumpConf;
use crate::sys::text::bytes;
use crate::sys::{Root, file};

/// Room for four files of the journal, which is some years of it on most nodes.
const LITTLE: u64 = 128 << 20;

/// The largest size of a run's file; without that file nothing is stopped.
const TOO_LITTLE: u64 = 16 << 20;

const STATE: &str = "/var/lib/stillpoint";

pub fn look(root: &Root) -> Vec<Check> {
    let state = measured(root, STATE);
    let mut checks = vec![space("node.space", STATE, "journal and state", state)];
    let about = "node.tmpdir";
    match VzdumpConf::read(root).map(|conf| conf.tmpdir) {
        Ok(Some(path)) if !root.path(&path).is_dir() => {
            checks.push(NO_TMPDIR.check(about, &[("path", &path)]));
        }
        Ok(tmpdir) => {
            let path = tmpdir.unwrap_or_else(|| "/var/tmp".to_string());
            let measured = measured(root, &path);
            checks.push(space(about, &path, "vzdump's temporary files", measured));
        }
        // The check of the script reports a file that cannot be read.
        Err(_) => {}
    }
    checks
}

/// Whether the free bytes at `path` are enough for that purpose.
pub fn space(about: &str, path: &str, purpose: &str, free: io::Result<u64>) -> Check {
    let free = match free {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            return READ_ONLY.check(about, &[("path", &path), ("purpose", &purpose)]);
        }
        Err(error) => {
            return SPACE_UNKNOWN.check(about, &[("path", &path), ("reason", &error)]);
        }
        Ok(free) => free,
    };
    let message = match free {
        0..TOO_LITTLE => NO_SPACE,
        TOO_LITTLE..LITTLE => LITTLE_SPACE,
        _ => SPACE,
    };
    message.check(about, &[("free", &bytes(free)), ("path", &path), ("purpose", &purpose)])
}

/// The free bytes at the nearest existing directory.
fn measured(root: &Root, path: &str) -> io::Result<u64> {
    let path = root.path(path);
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    file::free(there)
}
