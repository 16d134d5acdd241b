use std::fmt;

use serde::{Deserialize, Serialize};

use super::Vmid;

/// The point of a job or of a guest's backup at which vzdump calls (FACTS-PVE.md, Order of phases).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    JobInit,
    JobStart,
    JobEnd,
    JobAbort,
    BackupStart,
    PreStop,
    PreRestart,
    PostRestart,
    BackupEnd,
    BackupAbort,
    LogEnd,
}

impl Phase {
    /// Every phase known, in the order of a backup.
    pub const ALL: [Phase; 11] = [
        Phase::JobInit,
        Phase::JobStart,
        Phase::BackupStart,
        Phase::PreStop,
        Phase::PreRestart,
        Phase::PostRestart,
        Phase::BackupEnd,
        Phase::BackupAbort,
        Phase::LogEnd,
        Phase::JobEnd,
        Phase::JobAbort,
    ];

    /// vzdump's word.
    pub fn word(self) -> &'static str {
        match self {
            Phase::JobInit => "job-init",
            Phase::JobStart => "job-start",
            Phase::JobEnd => "job-end",
            Phase::JobAbort => "job-abort",
            Phase::BackupStart => "backup-start",
            Phase::PreStop => "pre-stop",
            Phase::PreRestart => "pre-restart",
            Phase::PostRestart => "post-restart",
            Phase::BackupEnd => "backup-end",
            Phase::BackupAbort => "backup-abort",
            Phase::LogEnd => "log-end",
        }
    }
}

/// How the guest's data is brought to rest for the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Snapshot,
    Suspend,
    Stop,
}

impl Mode {
    /// The mode of that name, if vzdump has it.
    pub fn from_word(word: &str) -> Option<Mode> {
        match word {
            "snapshot" => Some(Mode::Snapshot),
            "suspend" => Some(Mode::Suspend),
            "stop" => Some(Mode::Stop),
            _ => None,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Snapshot => "snapshot",
            Mode::Suspend => "suspend",
            Mode::Stop => "stop",
        })
    }
}

/// Container or virtual machine, from `VMTYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestType {
    Lxc,
    Qemu,
}

/// The guest of a guest phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub mode: Mode,
    pub vmid: Vmid,
    /// From `VMTYPE`; if it is missing, the guest counts as a VM, which is never quiesced.
    pub guest_type: GuestType,
    /// `HOSTNAME`; missing if the backup failed early.
    pub hostname: Option<String>,
    /// `TARGET`: the archive's path, `-` for standard output, or `ct/9001/2026-11-21T23:22:56Z` on
    /// a Proxmox Backup Server.
    pub target: Option<String>,
}

/// One call of the hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub phase: Phase,
    /// Only in guest phases.
    pub subject: Option<Subject>,
    /// `STOREID`; missing if vzdump was given a directory.
    pub storage: Option<String>,
}

impl Call {
    /// Reads a call from the hook's arguments (without the program's name) and its environment.
    ///
    /// `None` for an unknown phase, or one with unexpected arguments: Proxmox VE has added phases
    /// before, and a hook has nothing to do in them.
    pub fn read(
        arguments: &[String],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Option<Call> {
        let (word, rest) = arguments.split_first()?;
        let phase = Phase::ALL.into_iter().find(|phase| phase.word() == word)?;
        let subject = match (phase, rest) {
            (Phase::JobInit | Phase::JobStart | Phase::JobEnd | Phase::JobAbort, _) => None,
            (_, [mode, vmid, ..]) => Some(Subject {
                mode: Mode::from_word(mode)?,
                vmid: vmid.parse().ok()?,
                guest_type: match environment("VMTYPE").as_deref() {
                    Some("lxc") => GuestType::Lxc,
                    _ => GuestType::Qemu,
                },
                hostname: environment("HOSTNAME"),
                target: environment("TARGET"),
            }),
            _ => return None,
        };
        Some(Call { phase, subject, storage: environment("STOREID") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, environment: &[(&str, &str)]) -> Option<Call> {
        let arguments: Vec<String> = line.split_whitespace().map(String::from).collect();
        Call::read(&arguments, |name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn a_guest_phase_names_mode_and_guest() {
        let environment = [
            ("STOREID", "pbs"),
            ("VMTYPE", "lxc"),
            ("HOSTNAME", "prod-docker"),
            ("TARGET", "ct/9001/2026-11-21T23:22:56Z"),
        ];
        let call = read("pre-stop snapshot 9001", &environment).unwrap();
        assert_eq!(call.phase, Phase::PreStop);
        assert_eq!(call.storage.as_deref(), Some("pbs"));
        let subject = call.subject.unwrap();
        assert_eq!((subject.mode, subject.vmid), (Mode::Snapshot, Vmid(9001)));
        assert_eq!(subject.guest_type, GuestType::Lxc);
    }

    #[test]
    fn what_is_not_understood_is_no_call() {
        for line in ["", "new-phase", "new-phase snapshot 9001", "pre-stop", "pre-stop snapshot"] {
            assert_eq!(read(line, &[]), None, "{line}");
        }
        for line in ["pre-stop hibernate 9001", "pre-stop snapshot ../1", "pre-stop snapshot +900"]
        {
            assert_eq!(read(line, &[]), None, "{line}");
        }
    }

    #[test]
    fn a_guest_of_unknown_type_is_never_taken_for_a_container() {
        let subject = read("pre-stop snapshot 9001", &[]).unwrap().subject.unwrap();
        assert_eq!(subject.guest_type, GuestType::Qemu);
    }
}
