//! Files read with a size limit, and written so that a power cut leaves either the old or the new
//! content.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};

use super::random;

/// Reads a whole file of at most `limit` bytes; a larger one is an error of kind `FileTooLarge`.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        return walk.read(path);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// Reads a text file of at most `limit` bytes, with bad UTF-8 replaced; `None` if it does not
/// exist.
pub fn read_text(path: &Path, limit: u64) -> io::Result<Option<String>> {
    match read(path, limit) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The bytes that are free for any user in the file system of `path`; an error if it is read-only.
pub fn free(path: &Path) -> io::Result<u64> {
    let system = statvfs(path)?;
    if system.flags().contains(FsFlags::ST_RDONLY) {
        return Err(io::ErrorKind::ReadOnlyFilesystem.into());
    }
    Ok(system.blocks_available() * system.fragment_size())
}

/// Makes sure that a directory of our own exists and that nobody else may write to it, whatever the
/// umask is. A new one is closed to everybody else.
///
/// Not for directories below `/etc/pve`: pmxcfs sets their mode itself.
pub fn own_directory(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    if super::walk::current().is_some() {
        return Ok(());
    }
    if fs::metadata(path).is_ok_and(|it| it.is_dir() && it.permissions().mode() & 0o022 == 0) {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// The new content of a file, fsynced in a temporary file beside it. Dropped without
/// [`Staged::commit`], it is removed.
#[derive(Debug)]
pub struct Staged {
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Staged {
    /// Writes the future content of `path` into a temporary file beside it, and fsyncs that.
    pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<Staged> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file's path"));
        };
        let token = u64::from_ne_bytes(random::bytes()?);
        let temporary = directory.join(format!(".{}.{token:016x}.tmp", name.to_string_lossy()));
        let staged = Staged { temporary, path: path.to_path_buf(), committed: false };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged.temporary)?;
        // Independent of the umask. pmxcfs sets the mode of its files itself and does not let it be
        // changed.
        if file.metadata()?.permissions().mode() & 0o7777 != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Replaces the file: rename, then fsync of the directory.
    pub fn commit(mut self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.path)?;
        self.committed = true;
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            // The caller that did not commit reports the error; a leftover temporary file does no
            // harm.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Replaces `path` durably: a temporary file beside it, fsync, rename, fsync of the directory.
///
/// After `Ok` the content survives a power cut; after an error the old content is still there.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        return walk.replace(path, content);
    }
    Staged::write(path, content, mode)?.commit()
}

/// Removes `path` durably; it is no error if it does not exist.
pub fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    if let Some(walk) = super::walk::current() {
        return walk.remove(path);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match path.parent() {
        Some(directory) if directory.exists() => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_keeps_the_old_content_when_it_fails() {
        let directory = tempdir();
        let path = directory.join("state.json");
        replace(&path, b"old", 0o600).unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(replace(&directory.join("missing/state.json"), b"x", 0o600).is_err());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn our_own_are_open_to_nobody_else() {
        let directory = tempdir();
        let own = directory.join("lib/stillpoint");
        own_directory(&own).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&own), 0o700);
        fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
        own_directory(&own).unwrap();
        assert_eq!(mode(&own), 0o700);
        fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
        own_directory(&own).unwrap();
        assert_eq!(mode(&own), 0o755, "who may list it is up to the administrator");
        replace(&own.join("file"), b"", 0o666).unwrap();
        assert_eq!(mode(&own.join("file")), 0o666);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn reading_is_bounded() {
        let directory = tempdir();
        let path = directory.join("file");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_text(&directory.join("none"), 4).unwrap(), None);
        fs::remove_dir_all(directory).unwrap();
    }

    fn tempdir() -> std::path::PathBuf {
        let name = format!("stillpoint-file-{}-{}", std::process::id(), crate::sys::text::token());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        directory
    }
}
