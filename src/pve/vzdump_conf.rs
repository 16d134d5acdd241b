//! The `script:` line of `/etc/vzdump.conf`, changed without touching another byte of the file.
//!
//! A script that is there already is kept in the file itself, as a comment above ours: whoever edits or replaces the
//! file has both before them, and no second file can disagree with it.

use anyhow::{Result, bail};

/// The hook, as it stands in the file.
pub const HOOK: &str = "/usr/libexec/stillpoint/vzdump-hook";

/// Stands before the line that was there before ours.
const KEPT: &[u8] = b"#kept by stillpoint, which calls it: ";

/// The file with our hook as its script, and `None` where it is so already.
///
/// PVE reads the last of several `script:` lines, so that is the one to replace. `is_ours` tells a path that leads to
/// our hook by another name: it is no script to keep, for we would call ourselves.
pub fn register(text: &[u8], is_ours: impl Fn(&str) -> bool) -> Result<Option<Vec<u8>>> {
    let lines = lines(text);
    let Some((number, value)) = effective(&lines) else { return Ok(Some(appended(text))) };
    if value == HOOK || is_ours(&value) {
        return Ok(None);
    }
    if !value.is_empty() && !value.starts_with('/') {
        bail!(
            "`script: {value}` is no absolute path, so it can't be called in vzdump's stead: write the whole path"
        );
    }
    let mut written = lines[..number].concat();
    let (line, end) = split_end(lines[number]);
    written.extend([KEPT, line, b"\n", &own_line(), end].concat());
    written.extend(lines[number + 1..].concat());
    Ok(Some(written))
}

/// The file as it was before [`register`], whatever else was written into it since; `None` where our hook is not in it.
pub fn unregister(text: &[u8], is_ours: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    let lines = lines(text);
    let ours = |line: &[u8]| value(line).is_some_and(|value| value == HOOK || is_ours(&value));
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
            // A file that did not end with a line's end does not end with one again.
            written.pop_if(|byte| *byte == b'\n');
        }
    }
    Some(written)
}

/// The script that was there before ours and is called by it, where ours is the one in force.
pub fn chained(text: &[u8]) -> Option<String> {
    let lines = lines(text);
    let (number, script) = effective(&lines)?;
    if script != HOOK {
        return None;
    }
    value(kept_above(&lines, number)?).filter(|script| !script.is_empty())
}

/// The script in force.
pub fn script(text: &[u8]) -> Option<String> {
    effective(&lines(text)).map(|(_, script)| script).filter(|script| !script.is_empty())
}

fn appended(text: &[u8]) -> Vec<u8> {
    match text.last() {
        None | Some(b'\n') => [text, &own_line(), b"\n"].concat(),
        Some(_) => [text, b"\n", &own_line()].concat(),
    }
}

fn own_line() -> Vec<u8> {
    format!("script: {HOOK}").into_bytes()
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// A line and its end, which the last one may lack.
fn split_end(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(line.len() - usize::from(line.ends_with(b"\n")))
}

fn effective(lines: &[&[u8]]) -> Option<(usize, String)> {
    lines.iter().enumerate().rev().find_map(|(number, line)| Some((number, value(line)?)))
}

/// The value of a `script:` line; blanks around it do not count (PVE reads `KEY: VALUE` with blanks trimmed).
fn value(line: &[u8]) -> Option<String> {
    let value = line.trim_ascii().strip_prefix(b"script:")?;
    Some(String::from_utf8_lossy(value.trim_ascii()).into_owned())
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

    /// Registers, unregisters and compares; gives what stood between.
    fn there_and_back(text: &[u8]) -> Vec<u8> {
        let registered = register(text, |_| false).unwrap().unwrap();
        assert_eq!(script(&registered).as_deref(), Some(HOOK));
        assert_eq!(register(&registered, |_| false).unwrap(), None, "twice changes nothing");
        let back = unregister(&registered, |_| false).unwrap();
        assert_eq!(String::from_utf8_lossy(&back), String::from_utf8_lossy(text));
        assert_eq!(back, text);
        registered
    }

    #[test]
    fn what_else_is_in_the_file_is_kept_byte_for_byte() {
        let text = b"# caf\xe9 \t\r\n\n mode: stop \n#script: FILENAME\nbwlimit: 1000";
        let registered = there_and_back(text);
        assert!(registered.starts_with(text));
        assert_eq!(chained(&registered), None);
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
            assert_eq!(chained(&registered).as_deref(), Some("/usr/local/bin/mine"));
        }
        let nothing = there_and_back(b"script:\nmode: stop\n");
        assert_eq!(chained(&nothing), None);
    }

    #[test]
    fn what_was_written_since_stays() {
        let registered = register(b"script: /mine\n", |_| false).unwrap().unwrap();
        let edited = [&b"# mine too\n"[..], &registered, b"mode: stop\n"].concat();
        assert_eq!(
            unregister(&edited, |_| false).unwrap(),
            b"# mine too\nscript: /mine\nmode: stop\n"
        );
    }

    #[test]
    fn a_script_of_somebody_else_is_not_touched_and_nothing_is_called_for_it() {
        let theirs = b"#kept by stillpoint, which calls it: script: /mine\nscript: /theirs\n";
        assert_eq!(unregister(theirs, |_| false), None);
        assert_eq!(chained(theirs), None);
        let later = format!(
            "#kept by stillpoint, which calls it: script: /mine\nscript: {HOOK}\nscript: /theirs\n"
        );
        assert_eq!(chained(later.as_bytes()), None);
    }

    #[test]
    fn our_hook_by_another_name_is_no_script_to_keep() {
        let text = b"script: /root/link-to-stillpoint\n";
        let is_ours = |path: &str| path == "/root/link-to-stillpoint";
        assert_eq!(register(text, is_ours).unwrap(), None);
        assert_eq!(unregister(text, is_ours).unwrap(), b"");
    }

    #[test]
    fn a_path_that_depends_on_where_vzdump_was_started_is_refused() {
        let error = register(b"script: mine.sh\n", |_| false).unwrap_err().to_string();
        assert!(error.contains("mine.sh"), "{error}");
    }
}
