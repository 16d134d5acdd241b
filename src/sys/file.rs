//! Files read within bounds and written so that a power cut leaves the old or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};

/// Reads a whole file of at most `limit` bytes; a larger one is an error of kind `FileTooLarge`.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
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

/// Reads a text file of at most `limit` bytes, bad UTF-8 replaced; `None` where there is none.
pub fn read_text(path: &Path, limit: u64) -> io::Result<Option<String>> {
    match read(path, limit) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The bytes that are free in the file system of `path`, for anybody; an error where that is read-only.
pub fn free(path: &Path) -> io::Result<u64> {
    let system = statvfs(path)?;
    if system.flags().contains(FsFlags::ST_RDONLY) {
        return Err(io::ErrorKind::ReadOnlyFilesystem.into());
    }
    Ok(system.blocks_available() * system.fragment_size())
}

/// A file's new content, durably beside it; dropped without [`Staged::commit`], it is gone.
#[derive(Debug)]
pub struct Staged {
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Staged {
    /// Writes what `path` is to become into a temporary file beside it, and fsyncs that.
    pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<Staged> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file's path"));
        };
        let temporary =
            directory.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let staged = Staged { temporary, path: path.to_path_buf(), committed: false };
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&staged.temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Puts it in the file's place: rename, fsync of the directory.
    pub fn commit(mut self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.path)?;
        self.committed = true;
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            // What went wrong is told by whoever did not commit; a leftover temporary file harms nothing.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Replaces `path` durably: a temporary file beside it, fsync, rename, fsync of the directory.
///
/// When this returns `Ok` the content survives a power cut; on an error the old content is still there.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    Staged::write(path, content, mode)?.commit()
}

/// Removes `path` durably; one that is already gone is no error.
pub fn remove(path: &Path) -> io::Result<()> {
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
