//! What in Proxmox VE calls Stillpoint, and which of its programs: vzdump through `script:`, the
//! start of a guest through its `hookscript:` or through a drop-in of every container's unit.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde::Serialize;

use super::guest::Config;
use crate::sys::{Root, file};
use crate::vzdump::GuestType;

/// The program that vzdump calls in each phase.
pub const VZDUMP_HOOK: &str = "/usr/libexec/stillpoint/vzdump-hook";

/// The program that is called when a guest starts.
pub const GUEST_HOOK: &str = "/usr/libexec/stillpoint/guest-hook";

/// The name of our hookscript in a snippets directory.
pub const SNIPPET: &str = "stillpoint";

/// The drop-in of every container's unit. `pct start --debug`, and guests with `debug: 1`, use the
/// second one.
pub const DROP_INS: [&str; 2] = [
    "/etc/systemd/system/pve-container@.service.d/stillpoint.conf",
    "/etc/systemd/system/pve-container-debug@.service.d/stillpoint.conf",
];

const LIMIT: u64 = 1 << 20;

/// What calls Stillpoint when a guest starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStart {
    /// Its own hookscript.
    Hookscript,
    /// The drop-in for all containers of this node.
    Node,
    /// Nothing does; a VM needs nothing.
    None,
}

impl OnStart {
    /// For a guest with this configuration; `drop_in` is the result of [`drop_in_calls`].
    pub fn of(guest_type: GuestType, config: &Config, drop_in: bool) -> OnStart {
        match &config.hookscript {
            _ if guest_type == GuestType::Qemu => OnStart::None,
            Some(volume) if is_our_snippet(volume) => OnStart::Hookscript,
            _ if drop_in => OnStart::Node,
            _ => OnStart::None,
        }
    }
}

/// Whether a path leads to our hook for vzdump, under any name.
pub fn is_vzdump_hook(root: &Root, path: &str) -> bool {
    let identity =
        |path: &str| fs::metadata(root.path(path)).ok().map(|file| (file.dev(), file.ino()));
    path == VZDUMP_HOOK
        || path.starts_with('/')
            && identity(path).is_some_and(|file| Some(file) == identity(VZDUMP_HOOK))
}

/// Whether a volume is our hookscript, in any storage.
pub fn is_our_snippet(volume: &str) -> bool {
    let name = volume.split_once(':').and_then(|(_, name)| name.strip_prefix("snippets/"));
    name == Some(SNIPPET)
}

/// Whether the drop-in of this node makes systemd call our hook before it starts a container: a
/// file without such a line calls nothing.
pub fn drop_in_calls(root: &Root) -> bool {
    let text = file::read_text(&root.path(DROP_INS[0]), LIMIT).ok().flatten();
    text.is_some_and(|text| calls_guest_hook(&text))
}

/// Whether a unit file calls our hook. An assignment without a value removes those before it.
fn calls_guest_hook(text: &str) -> bool {
    let (mut in_service, mut calls) = (false, false);
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_service = line == "[Service]";
        } else if let Some(("ExecStartPre", command)) = assignment(line).filter(|_| in_service) {
            calls = !command.is_empty() && (calls || names_guest_hook(command));
        }
    }
    calls
}

/// A line that begins with `#` or `;` is a comment.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    Some((key.trim(), value.trim()))
}

/// The program may have systemd's prefixes, such as `-`.
fn names_guest_hook(command: &str) -> bool {
    let mut words = command.split_whitespace();
    words.any(|word| word.trim_start_matches(['-', '@', ':', '+', '!', '|']) == GUEST_HOOK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_in_calls_our_hook_only_where_it_says_so() {
        let pre = format!("ExecStartPre=-/usr/bin/timeout 20 {GUEST_HOOK} %i pre-start unit\n");
        assert!(calls_guest_hook(&format!("# Ours.\n[Service]\n{pre}")));
        assert!(calls_guest_hook(&format!(
            "[Service]\n ExecStartPre = -{GUEST_HOOK} %i pre-start\n"
        )));
        for text in [
            String::new(),
            "# It was here.\n".to_string(),
            format!("[Service]\n#{pre};{pre}"),
            format!("[Unit]\n{pre}"),
            format!("[Service]\n{pre}ExecStartPre=\n"),
            format!("[Service]\nExecStartPre=/bin/true\nExecStartPost={GUEST_HOOK}\n"),
            format!("[Service]\nExecStartPre={GUEST_HOOK}.old %i\n"),
        ] {
            assert!(!calls_guest_hook(&text), "{text:?}");
        }
    }

    #[test]
    fn our_hookscript_is_known_in_every_storage() {
        let ours = ["local:snippets/stillpoint", "share:snippets/stillpoint"];
        assert!(ours.into_iter().all(is_our_snippet));
        for other in ["local:snippets/stillpoint.pl", "stillpoint", "local:iso/stillpoint"] {
            assert!(!is_our_snippet(other), "{other}");
        }
    }

    #[test]
    fn a_hookscript_of_the_guest_comes_before_the_drop_in() {
        let config = |hookscript: Option<&str>| Config {
            hookscript: hookscript.map(String::from),
            ..Config::default()
        };
        let ours = config(Some("local:snippets/stillpoint"));
        let of = |config: &Config, drop_in| OnStart::of(GuestType::Lxc, config, drop_in);
        assert_eq!(of(&ours, true), OnStart::Hookscript);
        assert_eq!(of(&config(Some("local:snippets/dns.pl")), true), OnStart::Node);
        assert_eq!(of(&config(None), false), OnStart::None);
        assert_eq!(OnStart::of(GuestType::Qemu, &ours, true), OnStart::None);
    }
}
