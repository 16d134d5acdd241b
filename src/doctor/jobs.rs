//! The backup jobs of the cluster: a blank line within a job makes it lose what follows, and a job
//! may call a script of its own.

use super::check::Check;
use super::messages::{JOB_CUT, JOB_LINE, JOB_SCRIPT, JOBS, NO_JOBS_CFG};
use crate::pve::is_vzdump_hook;
use crate::pve::jobs::{self, Jobs};
use crate::sys::Root;
use crate::sys::text::count;

pub fn jobs(root: &Root) -> Vec<Check> {
    match jobs::read(root) {
        Err(error) => vec![NO_JOBS_CFG.check("jobs", &[("reason", &error)])],
        Ok(jobs) => judge(&jobs, |script| is_vzdump_hook(root, script)),
    }
}

fn judge(jobs: &Jobs, is_ours: impl Fn(&str) -> bool) -> Vec<Check> {
    let mut checks = Vec::new();
    for job in &jobs.jobs {
        if let Some((line, keys)) = &job.cut {
            let keys = keys.join(", ");
            let about = format!("job.{}.lines", job.id);
            checks.push(JOB_CUT.check(about, &[("line", line), ("keys", &keys)]));
        }
        let script = job.script.as_ref().filter(|script| job.enabled && !is_ours(script));
        if let Some(script) = script {
            let about = format!("job.{}.script", job.id);
            checks.push(JOB_SCRIPT.check(about, &[("script", script), ("job", &job.id)]));
        }
    }
    for (line, text) in &jobs.ignored {
        checks.push(JOB_LINE.check("jobs", &[("line", line), ("text", text)]));
    }
    if checks.is_empty() {
        checks.push(JOBS.check("jobs", &[("count", &count(jobs.jobs.len(), "backup job"))]));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::pve::VZDUMP_HOOK;

    const SOUND: &str = "# made by hand\nvzdump: nightly\n\tall 1\n\t# of all\n\tschedule 02:00\n\
        \tstorage offsite\n\nrealmsync: ad\n\tscript /x\n\n\nvzdump: weekly\n\tvmid 9001\n";

    fn judged(text: &str) -> Vec<Check> {
        judge(&jobs::parse(text), |script| script == VZDUMP_HOOK)
    }

    fn abouts(text: &str) -> Vec<(Level, String)> {
        let checks = judged(text);
        checks.into_iter().map(|check| (check.level, check.about)).collect()
    }

    #[test]
    fn a_sound_file_has_nothing_to_say() {
        let checks = judged(SOUND);
        assert_eq!(checks.len(), 1);
        assert!(checks[0].message.contains("2 backup jobs"), "{}", checks[0].message);
        assert_eq!(abouts("").len(), 1);
    }

    #[test]
    fn a_blank_line_in_a_job_loses_what_is_below() {
        let text = "vzdump: nightly\n\tall 1\n\n\tscript /usr/local/bin/x\n\n\tnode a\nvzdump: b\n";
        assert_eq!(abouts(text), [(Level::Fail, "job.nightly.lines".into())]);
        // To Proxmox VE this line is not empty: it has spaces in it.
        let spaces = "vzdump: nightly\n\tall 1\n  \n\tscript /usr/local/bin/x\n";
        assert_eq!(abouts(spaces), [(Level::Warn, "job.nightly.script".into())]);
    }

    #[test]
    fn a_script_of_its_own_counts_where_the_job_is_on() {
        let job = |more: &str| format!("vzdump: a\n\tscript /x\n{more}\n");
        assert_eq!(abouts(&job("")), [(Level::Warn, "job.a.script".into())]);
        assert_eq!(abouts(&job("\tenabled 0"))[0].0, Level::Ok);
        assert_eq!(abouts(&format!("vzdump: a\n\tscript {VZDUMP_HOOK}\n"))[0].0, Level::Ok);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let text = "vzdump: a\n\tall 1\nscript /x\n";
        assert_eq!(abouts(text), [(Level::Warn, "jobs".into())]);
    }
}
