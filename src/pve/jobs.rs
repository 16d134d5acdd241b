//! The backup jobs of the cluster: `/etc/pve/jobs.cfg`. After a blank line within a job, its later
//! keys are lost.

use std::io;

use super::options::prunes;
use super::sections::{Section, Sections};
use crate::sys::{Root, file};

const PATH: &str = "/etc/pve/jobs.cfg";
const LIMIT: u64 = 1 << 20;

/// All jobs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    pub jobs: Vec<BackupJob>,
    /// Ignored lines of the file, with their numbers.
    pub ignored: Vec<(usize, String)>,
}

/// A backup job.
#[derive(Debug, PartialEq, Eq)]
pub struct BackupJob {
    pub id: String,
    pub enabled: bool,
    /// Its own script, which replaces the one in `/etc/vzdump.conf`.
    pub script: Option<String>,
    pub storage: Option<String>,
    /// Proxmox VE prunes the storage after each of its backups.
    pub prunes: bool,
    /// The number of the blank line that ended it, and the ignored keys below that.
    pub cut: Option<(usize, Vec<String>)>,
}

/// Reads the jobs; none if the file is missing.
pub fn read(root: &Root) -> io::Result<Jobs> {
    Ok(parse(&file::read_text(&root.path(PATH), LIMIT)?.unwrap_or_default()))
}

/// Parses the text of the file.
pub fn parse(text: &str) -> Jobs {
    let Sections { sections, ignored } = Sections::parse(text);
    let backups = sections.into_iter().filter(|section| section.kind == "vzdump");
    Jobs { jobs: backups.map(job).collect(), ignored }
}

fn job(section: Section) -> BackupJob {
    let text = |key: &str| section.text(key).map(str::to_owned);
    BackupJob {
        enabled: section.flag("enabled") != Some(false),
        script: text("script"),
        storage: text("storage"),
        prunes: section.flag("remove") != Some(false)
            && section.value("prune-backups").is_some_and(prunes),
        id: section.id,
        cut: section.cut,
    }
}
