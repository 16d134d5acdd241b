use chrono::{DateTime, Local};

use super::words::{age, ago, called};
use super::{Guest, Level, Moment, ProofState, Status};
use crate::journal::{Grade, Outcome, VerifyOutcome};
use crate::pve::OnStart;
use crate::sys::terminal::Style;
use crate::sys::text::{count, seconds, wrapped};

/// From this many columns on, the table shows the time of a backup and both modes.
const ROOMY: usize = 100;

/// A guest's name is never cut below this.
const LEAST_NAME: usize = 8;

const GAP: &str = "  ";

/// The width of the column with `critical`, `warning` and `now`, and the narrowest column for the
/// sentences.
const WORD: usize = "critical".len() + GAP.len();
const NARROWEST: usize = 24;

/// The output that the table is for.
#[derive(Clone, Copy, Debug)]
pub struct Paper {
    pub columns: usize,
    pub colours: bool,
}

/// The status as a table for a person.
pub fn table(status: &Status, paper: Paper) -> Vec<String> {
    let roomy = paper.columns >= ROOMY;
    let mut lines = Vec::new();
    if status.guests.is_empty() {
        lines.push("There is no guest on this node.".to_string());
    } else {
        let mut rows = vec![header(roomy)];
        rows.extend(status.guests.iter().map(|guest| row(guest, roomy)));
        lines.extend(set(rows, paper));
        let other = |guest: &&Guest| {
            guest.backup.as_ref().is_some_and(|backup| backup.mode_asked != backup.mode_used)
        };
        if !roomy && status.guests.iter().any(|guest| other(&guest)) {
            lines.push("* made in another mode than was asked for (--json says which)".to_string());
        }
    }
    let mut sentences: Vec<(Level, String)> = Vec::new();
    for problem in &status.problems {
        sentences.push((problem.level, format!("{}: {}", status.node, problem.message)));
    }
    for guest in &status.guests {
        for problem in &guest.problems {
            sentences.push((problem.level, format!("{}: {}", called(guest), problem.message)));
        }
    }
    for now in &status.now {
        let guest = status.guests.iter().find(|guest| guest.vmid == now.vmid);
        // If its guest is here, a left-over run is already a problem of that guest.
        let told = |guest: &Guest| guest.problems.iter().any(|told| told.message == now.message);
        if !guest.is_some_and(told) {
            let who = guest.map_or(now.vmid.to_string(), called);
            sentences.push((Level::Ok, format!("{who}: {}", now.message)));
        }
    }
    if !sentences.is_empty() {
        lines.push(String::new());
    }
    // Within a level the order above stays.
    sentences.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    for (level, sentence) in sentences {
        let (style, word) = match level {
            Level::Ok => (Style::Plain, "now"),
            Level::Warning => (Style::Warning, "warning"),
            Level::Critical => (Style::Bad, "critical"),
        };
        let room = paper.columns.saturating_sub(WORD).max(NARROWEST);
        for (number, line) in wrapped(&sentence, room, 0).into_iter().enumerate() {
            let word = if number == 0 { word } else { "" };
            let pad = " ".repeat(WORD - word.len());
            lines.push(format!("{}{pad}{line}", style.of(word, paper.colours)));
        }
    }
    lines
}

struct Cell {
    text: String,
    style: Style,
}

fn cell(text: impl Into<String>, style: Style) -> Cell {
    Cell { text: text.into(), style }
}

/// The column that is cut if the lines are too long.
const NAME: usize = 1;

fn header(roomy: bool) -> Vec<Cell> {
    let mut names = vec!["VMID", "NAME"];
    if roomy {
        names.push("LAST BACKUP");
    }
    names.extend(["AGE", "GRADE", "MODE", "DOWN", "VERIFY", "ON START"]);
    names.into_iter().map(|name| cell(name, Style::Bold)).collect()
}

fn row(guest: &Guest, roomy: bool) -> Vec<Cell> {
    let level = match guest.level {
        Level::Ok => Style::Plain,
        Level::Warning => Style::Warning,
        Level::Critical => Style::Bad,
    };
    let mut cells = vec![
        cell(guest.vmid.to_string(), level),
        cell(guest.name.clone().unwrap_or_default(), Style::Plain),
    ];
    if roomy {
        cells.push(
            guest
                .backup
                .as_ref()
                .map_or(nothing(), |backup| cell(local(&backup.moment), Style::Plain)),
        );
    }
    let age_style = match guest.problems.iter().find(|it| it.message.starts_with("the last backup"))
    {
        Some(problem) if problem.level == Level::Critical => Style::Bad,
        Some(_) => Style::Warning,
        None => Style::Plain,
    };
    cells.push(match (&guest.backup, &guest.last_success) {
        (None, _) => cell("never", Style::Faint),
        (Some(_), Some(made)) => cell(age(made.age_s), age_style),
        (Some(_), None) => cell("never", Style::Bad),
    });
    cells.push(grade(guest, roomy));
    cells.push(mode(guest, roomy));
    let down = guest.backup.as_ref().and_then(|backup| backup.downtime_ms);
    cells.push(down.map_or(nothing(), |ms| cell(seconds(ms), Style::Plain)));
    cells.push(verify(guest));
    cells.push(match guest.on_start {
        OnStart::Hookscript => cell("hookscript", Style::Plain),
        OnStart::Node => cell("node", Style::Plain),
        OnStart::None => nothing(),
    });
    cells
}

