use super::judge::{Limits, worst};
use super::table::in_short;
use super::words::{age, called, problems};
use super::{Guest, Level, Status, What};
use crate::report::lines::down_for;

/// Beyond this number guests are counted, not named.
const MOST_NAMED: usize = 3;

impl Level {
    /// The exit status of a Nagios plugin, and the state of a Checkmk service.
    pub fn code(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Critical => 2,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
        }
    }
}

/// The line of a Nagios plugin, and its exit status.
pub fn check(status: &Status, limits: &Limits) -> (String, u8) {
    let of_level = |level| status.guests.iter().filter(move |guest| guest.level == level).count();
    let oldest = status.guests.iter().filter_map(|guest| guest.last_success.as_ref());
    let oldest = oldest.map(|made| made.age_s).max();
    let max_age = limits.max_age.as_secs();
    let mut text = in_short(status);
    match (status.level, oldest) {
        (Level::Ok, Some(oldest)) => {
            text.push_str(&format!(", the oldest last backup is {} old", age(oldest)));
        }
        (Level::Ok, None) => text.push_str(", no backup yet"),
        _ => text.push_str(&format!(": {}", named(status))),
    }
    let never = status.guests.iter().filter(|guest| guest.backup.is_none()).count();
    if never > 0 && oldest.is_some() {
        text.push_str(&format!("; {never} never backed up"));
    }
    let going_on = |what| status.now.iter().filter(|now| now.what == what).count();
    let mut data = vec![
        format!("guests={}", status.guests.len()),
        format!("warning={}", of_level(Level::Warning)),
        format!("critical={}", of_level(Level::Critical)),
        format!("never={never}"),
        format!("left_over={}", going_on(What::LeftOver)),
        format!("pending_verifies={}", going_on(What::Verify)),
    ];
    if let Some(oldest) = oldest {
        data.push(format!("oldest={oldest}s;{max_age};{};0", max_age.saturating_mul(2)));
    }
    let line = format!("{} - {} | {}", status.level.word(), one_line(&text), data.join(" "));
    (line, status.level.code())
}

/// The worst problems of the worst guests and of the node.
fn named(status: &Status) -> String {
    let mut bad: Vec<(Level, String)> = Vec::new();
    for guest in status.guests.iter().filter(|guest| guest.level > Level::Ok) {
        bad.push((guest.level, format!("{}: {}", called(guest), problems(guest, guest.level))));
    }
    for problem in &status.problems {
        bad.push((problem.level, problem.message.clone()));
    }
    bad.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let more = bad.len().saturating_sub(MOST_NAMED);
    let mut named: Vec<String> =
        bad.into_iter().take(MOST_NAMED).map(|(_, sentence)| sentence).collect();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    named.join("; ")
}

/// The lines of a Checkmk local check: one service for the node, one for each guest.
pub fn checkmk(status: &Status, limits: &Limits) -> Vec<String> {
    let level = worst(&status.problems);
    let text = match status.problems.as_slice() {
        [] => in_short(status),
        problems => {
            let messages: Vec<&str> =
                problems.iter().map(|problem| problem.message.as_str()).collect();
            messages.join("; ")
        }
    };
    let guests = status.guests.len();
    let mut lines =
        vec![format!("{} Stillpoint guests={guests} {}", level.code(), one_line(&text))];
    for guest in &status.guests {
        let service = format!("Stillpoint_guest_{}", guest.vmid);
        let text = format!("{}: {}", called(guest), how(guest));
        let level = guest.level.code();
        lines.push(format!("{level} {service} {} {}", data(guest, limits), one_line(&text)));
    }
    lines
}

fn data(guest: &Guest, limits: &Limits) -> String {
    let mut data = Vec::new();
    if let Some(made) = &guest.last_success {
        let max_age = limits.max_age.as_secs();
        data.push(format!("age={};{max_age};{}", made.age_s, max_age.saturating_mul(2)));
    }
    if let Some(ms) = guest.backup.as_ref().and_then(|backup| backup.downtime_ms) {
        data.push(format!("downtime={}", ms as f64 / 1000.0));
    }
    if data.is_empty() { "-".to_string() } else { data.join("|") }
}

fn how(guest: &Guest) -> String {
    if guest.level > Level::Ok {
        return problems(guest, Level::Warning);
    }
    let Some(backup) = &guest.backup else { return "never backed up".to_string() };
    let mut parts = vec![format!("backed up {} ago", age(backup.moment.age_s))];
    parts.extend(backup.grade.map(|grade| format!("grade {grade}")));
    parts.extend(backup.downtime_ms.map(|ms| down_for(backup.mode_used, ms)));
    parts.extend(guest.verify.as_ref().map(|verify| format!("verify {}", verify.state)));
    parts.join(", ")
}

/// A `|` would begin the performance data of a plugin's line.
fn one_line(text: &str) -> String {
    text.replace('|', "/")
}
