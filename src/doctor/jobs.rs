//! The backup jobs of the cluster: `/etc/pve/jobs.cfg`, read as Proxmox VE reads it.
//!
//! A section begins with `vzdump: ID` and ends with the first line that is empty; what stands below that and is no
//! section's beginning is passed over, so a blank line within a job makes it lose what follows.

use super::check::Check;
use super::messages::{JOB_CUT, JOB_LINE, JOB_SCRIPT, JOBS, NO_JOBS_CFG};
use super::storage_prune::prunes;
use super::vzdump::HOOK;
use crate::sys::text::count;
use crate::sys::{Root, file};

const LIMIT: u64 = 1 << 20;

/// A section of the file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Section {
    kind: String,
    id: String,
    values: Vec<(String, String)>,
    /// The number of the blank line that ended it, and the keys below it that nobody reads.
    cut: Option<(usize, Vec<String>)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Jobs {
    sections: Vec<Section>,
    /// Other lines that are passed over, with their numbers.
    ignored: Vec<(usize, String)>,
}

pub fn jobs(root: &Root) -> Vec<Check> {
    match file::read_text(&root.path("/etc/pve/jobs.cfg"), LIMIT) {
        Err(error) => vec![NO_JOBS_CFG.check("jobs", &[("reason", &error)])],
        Ok(text) => judge(&parse(&text.unwrap_or_default())),
    }
}

/// The ids of the jobs that write to a storage and have Proxmox VE prune it after each backup.
pub fn pruning(root: &Root, storage: &str) -> Vec<String> {
    let text = file::read_text(&root.path("/etc/pve/jobs.cfg"), LIMIT).ok().flatten();
    let sections = parse(&text.unwrap_or_default()).sections;
    let prune = |job: &Section| {
        job.kind == "vzdump"
            && job.value("storage") == Some(storage)
            && job.value("enabled") != Some("0")
            && job.value("remove") != Some("0")
            && job.value("prune-backups").is_some_and(prunes)
    };
    sections.into_iter().filter(prune).map(|job| job.id).collect()
}

impl Section {
    fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

fn judge(jobs: &Jobs) -> Vec<Check> {
    let mut checks = Vec::new();
    let backups = jobs.sections.iter().filter(|section| section.kind == "vzdump");
    for job in backups.clone() {
        if let Some((line, keys)) = &job.cut {
            let keys = keys.join(", ");
            let about = format!("job.{}.lines", job.id);
            checks.push(JOB_CUT.check(about, &[("line", line), ("keys", &keys)]));
        }
        let off = job.value("enabled") == Some("0");
        if let Some(script) = job.value("script").filter(|script| *script != HOOK && !off) {
            let about = format!("job.{}.script", job.id);
            checks.push(JOB_SCRIPT.check(about, &[("script", &script), ("job", &job.id)]));
        }
    }
    for (line, text) in &jobs.ignored {
        checks.push(JOB_LINE.check("jobs", &[("line", line), ("text", text)]));
    }
    if checks.is_empty() {
        checks.push(JOBS.check("jobs", &[("count", &count(backups.count(), "backup job"))]));
    }
    checks
}

fn parse(text: &str) -> Jobs {
    let mut jobs = Jobs::default();
    // Where the last section ended, while nothing but blank lines has come since.
    let (mut inside, mut blank) = (false, None);
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.trim_start().starts_with('#') {
            continue;
        }
        if line.is_empty() {
            if inside {
                (inside, blank) = (false, Some(number));
            }
            continue;
        }
        let indented = line.starts_with(char::is_whitespace);
        if let Some((kind, id)) = header(line).filter(|_| !inside) {
            jobs.sections.push(Section { kind, id, ..Section::default() });
            (inside, blank) = (true, None);
            continue;
        }
        let (key, value) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        let pair = (key.to_string(), value.trim().to_string());
        match (jobs.sections.last_mut(), blank) {
            (Some(section), _) if inside && indented && !key.is_empty() => {
                section.values.push(pair);
            }
            (Some(section), Some(blank)) if indented && !key.is_empty() => {
                section.cut.get_or_insert((blank, Vec::new())).1.push(pair.0);
            }
            // A line of spaces says nothing that could be lost.
            _ if key.is_empty() => {}
            _ => jobs.ignored.push((number, line.trim().to_string())),
        }
    }
    jobs
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
    use crate::doctor::Level;

    const SOUND: &str = "# made by hand\nvzdump: nightly\n\tall 1\n\t# of all\n\tschedule 02:00\n\
        \tstorage offsite\n\nrealmsync: ad\n\tscript /x\n\n\nvzdump: weekly\n\tvmid 9001\n";

    fn abouts(text: &str) -> Vec<(Level, String)> {
        let checks = judge(&parse(text));
        checks.into_iter().map(|check| (check.level, check.about)).collect()
    }

    #[test]
    fn a_sound_file_has_nothing_to_say() {
        assert_eq!(parse(SOUND).sections.len(), 3);
        let checks = judge(&parse(SOUND));
        assert_eq!(checks.len(), 1);
        assert!(checks[0].message.contains("2 backup jobs"), "{}", checks[0].message);
        assert_eq!(abouts("").len(), 1);
    }

    #[test]
    fn a_blank_line_in_a_job_loses_what_is_below() {
        let text = "vzdump: nightly\n\tall 1\n\n\tscript /usr/local/bin/x\n\n\tnode a\nvzdump: b\n";
        let jobs = parse(text);
        assert_eq!(jobs.sections[0].cut, Some((3, vec!["script".into(), "node".into()])));
        assert_eq!(abouts(text), [(Level::Fail, "job.nightly.lines".into())]);
        // Not what Proxmox VE takes for the end: it has spaces in it.
        let spaces = "vzdump: nightly\n\tall 1\n  \n\tscript /usr/local/bin/x\n";
        assert_eq!(abouts(spaces), [(Level::Warn, "job.nightly.script".into())]);
    }

    #[test]
    fn a_script_of_its_own_counts_where_the_job_is_on() {
        let job = |more: &str| format!("vzdump: a\n\tscript /x\n{more}\n");
        assert_eq!(abouts(&job("")), [(Level::Warn, "job.a.script".into())]);
        assert_eq!(abouts(&job("\tenabled 0"))[0].0, Level::Ok);
        assert_eq!(abouts(&format!("vzdump: a\n\tscript {HOOK}\n"))[0].0, Level::Ok);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(
            parse("vzdump: a\n\tall 1\nscript /x\n").ignored,
            [(3, "script /x".to_string())]
        );
        assert_eq!(parse("\tall 1\n").ignored, [(1, "all 1".to_string())]);
    }
}
