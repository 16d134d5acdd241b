//! Edits configuration files of a guest line by line: everything else stays byte for byte.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sys::file::{self, Staged};

/// How a file separates a key from its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// `key: value`, up to the first section (`/etc/pve/lxc/VMID.conf`).
    Pve,
    /// `key = value` (`/var/lib/lxc/VMID/config`).
    Lxc,
}

/// A value to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub key: String,
    /// The line is only changed if it has this value, ignoring case.
    pub from: String,
    /// `None` removes the line.
    pub to: Option<String>,
}

/// A file as it was read, and its new content.
#[derive(Clone, Debug)]
pub struct Rewrite {
    path: PathBuf,
    old: Vec<u8>,
    new: Vec<u8>,
    missed: Vec<String>,
}

/// `text` after the edits; all other bytes are the same.
pub fn edited(text: &[u8], grammar: Grammar, edits: &[Edit]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len() + 64);
    let mut in_section = false;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        in_section |= grammar == Grammar::Pve && line.starts_with(b"[");
        let parsed = if in_section { None } else { parse(line, grammar) };
        let edit = parsed.as_ref().and_then(|(key, value)| {
            edits.iter().find(|edit| {
                edit.key.as_bytes() == *key
                    && edit.from.as_bytes().eq_ignore_ascii_case(&line[value.clone()])
            })
        });
        match (edit, parsed) {
            (Some(Edit { to: Some(to), .. }), Some((_, value))) => {
                result.extend_from_slice(&line[..value.start]);
                result.extend_from_slice(to.as_bytes());
                result.extend_from_slice(&line[value.end..]);
            }
            (Some(Edit { to: None, .. }), _) => {}
            _ => result.extend_from_slice(line),
        }
    }
    result
}

/// The key of a line, and the range of its value without surrounding blanks.
fn parse(line: &[u8], grammar: Grammar) -> Option<(&[u8], std::ops::Range<usize>)> {
    let separator = match grammar {
        Grammar::Pve => b':',
        Grammar::Lxc => b'=',
    };
    let at = line.iter().position(|byte| *byte == separator)?;
    let key = match grammar {
        Grammar::Pve => &line[..at],
        Grammar::Lxc => line[..at].trim_ascii(),
    };
    let start = line.len() - line[at + 1..].trim_ascii_start().len();
    let end = line.trim_ascii_end().len();
    // A key without a value is no setting; Proxmox VE ignores it too.
    (start < end).then_some((key, start..end))
}

impl Rewrite {
    /// The file at `path` with these edits; `None` if there is no such file.
    ///
    /// # Errors
    /// If it cannot be read, or is larger than a file in `/etc/pve` can be.
    pub fn read(path: &Path, grammar: Grammar, edits: &[Edit]) -> Result<Option<Rewrite>> {
        let old = match file::read(path, super::guest::LIMIT) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| path.display().to_string())?,
        };
        let new = edited(&old, grammar, edits);
        let idle = |edit: &&Edit| edited(&old, grammar, std::slice::from_ref(*edit)) == old;
        let missed = edits.iter().filter(idle).map(|edit| edit.key.clone()).collect();
        Ok(Some(Rewrite { path: path.to_path_buf(), old, new, missed }))
    }

    /// The keys of edits that change nothing, because no line has that key and value.
    pub fn missed(&self) -> &[String] {
        &self.missed
    }

    /// Whether nothing changes.
    pub fn is_idle(&self) -> bool {
        self.old == self.new
    }

    fn stage(&self, content: &[u8]) -> Result<Staged> {
        // pmxcfs sets the mode of its files itself.
        let mode = fs::metadata(&self.path).map_or(0o640, |metadata| metadata.permissions().mode());
        Staged::write(&self.path, content, mode & 0o777)
            .with_context(|| format!("{} can't be written", self.path.display()))
    }

    fn is_in_place(&self) -> bool {
        file::read(&self.path, super::guest::LIMIT).is_ok_and(|now| now == self.new)
    }

    /// Checks that nobody else has written the file meanwhile.
    fn is_unchanged(&self) -> Result<()> {
        let now = file::read(&self.path, super::guest::LIMIT)
            .with_context(|| self.path.display().to_string())?;
        if now != self.old {
            bail!("{} was changed meanwhile: nothing is written", self.path.display());
        }
        Ok(())
    }
}

/// Writes all of the files or none: all new contents are written beside the files before the first
/// file is replaced; if a later one fails, the earlier ones are put back.
pub fn write_together(rewrites: &[Rewrite]) -> Result<()> {
    let due: Vec<&Rewrite> = rewrites.iter().filter(|rewrite| !rewrite.is_idle()).collect();
    let staged = due.iter().map(|rewrite| rewrite.stage(&rewrite.new)).collect::<Result<_>>()?;
    for rewrite in &due {
        rewrite.is_unchanged()?;
    }
    put_in_place(&due, staged)
}

