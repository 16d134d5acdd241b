//! The script that vzdump calls: one for every backup of the node, in `/etc/vzdump.conf`.

use std::io;

use super::check::Check;
use super::messages::{NO_SCRIPT, NO_VZDUMP_CONF, OTHER_SCRIPT, SCRIPT};
use crate::sys::{Root, file};

/// The hook.
pub const HOOK: &str = "/usr/libexec/stillpoint/vzdump-hook";

const CONF: &str = "/etc/vzdump.conf";
const LIMIT: u64 = 1 << 20;

pub fn script(root: &Root) -> Vec<Check> {
    let about = "vzdump.script";
    vec![match setting(root, "script") {
        Err(error) => NO_VZDUMP_CONF.check(about, &[("reason", &error)]),
        Ok(None) => NO_SCRIPT.check(about, &[]),
        Ok(Some(script)) if script == HOOK => SCRIPT.check(about, &[]),
        Ok(Some(script)) => OTHER_SCRIPT.check(about, &[("script", &script)]),
    }]
}

/// A setting of `/etc/vzdump.conf`; `None` where it or the file is missing.
pub fn setting(root: &Root, key: &str) -> io::Result<Option<String>> {
    let text = file::read_text(&root.path(CONF), LIMIT)?.unwrap_or_default();
    Ok(value(&text, key).map(String::from))
}

/// Spaces around a line mean nothing, and the last line of a key counts.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut values = text.lines().filter_map(|line| {
        let (found, value) = line.trim().split_once(':')?;
        (found == key).then_some(value.trim())
    });
    values.next_back().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_found_as_vzdump_finds_it() {
        assert_eq!(value("#script: /a\n", "script"), None);
        assert_eq!(value("# script: /a\nscripts: /b\n", "script"), None);
        assert_eq!(value("mode: stop\n  script:/a  \n", "script"), Some("/a"));
        assert_eq!(value("script: /a\nscript: /b\n", "script"), Some("/b"));
        assert_eq!(value("script:\n", "script"), None);
    }
}
