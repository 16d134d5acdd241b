//! The table at the end of the output.

use std::collections::BTreeMap;

use super::harness::Outcome;

#[derive(Default)]
struct Row {
    runs: usize,
    kept: usize,
    back: Vec<u64>,
    own: Vec<u64>,
}

/// Prints for each kind of fault how many runs had every stack back, and how long that took.
pub fn print(outcomes: &[Outcome]) {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut all = Row::default();
    for outcome in outcomes {
        for row in [rows.entry(&outcome.fault).or_default(), &mut all] {
            let Some(ended) = &outcome.ended else {
                row.runs += 1;
                continue;
            };
            if ended.skipped.is_some() {
                continue;
            }
            row.runs += 1;
            row.kept += 1;
            row.back.extend(ended.back_ms);
            row.own.extend(ended.own_ms);
        }
    }
    println!(
        "\n{:<44} {:>5} {:>11} {:>12} {:>9} {:>14}",
        "fault", "runs", "stacks back", "median", "worst", "engine's own"
    );
    for (name, row) in rows.iter_mut().map(|(name, row)| (*name, row)).chain([("all", &mut all)]) {
        row.back.sort_unstable();
        row.own.sort_unstable();
        println!(
            "{name:<44} {:>5} {:>11} {:>12} {:>9} {:>14}",
            row.runs,
            format!("{} %", row.kept * 100 / row.runs.max(1)),
            seconds(row.back.get(row.back.len() / 2)),
            seconds(row.back.last()),
            seconds(row.own.get(row.own.len() / 2)),
        );
    }
    println!(
        "\nmedian, worst: from the fault to the last container's start, where one had to be started;\n\
         engine's own: what the engine itself needs for that.\n"
    );
}

fn seconds(ms: Option<&u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.2} s", *ms as f64 / 1000.0))
}