fn put_in_place(due: &[&Rewrite], staged: Vec<Staged>) -> Result<()> {
    for (number, next) in staged.into_iter().enumerate() {
        let path = &due[number].path;
        let Err(error) = next.commit() else { continue };
        let error =
            anyhow::Error::from(error).context(format!("{} can't be written", path.display()));
        // The failed one may be in place already, with only the directory not synced.
        for done in due[..=number].iter().filter(|rewrite| rewrite.is_in_place()) {
            let back = done.stage(&done.old).and_then(|staged| Ok(staged.commit()?));
            if let Err(second) = back {
                return Err(error.context(format!(
                    "{} is changed and could not be put back ({second:#})",
                    done.path.display()
                )));
            }
        }
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "#hostname: web\r\n# netz: \u{fc}ber\r\narch: amd64\nhostname:   web \r\n\
        net0: name=eth0,hwaddr=BC:24:11:00:00:01\nlxc.hostname: web\nhostname : web\nnet0\n  net0: x\n\
        unknown line\n\n[pve:pending]\nhostname: web\n[before]\nhostname: web\n\
        net0: name=eth0,hwaddr=BC:24:11:00:00:01";

    fn edit(key: &str, from: &str, to: Option<&str>) -> Edit {
        Edit { key: key.into(), from: from.into(), to: to.map(String::from) }
    }

    #[test]
    fn only_the_lines_that_are_meant_change() {
        let edits = [
            edit("hostname", "web", Some("web-9002")),
            edit("net0", "name=eth0,hwaddr=BC:24:11:00:00:01", Some("name=eth0,hwaddr=new")),
        ];
        let after = edited(CONFIG.as_bytes(), Grammar::Pve, &edits);
        let after = String::from_utf8(after).unwrap();
        let differing: Vec<_> =
            CONFIG.split('\n').zip(after.split('\n')).filter(|(old, new)| old != new).collect();
        assert_eq!(
            differing,
            [
                ("hostname:   web \r", "hostname:   web-9002 \r"),
                ("net0: name=eth0,hwaddr=BC:24:11:00:00:01", "net0: name=eth0,hwaddr=new"),
            ]
        );
        assert_eq!(CONFIG.split('\n').count(), after.split('\n').count());
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let text = b"#\xff\xfe\nhostname: web\n\xc3: web\nhostname:\nhostname: ";
        let after = edited(text, Grammar::Pve, &[edit("hostname", "web", Some("x"))]);
        assert_eq!(after, b"#\xff\xfe\nhostname: x\n\xc3: web\nhostname:\nhostname: ");
        assert_eq!(edited(b"", Grammar::Pve, &[edit("hostname", "", None)]), b"");
    }

    #[test]
    fn a_line_with_another_value_is_left() {
        let text = "lxc.net.0.hwaddr = bc:24:11:00:00:01\nlxc.net.0.hwaddr = 02:00:00:00:00:09\n\
            lxc.net.0.ipv4.address = 192.0.2.7/24\nlxc.net.0.flags = up\n";
        let edits = [
            edit("lxc.net.0.hwaddr", "BC:24:11:00:00:01", Some("BC:24:11:00:00:02")),
            edit("lxc.net.0.ipv4.address", "192.0.2.7/24", None),
        ];
        let after = edited(text.as_bytes(), Grammar::Lxc, &edits);
        assert_eq!(
            String::from_utf8(after).unwrap(),
            "lxc.net.0.hwaddr = BC:24:11:00:00:02\nlxc.net.0.hwaddr = 02:00:00:00:00:09\n\
            lxc.net.0.flags = up\n"
        );
    }

    struct Files(PathBuf);

    impl Files {
        fn new() -> Files {
            let name = format!("stillpoint-edit-{}", crate::sys::text::token());
            let directory = std::env::temp_dir().join(name);
            fs::create_dir_all(directory.join("b")).unwrap();
            fs::write(directory.join("a"), "hostname: web\n").unwrap();
            fs::write(directory.join("b/b"), "hostname: web\n").unwrap();
            Files(directory)
        }

        fn rewrites(&self) -> [Rewrite; 2] {
            let edits = [edit("hostname", "web", Some("new"))];
            ["a", "b/b"].map(|name| {
                Rewrite::read(&self.0.join(name), Grammar::Pve, &edits).unwrap().unwrap()
            })
        }

        fn texts(&self) -> [String; 2] {
            ["a", "b/b"].map(|name| fs::read_to_string(self.0.join(name)).unwrap())
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn both_files_are_written_or_neither() {
        let files = Files::new();
        write_together(&files.rewrites()).unwrap();
        assert_eq!(files.texts(), ["hostname: new\n", "hostname: new\n"]);

        let files = Files::new();
        let rewrites = files.rewrites();
        fs::write(files.0.join("b/b"), "hostname: web\nonboot: 1\n").unwrap();
        let error = write_together(&rewrites).unwrap_err();
        assert!(error.to_string().contains("changed meanwhile"), "{error:#}");
        assert_eq!(files.texts(), ["hostname: web\n", "hostname: web\nonboot: 1\n"]);
        assert_eq!(fs::read_dir(&files.0).unwrap().count(), 2, "nothing is left beside them");
    }

    #[test]
    fn a_file_that_takes_no_new_content_leaves_the_other_as_it_was() {
        let files = Files::new();
        let mut rewrites = files.rewrites();
        // A directory in the place of the second file: writing beside it works, replacing it does
        // not.
        rewrites[1].path = files.0.join("c");
        fs::create_dir(files.0.join("c")).unwrap();
        let staged = rewrites.iter().map(|rewrite| rewrite.stage(&rewrite.new).unwrap()).collect();
        let error = put_in_place(&rewrites.iter().collect::<Vec<_>>(), staged).unwrap_err();
        assert!(error.to_string().ends_with("/c can't be written"), "{error:#}");
        assert_eq!(files.texts(), ["hostname: web\n", "hostname: web\n"]);
    }
}
