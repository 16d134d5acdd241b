//! The format of `/etc/pve/storage.cfg` and `/etc/pve/jobs.cfg`, read as Proxmox VE reads it
//! (`PVE::SectionConfig`).
//!
//! A section begins with `KIND: ID` and ends with the first empty line. Lines that begin with `#`
//! are comments. Inside a section only indented `key value` lines count: a line that looks like the
//! beginning of another section is ignored there, and so is everything between two sections. Of two
//! lines with the same key the first counts.

/// A file of sections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sections {
    pub sections: Vec<Section>,
    /// Ignored lines, with their numbers, except those below a section that a blank line has cut.
    pub ignored: Vec<(usize, String)>,
}

/// One section.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Section {
    pub kind: String,
    pub id: String,
    values: Vec<(String, String)>,
    /// The number of the blank line that ended it, and the ignored keys below that.
    pub cut: Option<(usize, Vec<String>)>,
}

impl Section {
    /// The value of a key; empty if the key has no value.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The value of a key; `None` also if it is empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.value(key).filter(|value| !value.is_empty())
    }

    /// A switch: on if it is `1` or has no value. Proxmox VE ignores every other value except `0`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            "" | "1" => Some(true),
            "0" => Some(false),
            _ => None,
        }
    }
}

impl Sections {
    /// Parses the text of a file.
    pub fn parse(text: &str) -> Sections {
        let mut read = Sections::default();
        // Where the last section ended, as long as only blank lines follow.
        let (mut inside, mut blank) = (false, None);
        for (index, line) in text.split('\n').enumerate() {
            let number = index + 1;
            if line.trim_start().starts_with('#') {
                continue;
            }
            if line.is_empty() {
                if inside {
                    (inside, blank) = (false, Some(number));
                }
                continue;
            }
            if let Some((kind, id)) = header(line).filter(|_| !inside) {
                read.sections.push(Section { kind, id, ..Section::default() });
                (inside, blank) = (true, None);
                continue;
            }
            let indented = line.starts_with(char::is_whitespace);
            let line = line.trim();
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            match (read.sections.last_mut(), blank) {
                (Some(section), _) if inside && indented && !key.is_empty() => {
                    section.values.push((key.to_string(), value.trim().to_string()));
                }
                (Some(section), Some(blank)) if indented && !key.is_empty() => {
                    section.cut.get_or_insert((blank, Vec::new())).1.push(key.to_string());
                }
                // A line of spaces has no key to lose.
                _ if key.is_empty() => {}
                _ => read.ignored.push((number, line.to_string())),
            }
        }
        read
    }
}

/// `vzdump: backup-3f2a1b9c-01`
fn header(line: &str) -> Option<(String, String)> {
    let (kind, id) = line.split_once(':')?;
    let word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    let id = id.trim();
    (word(kind) && word(id)).then(|| (kind.to_string(), id.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Section {
        let mut read = Sections::parse(text);
        assert_eq!(read.sections.len(), 1, "{read:?}");
        read.sections.remove(0)
    }

    #[test]
    fn a_section_ends_with_an_empty_line_and_nothing_else() {
        let text = "dir: a\n\tpath /a\n  \n\t# no\nunindented 1\ndir: b\n\tpath /b\n\tshared 1\n";
        let read = only(text);
        assert_eq!((read.value("path"), read.flag("shared")), (Some("/a"), Some(true)));
        let kinds = |text| Sections::parse(text).sections.len();
        assert_eq!(kinds("dir: a\n\tpath /a\n\ndir: b\n"), 2);
        assert_eq!(kinds("dir: a\r\n\tpath /a\r\n\r\ndir: b\r\n"), 1, "no line is empty");
        assert_eq!(kinds("# dir: c\n dir: a\ndir a\ndir:\n"), 0);
    }

    #[test]
    fn of_two_lines_with_the_same_key_the_first_counts() {
        let read =
            only("dir: a\n\tpath /a\n\tpath   /b c \n\tnodes\n\tdisable\n\tshared yes\n\tx 0\n");
        assert_eq!((read.value("path"), read.text("nodes")), (Some("/a"), None));
        let flags = ["disable", "shared", "x", "y"].map(|key| read.flag(key));
        assert_eq!(flags, [Some(true), None, Some(false), None]);
    }

    #[test]
    fn what_a_blank_line_cuts_off_is_known() {
        let read = only("vzdump: nightly\n\tall 1\n\n\tscript /x\n\n\tnode a\n");
        assert_eq!(read.cut, Some((3, vec!["script".into(), "node".into()])));
        let ignored = |text| Sections::parse(text).ignored;
        assert_eq!(ignored("vzdump: a\n\tall 1\nscript /x\n"), [(3, "script /x".to_string())]);
        assert_eq!(ignored("\tall 1\n"), [(1, "all 1".to_string())]);
    }
}
