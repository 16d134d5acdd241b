use crate::vzdump::{Call, GuestType, Mode, Phase, Subject};

/// A duty in a phase of the whole job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobDuty {
    /// Say what is wrong with the settings' file.
    TellOfSettings,
    /// Start what earlier jobs left stopped, if their workers are dead.
    BringBackLeftovers,
    /// Write what this node has of Stillpoint for the other nodes of the cluster.
    LeaveNodeNote,
    /// End the remaining runs of this job.
    EndRuns,
    /// Try once more what earlier backups could not bring back, and tell of it.
    TryLeftAgain,
    /// Collect the verifies of this job.
    CollectVerifies,
    /// Leave the verifies of this job to be collected later.
    LeaveVerifies,
    /// Print a line for each guest; Proxmox VE mails them.
    Summarize,
    /// Write the metrics and send the ping.
    TellWatchers,
}

/// A duty in a phase of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestDuty {
    /// Begin the run of this guest.
    OpenRun,
    /// Bring the containers to rest.
    Quiesce,
    /// Record what is running, on the node and in the guest.
    NoteRunning,
    /// Remember that a VM runs: for a VM, this phase comes only if it runs.
    SeeRunning,
    /// From here on, starting containers no longer disturbs the backup; before that, check whether
    /// anything was started.
    DataCopied,
    /// Start everything again.
    Resume,
    /// The archive is complete.
    NoteComplete,
    /// Have the server verify the snapshot.
    StartVerify,
    /// The backup failed.
    NoteFailure,
    /// Journal the run and end it.
    JournalRun,
}

/// What is due in a call, in this order.
#[derive(Clone, Copy, Debug)]
pub enum Due<'a> {
    Job(&'static [JobDuty]),
    Guest(&'a Subject, &'static [GuestDuty]),
}

impl Due<'_> {
    /// Whether nothing is due.
    pub fn is_empty(&self) -> bool {
        match self {
            Due::Job(due) => due.is_empty(),
            Due::Guest(_, due) => due.is_empty(),
        }
    }
}

/// What is due in a call: the table in DESIGN.md, Phases.
///
/// job-init has no duty, because another job may be in the middle of a guest. pre-restart has none,
/// because a failure there leaves a guest frozen or down (FACTS-PVE.md, Exit status). A VM is never
/// quiesced.
pub fn duties(call: &Call) -> Due<'_> {
    match &call.subject {
        None => Due::Job(of_job(call.phase)),
        Some(subject) => Due::Guest(subject, of_guest(call.phase, subject)),
    }
}

fn of_job(phase: Phase) -> &'static [JobDuty] {
    use JobDuty::*;
    match phase {
        Phase::JobInit => &[],
        Phase::JobStart => &[TellOfSettings, BringBackLeftovers, LeaveNodeNote],
        Phase::JobEnd => &[EndRuns, TryLeftAgain, CollectVerifies, Summarize, TellWatchers],
        Phase::JobAbort => &[EndRuns, TryLeftAgain, LeaveVerifies, TellWatchers],
        Phase::BackupStart
        | Phase::PreStop
        | Phase::PreRestart
        | Phase::PostRestart
        | Phase::BackupEnd
        | Phase::BackupAbort
        | Phase::LogEnd => &[],
    }
}

fn of_guest(phase: Phase, subject: &Subject) -> &'static [GuestDuty] {
    use GuestDuty::*;
    let lxc = subject.guest_type == GuestType::Lxc;
    let stop = subject.mode == Mode::Stop;
    match (phase, lxc, stop) {
        (Phase::PreRestart, ..) => &[],
        (Phase::BackupStart, ..) => &[OpenRun],
        (Phase::PreStop, true, false) => &[Quiesce],
        (Phase::PreStop, true, true) => &[NoteRunning],
        (Phase::PreStop, false, _) => &[SeeRunning],
        (Phase::PostRestart, true, _) => &[DataCopied, Resume],
        (Phase::PostRestart, false, _) => &[],
        // In stop mode the guest is down now; vzdump starts it after this phase.
        (Phase::BackupEnd, _, true) => &[DataCopied, NoteComplete, StartVerify],
        (Phase::BackupEnd, _, false) => &[DataCopied, Resume, NoteComplete, StartVerify],
        (Phase::BackupAbort, ..) => &[NoteFailure, Resume],
        (Phase::LogEnd, ..) => &[Resume, JournalRun],
        (Phase::JobInit | Phase::JobStart | Phase::JobEnd | Phase::JobAbort, ..) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vzdump::Vmid;

    fn subject(mode: Mode, guest_type: GuestType) -> Subject {
        Subject { mode, vmid: Vmid(9001), guest_type, hostname: None, target: None }
    }

    #[test]
    fn nothing_is_stopped_but_in_pre_stop_of_a_container_in_snapshot_and_suspend_mode() {
        for phase in Phase::ALL {
            for mode in [Mode::Snapshot, Mode::Suspend, Mode::Stop] {
                for guest_type in [GuestType::Lxc, GuestType::Qemu] {
                    let due = of_guest(phase, &subject(mode, guest_type));
                    let meant = phase == Phase::PreStop
                        && mode != Mode::Stop
                        && guest_type == GuestType::Lxc;
                    let stops = due.contains(&GuestDuty::Quiesce);
                    assert_eq!(stops, meant, "{phase:?} {mode} {guest_type:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_due_where_a_failure_would_harm_or_another_job_may_be_at_work() {
        for mode in [Mode::Snapshot, Mode::Suspend, Mode::Stop] {
            assert!(of_guest(Phase::PreRestart, &subject(mode, GuestType::Lxc)).is_empty());
        }
        let call = Call { phase: Phase::JobInit, subject: None, storage: None };
        assert!(duties(&call).is_empty());
    }

    #[test]
    fn watchers_are_told_last_and_after_the_runs_are_ended() {
        for phase in [Phase::JobEnd, Phase::JobAbort] {
            let due = of_job(phase);
            assert_eq!(due.first(), Some(&JobDuty::EndRuns));
            assert_eq!(due.last(), Some(&JobDuty::TellWatchers));
        }
    }
}
