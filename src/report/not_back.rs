//! Containers that are not back, in words: which ones, why, and what to do.

use crate::guest::way_to_start;
use crate::run::{Fate, LeftContainer, Run, Step};
use crate::sys::Root;
use crate::sys::text::{count, printable, quoted};
use crate::vzdump::Vmid;

/// Beyond this number containers are counted, not named.
const MOST_NAMED: usize = 5;

/// The longest engine error in a sentence, in characters.
const LONGEST_WHY: usize = 300;

/// The longest command in characters; it consists of a few paths.
const LONGEST_COMMAND: usize = 16 << 10;

/// A container that ran before the backup and does not run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub name: String,
    pub why: String,
    /// It was removed while the backup was made, so there is nothing to start.
    pub removed: bool,
    /// The command that creates its stack again, for a shell in the guest.
    pub way_back: Option<String>,
}

/// The numbers for a guest whose containers are not all back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partly {
    pub vmid: Vmid,
    pub back: usize,
    pub all: usize,
    pub lost: Vec<Lost>,
}

impl From<&Step> for Lost {
    fn from(step: &Step) -> Lost {
        Lost {
            name: step.name.clone(),
            why: step.why_not_back(),
            removed: step.is_removed(),
            way_back: step.way_back.clone(),
        }
    }
}

impl From<&LeftContainer> for Lost {
    fn from(left: &LeftContainer) -> Lost {
        Lost {
            name: left.container.name.clone(),
            why: left.why.clone(),
            removed: left.removed,
            way_back: left.way_back.clone(),
        }
    }
}

impl Partly {
    /// For a run with containers that are not back; otherwise `None`.
    pub fn of(run: &Run) -> Option<Partly> {
        let lost: Vec<Lost> = run.not_back().map(Lost::from).collect();
        let (back, all) = (run.back(), run.fates().len());
        (!lost.is_empty()).then_some(Partly { vmid: run.vmid, back, all, lost })
    }

    /// `1 of 3 containers came back`
    pub fn numbers(&self) -> String {
        format!("{} of {} came back", self.back, count(self.all, "container"))
    }

    /// `1 of 3 containers came back. NOT back: db (permission denied). To try again: stillpoint
    /// resume 9001`
    pub fn words(&self, root: &Root) -> String {
        format!("{}. {}", self.numbers(), advice(root, self.vmid, &self.lost))
    }
}

/// `NOT back: db (permission denied), web (...). To try again: stillpoint resume 9001`
pub fn advice(root: &Root, vmid: Vmid, lost: &[Lost]) -> String {
    let mut sentences = vec![format!("NOT back: {}", named(lost))];
    sentences.extend(way_to_start(root, vmid).map(|start| format!("To start the guest: {start}")));
    sentences.extend(ways(vmid, lost));
    sentences.join(". ")
}

/// What to do in a running guest: a removed container's stack has to be created again; for the
/// others Stillpoint can try again.
fn ways(vmid: Vmid, lost: &[Lost]) -> Vec<String> {
    let (removed, down): (Vec<&Lost>, Vec<&Lost>) = lost.iter().partition(|lost| lost.removed);
    let mut commands: Vec<&String> =
        removed.iter().filter_map(|lost| lost.way_back.as_ref()).collect();
    commands.sort();
    commands.dedup();
    commands.truncate(MOST_NAMED);
    let mut ways: Vec<String> = commands
        .into_iter()
        .map(|command| format!("To make it anew: {}", on_the_node(vmid, command)))
        .collect();
    if removed.iter().any(|lost| lost.way_back.is_none()) {
        ways.push("What was removed has to be made anew in the guest, as it was made".to_string());
    }
    if !down.is_empty() {
        ways.push(format!("To try again: stillpoint resume {vmid}"));
    }
    ways
}

/// Turns a command for a shell in the guest into one for a shell on the node.
pub fn on_the_node(vmid: Vmid, command: &str) -> String {
    format!("pct exec {vmid} -- sh -c {}", quoted(command, LONGEST_COMMAND))
}

/// `db (permission denied), web (it was removed while the backup was made) and 3 more`
pub fn named(lost: &[Lost]) -> String {
    let one = |lost: &Lost| {
        format!("{} ({})", printable(&lost.name, 80), printable(&lost.why, LONGEST_WHY))
    };
    let names: Vec<String> = lost.iter().take(MOST_NAMED).map(one).collect();
    match lost.len().saturating_sub(MOST_NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// Why a run is not over: the containers that are not back yet, and what they wait for.
pub fn still_open(run: &Run) -> Option<String> {
    let open: Vec<Lost> =
        run.not_back().filter(|step| step.fate == Fate::Open).map(Lost::from).collect();
    (!open.is_empty()).then(|| {
        let is = if open.len() == 1 { "is" } else { "are" };
        format!("{} {is} not back yet", named(&open))
    })
}

/// `all 3 containers are back; 2 of them were started again`
pub fn all_back(all: usize, started: usize) -> String {
    let who = match all {
        0 => "nothing was waiting to be started".to_string(),
        1 => "its container is back".to_string(),
        _ => format!("all {all} containers are back"),
    };
    match (all, started) {
        (0, _) | (1, 1) => who,
        (_, 0) => format!("{who}; none had to be started"),
        (_, 1) => format!("{who}; 1 was started again"),
        (_, _) => format!("{who}; {started} were started again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::text::token;

    fn lost(name: &str, why: &str, way_back: Option<&str>) -> Lost {
        let (removed, way_back) = (way_back.is_some(), way_back.map(String::from));
        Lost { name: name.into(), why: why.into(), removed, way_back }
    }

    #[test]
    fn both_numbers_the_engines_words_and_the_way_out_are_said() {
        let directory = std::env::temp_dir().join(format!("stillpoint-lost-{}", token()));
        let root = Root::at(&directory);
        // It runs.
        std::fs::create_dir_all(directory.join("guests/9001/root")).unwrap();
        std::fs::write(directory.join("guests/9001/running"), "").unwrap();
        let refused = Partly {
            vmid: Vmid(9001),
            back: 1,
            all: 3,
            lost: vec![lost("db", "permission denied", None), lost("web", "no\x1b", None)],
        };
        assert_eq!(
            refused.words(&root),
            "1 of 3 containers came back. NOT back: db (permission denied), web (no\\u{1b}). \
             To try again: stillpoint resume 9001"
        );
        let one = Partly { back: 0, all: 1, ..refused };
        assert_eq!(one.numbers(), "0 of 1 container came back");
        let removed = vec![lost("db", "it was removed", Some("cd /opt/x && docker compose up -d"))];
        assert_eq!(
            advice(&root, Vmid(9001), &removed),
            "NOT back: db (it was removed). \
             To make it anew: pct exec 9001 -- sh -c 'cd /opt/x && docker compose up -d'"
        );
        std::fs::remove_file(directory.join("guests/9001/running")).unwrap();
        assert!(
            advice(&root, Vmid(9001), &removed).contains("To start the guest: pct start 9001.")
        );
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn one_is_one_and_more_are_more() {
        assert_eq!(all_back(1, 1), "its container is back");
        assert_eq!(all_back(1, 0), "its container is back; none had to be started");
        assert_eq!(all_back(3, 1), "all 3 containers are back; 1 was started again");
        assert_eq!(all_back(3, 3), "all 3 containers are back; 3 were started again");
    }
}
