use std::fs;
use std::io;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use crate::guest::Guest;
use crate::sys::tree::Tree;

/// Longer than any file of that kind.
const LIMIT: u64 = 4096;

/// systemd writes it so.
const MODE: u32 = 0o444;

/// Gives the guest a new machine-id, if it has one; returns whether it has. Running services keep
/// using the old one until they restart.
pub fn renew(guest: &Guest) -> Result<bool> {
    write(&guest.tree, &new_id()?)
}

fn write(tree: &Tree, id: &str) -> Result<bool> {
    // Alpine has none without D-Bus, and an empty file is filled at the next boot.
    let has = |path: &str| {
        let content = match tree.read(path, LIMIT) {
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
                bail!("{path} in the guest is a symlink: have it hold the id itself")
            }
            other => other.with_context(|| format!("{path} in the guest"))?,
        };
        anyhow::Ok(content.is_some_and(|content| !content.trim_ascii().is_empty()))
    };
    let line = format!("{id}\n");
    let write = |directory: &str| {
        tree.replace_in(directory, "machine-id", line.as_bytes(), MODE)
            .with_context(|| format!("{directory}/machine-id in the guest"))
    };
    let known = has("/etc/machine-id")?;
    if known {
        write("/etc")?;
    }
    // D-Bus may have its own file there; otherwise it is a symlink to the other, which is not read
    // here.
    if has("/var/lib/dbus/machine-id").unwrap_or(false) {
        write("/var/lib/dbus")?;
        return Ok(true);
    }
    Ok(known)
}

/// 32 hexadecimal digits: a random UUID from the kernel without dashes, as systemd makes it.
fn new_id() -> io::Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.trim().replace('-', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_each_time() {
        let (one, other) = (new_id().unwrap(), new_id().unwrap());
        assert_ne!(one, other);
        assert!(one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
    }
}
