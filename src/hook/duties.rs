use crate::vzdump::{Call, GuestType, Mode, Phase};

/// A duty in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Start what earlier jobs left stopped, if their workers are dead.
    BringBackLeftovers,
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
    /// End the remaining runs of this job.
    EndRuns,
    /// Collect the verifies of this job.
    CollectVerifies,
    /// Leave the verifies of this job to be collected later.
    LeaveVerifies,
    /// Print a line for each guest; Proxmox VE mails them.
    Summarize,
}

/// What is due in a call: the table in DESIGN.md, Phases.
///
/// job-init has no duty, because another job may be in the middle of a guest. pre-restart has none,
/// because a failure there leaves a guest frozen or down (FACTS-PVE.md, Exit status). A VM is never
/// quiesced.
pub fn duties(call: &Call) -> &'static [Duty] {
    use Duty::*;
    let subject = call.subject.as_ref();
    let lxc = subject.is_some_and(|subject| subject.guest_type == GuestType::Lxc);
    let stop = subject.is_some_and(|subject| subject.mode == Mode::Stop);
    match (call.phase, lxc, stop) {
        (Phase::JobInit | Phase::PreRestart, ..) => &[],
        (Phase::JobStart, ..) => &[BringBackLeftovers],
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
        (Phase::JobEnd, ..) => &[EndRuns, CollectVerifies, Summarize],
        (Phase::JobAbort, ..) => &[EndRuns, LeaveVerifies],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vzdump::{Subject, Vmid};

    fn call(phase: Phase, mode: Mode, guest_type: GuestType) -> Call {
        let subject = Subject { mode, vmid: Vmid(9001), guest_type, hostname: None, target: None };
        Call { phase, subject: Some(subject), storage: None }
    }

    #[test]
    fn nothing_is_stopped_but_in_pre_stop_of_a_container_in_snapshot_and_suspend_mode() {
        for phase in Phase::ALL {
            for mode in [Mode::Snapshot, Mode::Suspend, Mode::Stop] {
                for guest_type in [GuestType::Lxc, GuestType::Qemu] {
                    let due = duties(&call(phase, mode, guest_type)).contains(&Duty::Quiesce);
                    let meant = phase == Phase::PreStop
                        && mode != Mode::Stop
                        && guest_type == GuestType::Lxc;
                    assert_eq!(due, meant, "{phase:?} {mode} {guest_type:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_due_where_a_failure_would_harm_or_another_job_may_be_at_work() {
        for mode in [Mode::Snapshot, Mode::Suspend, Mode::Stop] {
            assert!(duties(&call(Phase::PreRestart, mode, GuestType::Lxc)).is_empty());
        }
        let call = Call { phase: Phase::JobInit, subject: None, storage: None };
        assert!(duties(&call).is_empty());
    }
}
