//! The names of all settings, and the nearest one to a wrong name.

/// Stands for the VMID in `[guest.VMID]` or the storage's name in `[storage.ID]`.
const ANY: &str = "*";

/// Every setting with its default as a file would have it. `None`: settings of `guest.*` and
/// `storage.*`, which have no default of their own, and settings that are off by default.
pub const KEYS: &[(&str, Option<&str>)] = &[
    ("quiesce.strategy", Some("\"stop\"")),
    ("quiesce.on-error", Some("\"continue\"")),
    ("quiesce.time-limit", Some("\"60s\"")),
    ("quiesce.hold-limit", Some("\"5min\"")),
    ("quiesce.budget", Some("\"3min\"")),
    ("quiesce.try", Some("\"throwaway\"")),
    ("verify.wait", Some("\"5min\"")),
    ("verify.parallel", Some("1")),
    ("verify.when", Some("\"always\"")),
    ("verify.on-failure", Some("\"warn\"")),
    ("verify.require-encryption", Some("false")),
    ("resume.revive-guest", Some("true")),
    ("resume.unlock", Some("true")),
    ("restore.identity", Some("\"if-conflict\"")),
    ("restore.hostname", Some("\"{hostname}-{vmid}\"")),
    ("restore.address", Some("\"link-down\"")),
    ("restore.machine-id", Some("true")),
    ("restore.ssh-host-keys", Some("true")),
    ("restore.chain", Some("true")),
    ("restore.shared", Some("[]")),
    ("journal.keep", Some("\"5y\"")),
    ("report.textfile-directory", None),
    ("report.ping-url", None),
    ("guest.*.strategy", None),
    ("guest.*.verify.when", None),
    ("guest.*.verify.on-failure", None),
    ("guest.*.verify.require-encryption", None),
    ("guest.*.restore.identity", None),
    ("guest.*.restore.hostname", None),
    ("guest.*.restore.address", None),
    ("guest.*.restore.machine-id", None),
    ("guest.*.restore.ssh-host-keys", None),
    ("guest.*.restore.shared", None),
    ("storage.*.verify.when", None),
    ("storage.*.verify.on-failure", None),
    ("storage.*.verify.require-encryption", None),
    ("storage.*.key-saved", None),
];

/// What a path in a settings file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Setting,
    Table,
    Nothing,
}

/// What is at a path such as `["guest", "9001", "strategy"]`.
pub fn kind(path: &[&str]) -> Kind {
    let mut kind = Kind::Nothing;
    for (key, _) in KEYS {
        let mut words = key.split('.');
        let begins = path.iter().all(|word| fits(words.next(), word));
        match (begins, words.next()) {
            (true, None) => return Kind::Setting,
            (true, Some(_)) => kind = Kind::Table,
            (false, _) => {}
        }
    }
    kind
}

fn fits(known: Option<&str>, word: &str) -> bool {
    known.is_some_and(|known| known == ANY || known == word)
}

/// The setting or table whose name is nearest to a wrong path: the same name in another table, else
/// the one with the fewest characters to change.
pub fn nearest(path: &[&str]) -> String {
    let meant = |words: &[&str]| -> String {
        // Keeps the VMID or the storage's name that the file has.
        let named = |(at, word): (usize, &&str)| match (*word, path.get(at)) {
            (ANY, Some(name)) if words.first() == path.first() => (*name).to_string(),
            (ANY, _) if words.first() == Some(&"guest") => "VMID".to_string(),
            (ANY, _) => "ID".to_string(),
            (word, _) => word.to_string(),
        };
        words.iter().enumerate().map(named).collect::<Vec<_>>().join(".")
    };
    let written = path.join(".");
    let last = path.last().copied().unwrap_or_default();
    let mut best: Option<(usize, String)> = None;
    for (key, _) in KEYS {
        let words: Vec<&str> = key.split('.').collect();
        let elsewhere = distance(words.last().copied().unwrap_or_default(), last);
        let mut candidates = Vec::new();
        // Short names are all similar: at least half of the name must match.
        if 2 * elsewhere < last.chars().count() {
            candidates.push((meant(&words), elsewhere + 1 + usize::from(elsewhere > 0)));
        }
        if let Some(as_deep) = words.get(..path.len()) {
            let as_deep = meant(as_deep);
            let far = distance(&as_deep, &written);
            candidates.push((as_deep, far));
        }
        for (candidate, far) in candidates {
            if best.as_ref().is_none_or(|(least, _)| far < *least) {
                best = Some((far, candidate));
            }
        }
    }
    best.map(|(_, name)| name).unwrap_or_default()
}

/// The number of characters to insert, delete or change to turn one word into the other.
fn distance(one: &str, other: &str) -> usize {
    /// No setting has a longer name.
    const LONGEST: usize = 200;
    let other: Vec<char> = other.chars().take(LONGEST).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (done, letter) in one.chars().take(LONGEST).enumerate() {
        let mut next = vec![done + 1];
        for ((at, theirs), pair) in other.iter().enumerate().zip(row.windows(2)) {
            let &[diagonal, above] = pair else { continue };
            let changed = diagonal + usize::from(*theirs != letter);
            let left = next.get(at).copied().unwrap_or(usize::MAX - 1);
            next.push(changed.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_a_setting_a_table_or_nothing() {
        for (path, expected) in [
            ("quiesce", Kind::Table),
            ("quiesce.strategy", Kind::Setting),
            ("quiesce.strategy.x", Kind::Nothing),
            ("guest", Kind::Table),
            ("guest.9001", Kind::Table),
            ("guest.9001.verify", Kind::Table),
            ("guest.9001.verify.when", Kind::Setting),
            ("storage.offsite.verify.require-encryption", Kind::Setting),
            ("storage.offsite.key-saved", Kind::Setting),
            ("storage.offsite.strategy", Kind::Nothing),
            ("quiese", Kind::Nothing),
        ] {
            let words: Vec<&str> = path.split('.').collect();
            assert_eq!(kind(&words), expected, "{path}");
        }
    }

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        for (written, meant) in [
            ("quiesce.hold-limt", "quiesce.hold-limit"),
            ("quiesce.hold_limit", "quiesce.hold-limit"),
            ("quiese", "quiesce"),
            ("guests", "guest"),
            ("verify.hold-limit", "quiesce.hold-limit"),
            ("hold-limit", "quiesce.hold-limit"),
            ("guest.9001.stratgy", "guest.9001.strategy"),
            ("guest.9001.verify.wen", "guest.9001.verify.when"),
            ("storage.offsite.verify.on-fail", "storage.offsite.verify.on-failure"),
            ("report.ping", "report.ping-url"),
            ("report.url", "report.ping-url"),
        ] {
            let words: Vec<&str> = written.split('.').collect();
            assert_eq!(nearest(&words), meant, "{written}");
        }
    }

    #[test]
    fn distance_counts_letters() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
