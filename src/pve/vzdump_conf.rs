//! The node's settings for vzdump, `/etc/vzdump.conf`: read, and its `script:` line changed without
//! touching another byte of the file.
//!
//! A previous script is kept in the file itself, as a comment above ours: an admin who edits or
//! replaces the file sees both, and no second file can disagree with it.

use std::io;

use anyhow::{Result, bail};

use super::callers::VZDUMP_HOOK;
use super::options::{last, pair, prunes};
use crate::sys::{Root, file};
use crate::vzdump::{Job, Mode};

/// Its path.
pub const PATH: &str = "/etc/vzdump.conf";

const LIMIT: u64 = 1 << 20;

/// The prefix of the previous line, which is kept as a comment.
const KEPT: &[u8] = b"#kept by stillpoint, which calls it: ";

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VzdumpConf {
    /// The script that vzdump calls in each phase.
    pub script: Option<String>,
    /// `None` also for an unknown mode: then vzdump uses its default.
    pub mode: Option<Mode>,
    pub tmpdir: Option<String>,
    /// Whether storages are pruned after each backup; `None` if it does not say.
    pub prunes: Option<bool>,
}

impl VzdumpConf {
    /// Reads the file; a missing one counts as empty.
    pub fn read(root: &Root) -> io::Result<VzdumpConf> {
        Ok(VzdumpConf::parse(&text(root)?))
    }

    fn parse(text: &[u8]) -> VzdumpConf {
        VzdumpConf {
            script: script(text),
            mode: last(text, "mode").and_then(|word| Mode::from_word(&word)),
            tmpdir: last(text, "tmpdir"),
            prunes: last(text, "prune-backups").as_deref().map(prunes),
        }
    }
}