fn nothing() -> Cell {
    cell("-", Style::Faint)
}

fn grade(guest: &Guest, roomy: bool) -> Cell {
    let Some(backup) = &guest.backup else { return nothing() };
    match (backup.outcome, backup.grade) {
        (Outcome::Failed, _) => cell("FAILED", Style::Bad),
        (_, Some(Grade::CrashConsistent)) if !roomy => cell("crash", Style::Warning),
        (_, Some(grade @ (Grade::CrashConsistent | Grade::Incomplete))) => {
            cell(grade.to_string(), Style::Warning)
        }
        (_, Some(grade @ (Grade::Clean | Grade::Paused | Grade::Mixed))) => {
            cell(grade.to_string(), Style::Good)
        }
        (_, Some(grade)) => cell(grade.to_string(), Style::Plain),
        (_, None) => nothing(),
    }
}

/// A stopped guest is always backed up in stop mode.
fn mode(guest: &Guest, roomy: bool) -> Cell {
    let Some(backup) = &guest.backup else { return nothing() };
    let (asked, used) = (backup.mode_asked, backup.mode_used);
    match (asked == used, roomy) {
        (true, _) => cell(used.to_string(), Style::Plain),
        (false, true) => cell(format!("{asked} > {used}"), Style::Plain),
        (false, false) => cell(format!("{used}*"), Style::Plain),
    }
}

fn verify(guest: &Guest) -> Cell {
    let Some(verify) = &guest.verify else { return nothing() };
    let style = match verify.state {
        ProofState::Known(VerifyOutcome::Ok) => Style::Good,
        ProofState::Known(VerifyOutcome::Failed) => Style::Bad,
        ProofState::Known(_) => Style::Warning,
        ProofState::Pending | ProofState::NotAsked(_) => Style::Plain,
    };
    match &verify.moment {
        Some(moment) => cell(format!("{} {}", verify.state, age(moment.age_s)), style),
        None => cell(verify.state.to_string(), style),
    }
}

/// In the local time zone.
fn local(moment: &Moment) -> String {
    match moment.time.parse::<DateTime<Local>>() {
        Ok(time) => time.format("%Y-%m-%d %H:%M").to_string(),
        Err(_) => ago(moment.age_s),
    }
}

/// Formats rows; each column is as wide as its widest cell.
fn set(rows: Vec<Vec<Cell>>, paper: Paper) -> Vec<String> {
    let width = |cell: &Cell| cell.text.chars().count();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let mut widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(width).max().unwrap_or_default())
        .collect();
    let whole = widths.iter().sum::<usize>() + GAP.len() * columns.saturating_sub(1);
    if let Some(name) = widths.get_mut(NAME) {
        let cut = name.saturating_sub(whole.saturating_sub(paper.columns)).max(LEAST_NAME);
        *name = (*name).min(cut);
    }
    let line = |row: Vec<Cell>| {
        let mut line = String::new();
        for (cell, width) in row.into_iter().zip(&widths) {
            let text = cut(&cell.text, *width);
            let pad = " ".repeat(width - text.chars().count());
            line.push_str(&cell.style.of(&text, paper.colours));
            line.push_str(&pad);
            line.push_str(GAP);
        }
        line.trim_end().to_string()
    };
    rows.into_iter().map(line).collect()
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// `3 guests, 1 of them has a problem`
pub(super) fn in_short(status: &Status) -> String {
    let bad = status.guests.iter().filter(|guest| guest.level > Level::Ok).count();
    let guests = count(status.guests.len(), "guest");
    match bad {
        0 => guests,
        1 => format!("{guests}, 1 of them has a problem"),
        bad => format!("{guests}, {bad} of them have problems"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_way_before_anything_else_does() {
        let row = |name: &str| {
            vec![cell("9001", Style::Plain), cell(name, Style::Plain), cell("clean", Style::Good)]
        };
        let paper = Paper { columns: 24, colours: false };
        let lines = set(vec![row("a-name-that-is-long"), row("short")], paper);
        assert_eq!(lines, ["9001  a-name-tha…  clean", "9001  short        clean"]);
        let narrow = set(vec![row("a-name-that-is-long")], Paper { columns: 5, colours: false });
        assert_eq!(narrow, ["9001  a-name-…  clean"]);
        assert_eq!(cut("a-long-name", 6), "a-lon…");
    }
}
