//! The format of `/etc/vzdump.conf` and `/etc/pve/datacenter.cfg`, read as Proxmox VE reads it
//! (`PVE::JSONSchema::parse_config`), and the meaning of its values.

/// The key and the value of a line. Blanks around them do not count; a line that begins with `#` is
/// a comment.
pub fn pair(line: &[u8]) -> Option<(&[u8], String)> {
    let line = line.trim_ascii();
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (key, value) = (&line[..colon], &line[colon + 1..]);
    let sound = !key.is_empty() && key[0] != b'#' && !key.iter().any(u8::is_ascii_whitespace);
    sound.then(|| (key, String::from_utf8_lossy(value.trim_ascii()).into_owned()))
}

/// The value of a key: the last of several lines counts, even if its value is empty.
pub fn last(text: &[u8], key: &str) -> Option<String> {
    let pairs = text.split(|byte| *byte == b'\n').rev().filter_map(pair);
    let mut values = pairs.filter(|(found, _)| *found == key.as_bytes());
    values.next().map(|(_, value)| value).filter(|value| !value.is_empty())
}

/// Whether a switch in a guest's configuration, or in a list of properties, is on.
pub fn is_on(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// Whether `prune-backups` removes backups: true for `keep-last=3,keep-daily=7`, false for
/// `keep-all=1` and without a value.
pub fn prunes(value: &str) -> bool {
    let keep = |part: &str| part.trim().starts_with("keep-") && !part.trim().ends_with("=0");
    let all = |part: &str| part.trim() == "keep-all=1";
    value.split(',').any(keep) && !value.split(',').any(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_key_counts() {
        for (text, script) in [
            ("script: /a\nscript: /b\n", Some("/b")),
            ("mode: stop\n  script:/a  \r\n", Some("/a")),
            ("script: /a\nscript:\n", None),
            ("#script: /a\n", None),
            ("# script: /a\nscripts: /b\nscr ipt: /c\n script : /d\n", None),
            ("script: a:b", Some("a:b")),
        ] {
            assert_eq!(last(text.as_bytes(), "script").as_deref(), script, "{text:?}");
        }
    }

    #[test]
    fn keeping_all_is_no_pruning() {
        assert!(prunes("keep-last=3,keep-daily=7"));
        for value in ["", "keep-all=1", "keep-all=0", "keep-all=1,keep-last=3"] {
            assert!(!prunes(value), "{value}");
        }
    }
}