/// The text of the file; empty if it is missing.
pub fn text(root: &Root) -> io::Result<Vec<u8>> {
    match file::read(&root.path(PATH), LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// The requested mode of a job: from its command line, else from the file, else snapshot.
pub fn mode_asked(root: &Root, job: &Job) -> Mode {
    job.mode_asked(root).or_else(|| VzdumpConf::read(root).ok()?.mode).unwrap_or(Mode::Snapshot)
}

/// The file with our hook as its script; `None` if it is registered already.
///
/// PVE uses the last of several `script:` lines, so that one is replaced. `is_ours`: whether a path
/// leads to our hook, under any name ([`super::is_vzdump_hook`]). Such a path must not be kept as
/// the previous script, because we would call ourselves.
pub fn register(text: &[u8], is_ours: impl Fn(&str) -> bool) -> Result<Option<Vec<u8>>> {
    let lines = lines(text);
    let Some((number, value)) = effective(&lines) else { return Ok(Some(appended(text))) };
    if is_ours(&value) {
        return Ok(None);
    }
    if !value.is_empty() && !value.starts_with('/') {
        bail!(
            "`script: {value}` is not an absolute path, so Stillpoint cannot call it: write the \
             full path"
        );
    }
    let mut written = lines[..number].concat();
    let (line, end) = split_end(lines[number]);
    written.extend([KEPT, line, b"\n", &own_line(), end].concat());
    written.extend(lines[number + 1..].concat());
    Ok(Some(written))
}

/// The file as it was before [`register`], with later edits kept; `None` if our hook is not in it.
pub fn unregister(text: &[u8], is_ours: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    let lines = lines(text);
    let ours = |line: &[u8]| value(line).is_some_and(|value| is_ours(&value));
    if !lines.iter().any(|line| ours(line)) {
        return None;
    }
    let mut written: Vec<u8> = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let kept = kept(line).filter(|_| lines.get(number + 1).is_some_and(|next| ours(next)));
        if let Some(kept) = kept {
            written.extend([split_end(kept).0, split_end(lines[number + 1]).1].concat());
        } else if !ours(line) {
            written.extend(*line);
        } else if split_end(line).1.is_empty() && kept_above(&lines, number).is_none() {
            // A file that had no line end at its end gets none.
            written.pop_if(|byte| *byte == b'\n');
        }
    }
    Some(written)
}

/// The previous script, which ours calls, if ours is in force.
pub fn chained(text: &[u8], is_ours: impl Fn(&str) -> bool) -> Option<String> {
    let lines = lines(text);
    let (number, script) = effective(&lines)?;
    if !is_ours(&script) {
        return None;
    }
    value(kept_above(&lines, number)?).filter(|script| !script.is_empty())
}

/// The script in force.
pub fn script(text: &[u8]) -> Option<String> {
    last(text, "script")
}

fn appended(text: &[u8]) -> Vec<u8> {
    match text.last() {
        None | Some(b'\n') => [text, &own_line(), b"\n"].concat(),
        Some(_) => [text, b"\n", &own_line()].concat(),
    }
}

fn own_line() -> Vec<u8> {
    format!("script: {VZDUMP_HOOK}").into_bytes()
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// A line and its line end, which the last line may lack.
fn split_end(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(line.len() - usize::from(line.ends_with(b"\n")))
}

fn effective(lines: &[&[u8]]) -> Option<(usize, String)> {
    lines.iter().enumerate().rev().find_map(|(number, line)| Some((number, value(line)?)))
}

/// The value of a `script:` line.
fn value(line: &[u8]) -> Option<String> {
    pair(line).filter(|(key, _)| *key == b"script").map(|(_, value)| value)
}

fn kept(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(KEPT)
}

fn kept_above<'a>(lines: &[&'a [u8]], number: usize) -> Option<&'a [u8]> {
    kept(lines.get(number.checked_sub(1)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ours(path: &str) -> bool {
        path == VZDUMP_HOOK
    }

    /// Registers and unregisters; returns the registered text after checking that the original came
    /// back.
    fn there_and_back(text: &[u8]) -> Vec<u8> {
        let registered = register(text, is_ours).unwrap().unwrap();
        assert_eq!(script(&registered).as_deref(), Some(VZDUMP_HOOK));
        assert_eq!(register(&registered, is_ours).unwrap(), None, "twice changes nothing");
        let back = unregister(&registered, is_ours).unwrap();
        assert_eq!(String::from_utf8_lossy(&back), String::from_utf8_lossy(text));
        assert_eq!(back, text);
        registered
    }

    #[test]
    fn what_else_is_in_the_file_is_kept_byte_for_byte() {
        let text = b"# caf\xe9 \t\r\n\n mode: stop \n#script: FILENAME\nbwlimit: 1000";
        let registered = there_and_back(text);
        assert!(registered.starts_with(text));
        assert_eq!(chained(&registered, is_ours), None);
        for text in [&b""[..], b"\n", b"\n\n", b"# x", b"mode: stop\n"] {
            there_and_back(text);
        }
    }

    #[test]
    fn a_script_that_is_there_is_kept_and_known() {
        for text in [
            &b"mode: stop\nscript: /usr/local/bin/mine  \nbwlimit: 1\n"[..],
            b"\t script:/usr/local/bin/mine",
            b"script: /usr/local/bin/mine\r\n# end\r\n",
            b"script: /old\nscript: /usr/local/bin/mine\n",
        ] {
            let registered = there_and_back(text);
            assert_eq!(chained(&registered, is_ours).as_deref(), Some("/usr/local/bin/mine"));
        }
        let nothing = there_and_back(b"script:\nmode: stop\n");
        assert_eq!(chained(&nothing, is_ours), None);
    }

    #[test]
    fn what_was_written_since_stays() {
        let registered = register(b"script: /mine\n", is_ours).unwrap().unwrap();
        let edited = [&b"# mine too\n"[..], &registered, b"mode: stop\n"].concat();
        assert_eq!(
            unregister(&edited, is_ours).unwrap(),
            b"# mine too\nscript: /mine\nmode: stop\n"
        );
    }

    #[test]
    fn a_script_of_somebody_else_is_not_touched_and_nothing_is_called_for_it() {
        let theirs = b"#kept by stillpoint, which calls it: script: /mine\nscript: /theirs\n";
        assert_eq!(unregister(theirs, is_ours), None);
        assert_eq!(chained(theirs, is_ours), None);
        let later = format!(
            "#kept by stillpoint, which calls it: script: /mine\nscript: {VZDUMP_HOOK}\nscript: /theirs\n"
        );
        assert_eq!(chained(later.as_bytes(), is_ours), None);
    }

    #[test]
    fn our_hook_by_another_name_is_no_script_to_keep() {
        let text = b"script: /root/link-to-stillpoint\n";
        let is_ours = |path: &str| is_ours(path) || path == "/root/link-to-stillpoint";
        assert_eq!(register(text, is_ours).unwrap(), None);
        assert_eq!(unregister(text, is_ours).unwrap(), b"");
        let kept = b"#kept by stillpoint, which calls it: script: /mine\nscript: /root/link-to-stillpoint\n";
        assert_eq!(chained(kept, is_ours).as_deref(), Some("/mine"));
    }

    #[test]
    fn of_two_lines_with_the_same_key_the_last_counts() {
        let conf = VzdumpConf::parse(
            b"mode: stop\n#mode: suspend\n mode: suspend\r\ntmpdir: /a\ntmpdir: /b\nprune-backups: keep-last=1\n\
            script: /a\nscript: /b\nprune-backups: keep-all=1\n",
        );
        assert_eq!(conf.mode, Some(Mode::Suspend));
        assert_eq!((conf.tmpdir.as_deref(), conf.script.as_deref()), (Some("/b"), Some("/b")));
        assert_eq!(conf.prunes, Some(false));
        let odd = VzdumpConf::parse(b"mode: stop\nmode: halt\n");
        assert_eq!(odd.mode, None, "vzdump drops what it does not know and goes by its default");
        assert_eq!(VzdumpConf::parse(b""), VzdumpConf::default());
    }

    #[test]
    fn a_path_that_depends_on_where_vzdump_was_started_is_refused() {
        let error = register(b"script: mine.sh\n", is_ours).unwrap_err().to_string();
        assert!(error.contains("mine.sh"), "{error}");
    }
}
