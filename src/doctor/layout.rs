//! The report as text for a person.

use super::Report;
use super::check::{Check, Level};
use crate::sys::terminal::Style;
use crate::sys::text::{count, wrapped};

/// The longest name in the first column; after a longer name, the message begins on the next line.
const LONGEST_NAME: usize = 28;

/// The narrowest column that a message is wrapped to.
const NARROWEST: usize = 24;

/// The indentation of a command: small, so that long commands fit.
const COMMAND: usize = 6;

/// The report in lines, for a terminal of so many columns. A command is on its own line and never
/// wrapped, so that it can be copied.
pub fn lines(report: &Report, columns: usize, colours: bool) -> Vec<String> {
    let names = report.checks.iter().map(|check| check.about.chars().count());
    let name = names.filter(|length| *length <= LONGEST_NAME).max().unwrap_or(0);
    let indent = "fail".len() + 2 + name + 2;
    let room = columns.saturating_sub(indent).max(NARROWEST);
    let mut lines = Vec::new();
    for check in &report.checks {
        let mut sentence = wrapped(&check.message, room, 0).into_iter();
        let level = style(check.level).of(&format!("{:<4}", check.level), colours);
        let mut head = format!("{level}  {:<name$}", check.about);
        if check.about.chars().count() <= name {
            head.push_str("  ");
            head.extend(sentence.next());
        }
        lines.push(head);
        lines.extend(sentence.map(|line| format!("{:indent$}{line}", "")));
        for command in &check.fix {
            lines.push(format!("{:COMMAND$}{}", "", Style::Bold.of(command, colours)));
        }
    }
    lines.push(String::new());
    lines.push(summary(&report.checks));
    lines
}

fn summary(checks: &[Check]) -> String {
    let of = |level| checks.iter().filter(|check| check.level == level).count();
    let (ok, warn, fail) = (of(Level::Ok), of(Level::Warn), of(Level::Fail));
    match (warn, fail) {
        (0, 0) => format!("{}, all of them ok.", count(ok, "check")),
        _ => format!("{}: {ok} ok, {warn} warn, {fail} fail.", count(checks.len(), "check")),
    }
}

fn style(level: Level) -> Style {
    match level {
        Level::Ok => Style::Good,
        Level::Warn => Style::Warning,
        Level::Fail => Style::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(checks: Vec<Check>) -> Report {
        Report::new("pve1".to_string(), checks)
    }

    #[test]
    fn columns_are_kept_and_commands_are_whole() {
        let long = "pct set 9001 --mp0 local-lvm:vm-9001-disk-1,mp=/data,size=8G,backup=1";
        let report = reported(vec![
            Check::ok("a", "short"),
            Check::warn(
                "guest.9001.data.mp0",
                "a sentence that needs more than one line, for it goes on",
            )
            .fix(long),
            Check::fail("storage.a-storage-with-a-long-name.rights", "below its name"),
        ]);
        let lines = lines(&report, 60, false);
        assert_eq!(lines[0], "ok    a                    short");
        assert_eq!(lines[1], "warn  guest.9001.data.mp0  a sentence that needs more than");
        assert_eq!(lines[2], "                           one line, for it goes on");
        assert_eq!(lines[3], format!("      {long}"), "it is longer than the line in any case");
        assert_eq!(lines[4], "fail  storage.a-storage-with-a-long-name.rights");
        assert_eq!(lines[5], "                           below its name");
        assert_eq!(lines.last().unwrap(), "3 checks: 1 ok, 1 warn, 1 fail.");
        let within = |line: &String| line.contains(long) || line.chars().count() <= 60;
        assert!(lines.iter().all(within), "{lines:#?}");
    }

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let report = reported(vec![Check::ok("a", "b"), Check::fail("c", "d").fix("e")]);
        assert!(lines(&report, 80, true).iter().any(|line| line.contains("\x1b[")));
        assert!(!lines(&report, 80, false).concat().contains('\x1b'));
    }

    #[test]
    fn the_narrowest_terminal_is_written_to() {
        let report = reported(vec![Check::ok("guest.9001.engine", "some words")]);
        assert!(!lines(&report, 0, false).is_empty());
    }
}
