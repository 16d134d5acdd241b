//! The version of a run's file before its states were types.
//!
//! A run that was opened with it keeps it until it is closed: its guard may have started before an
//! upgrade, and reads the file until then.
//!
//! In the other direction, an older program considers a newer file damaged. It keeps a copy in
//! `/var/lib/stillpoint/damaged` and starts what the note in the guest names; a guest that is down
//! must be started for that (`pct start VMID`).

use serde::{Deserialize, Serialize};

use super::state::{
    DataCopy, Failures, GuestBefore, HealthBefore, Journalled, Killed, PreStop, Proof, Rest,
    Resuming, Room, Shutdown, Start, Stop, Stopped,
};
use super::{Archive, By, Fate};
use crate::config::Strategy;
use crate::journal::{GuestAction, VerifyStart};
use crate::vzdump::{GuestType, Job, Mode, Vmid};

pub const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
pub struct Run {
    schema: u32,
    id: String,
    vmid: Vmid,
    guest_type: GuestType,
    job: Job,
    hostname: Option<String>,
    storage: Option<String>,
    target: Option<String>,
    mode_asked: Mode,
    mode_used: Mode,
    opened: String,
    root_volume: Option<String>,
    was_running: bool,
    #[serde(default)]
    noted: Option<Vmid>,
    #[serde(default)]
    incomplete: Option<String>,
    quiesce: Option<Quiesce>,
    unrest: Vec<String>,
    notes: Vec<String>,
    #[serde(default)]
    reads: Vec<String>,
    archive: Archive,
    data_copied: bool,
    looked_at: bool,
    guest_returned: bool,
    proof_due: bool,
    seen_down: bool,
    handed_over: bool,
    #[serde(default)]
    shutdown_ms: Option<u64>,
    #[serde(default)]
    restarted_ms: Option<u64>,
    revived: Vec<GuestAction>,
    verify: Option<VerifyStart>,
    journalling: bool,
    journalled: bool,
}

#[derive(Serialize, Deserialize)]
struct Quiesce {
    by: By,
    began_ms: Option<u64>,
    requests_ended_ms: Option<u64>,
    rested_ms: Option<u64>,
    resumed_ms: Option<u64>,
    #[serde(default)]
    paused_before: bool,
    over: bool,
    steps: Vec<Step>,
}

#[derive(Serialize, Deserialize)]
struct Step {
    id: String,
    #[serde(default)]
    engine: String,
    name: String,
    project: Option<String>,
    service: Option<String>,
    action: Strategy,
    stop_timeout: u64,
    before: Option<String>,
    #[serde(default)]
    prepared: bool,
    started_at: String,
    after: Vec<usize>,
    not_in_backup: Vec<String>,
    requested: bool,
    stop_ms: Option<u64>,
    #[serde(default)]
    killed: Option<Killed>,
    start_ms: Option<u64>,
    failures: u32,
    failing_since_ms: Option<u64>,
    #[serde(default)]
    trouble: Option<String>,
    #[serde(default)]
    way_back: Option<String>,
    #[serde(default)]
    unhealthy: bool,
    #[serde(default)]
    room_made: bool,
    #[serde(default)]
    waiting_since_ms: Option<u64>,
    #[serde(default)]
    looked_at_until_ms: Option<u64>,
    fate: Fate,
}

impl From<Run> for super::Run {
    fn from(old: Run) -> super::Run {
        let (data_copy, proof, shutdown) = (old.data_copy(), old.proof(), old.shutdown());
        super::Run {
            schema: old.schema,
            id: old.id,
            vmid: old.vmid,
            guest_type: old.guest_type,
            job: old.job,
            hostname: old.hostname,
            storage: old.storage,
            target: old.target,
            mode_asked: old.mode_asked,
            mode_used: old.mode_used,
            opened: old.opened,
            root_volume: old.root_volume,
            guest_before: match old.was_running {
                true => GuestBefore::Running,
                false => GuestBefore::Down,
            },
            noted: old.noted,
            incomplete: old.incomplete,
            quiesce: old.quiesce.map(|quiesce| quiesce.in_states(old.shutdown_ms)),
            unrest: old.unrest,
            notes: old.notes,
            reads: old.reads,
            archive: old.archive,
            pre_stop: match old.looked_at {
                true => PreStop::Looked,
                false => PreStop::NotCome,
            },
            data_copy,
            proof,
            shutdown,
            revived: old.revived,
            verify: old.verify,
            journalled: match (old.journalled, old.journalling) {
                (true, _) => Journalled::Yes,
                (false, true) => Journalled::Writing,
                (false, false) => Journalled::No,
            },
        }
    }
}

impl Run {
    fn data_copy(&self) -> DataCopy {
        match (self.guest_returned, self.data_copied) {
            (true, _) => DataCopy::GuestReturned,
            (false, true) => DataCopy::Done,
            (false, false) => DataCopy::Pending,
        }
    }

    /// The file does not say whether it was due once.
    fn proof(&self) -> Proof {
        let is_ours = |quiesce: &Quiesce| quiesce.by == By::Stillpoint;
        match (self.proof_due, self.data_copied && self.quiesce.as_ref().is_some_and(is_ours)) {
            (true, _) => Proof::Due,
            (false, true) => Proof::Done,
            (false, false) => Proof::NotDue,
        }
    }

    fn shutdown(&self) -> Shutdown {
        let asked_ms = self.shutdown_ms;
        match (self.seen_down, self.restarted_ms, asked_ms) {
            (true, Some(at_ms), _) => Shutdown::Returned { asked_ms, at_ms },
            (true, None, _) => Shutdown::SeenDown { asked_ms },
            (false, _, Some(at_ms)) if !self.handed_over => Shutdown::Withheld { at_ms },
            (false, _, at_ms) if self.handed_over => {
                Shutdown::HandedOver { at_ms: at_ms.unwrap_or_default() }
            }
            (false, ..) => Shutdown::NotAsked,
        }
    }
}

impl Quiesce {
    /// `shutdown_ms`: when vzdump went on to shut the guest down, in stop mode.
    fn in_states(self, shutdown_ms: Option<u64>) -> super::Quiesce {
        let old = self;
        // The requesting process has said so, and nobody has started anything again.
        let is_said = match old.by {
            By::GuestShutdown => old.requests_ended_ms == shutdown_ms,
            By::Stillpoint | By::Note => old.over,
        };
        let rest = match (old.by, old.over, old.began_ms, old.rested_ms) {
            (By::Stillpoint, true, began_ms, _) => {
                Rest::GivenUp { began_ms, at_ms: old.requests_ended_ms.unwrap_or_default() }
            }
            (_, _, Some(began_ms), Some(rested_ms)) => Rest::AtRest { began_ms, rested_ms },
            (_, _, Some(began_ms), None) => Rest::Stopping { began_ms },
            (_, _, None, _) => Rest::Planned,
        };
        let resuming = match (old.resumed_ms, old.requests_ended_ms) {
            (Some(last_ms), ended) => {
                Resuming::Started { requests_ended_ms: ended.unwrap_or(last_ms), last_ms }
            }
            (None, Some(requests_ended_ms)) if !is_said => Resuming::Begun { requests_ended_ms },
            (None, _) => Resuming::NotBegun,
        };
        super::Quiesce {
            by: old.by,
            rest,
            resuming,
            paused_before: usize::from(old.paused_before),
            steps: old.steps.into_iter().map(super::Step::from).collect(),
        }
    }
}

impl From<Step> for super::Step {
    fn from(old: Step) -> super::Step {
        let (stop, start, failures) = (old.stop(), old.start(), old.failures());
        super::Step {
            id: old.id,
            engine: old.engine,
            name: old.name,
            project: old.project,
            service: old.service,
            action: old.action,
            stop_timeout: old.stop_timeout,
            before: old.before,
            started_at: old.started_at,
            runtime: String::new(),
            after: old.after,
            not_in_backup: old.not_in_backup,
            health_before: match old.unhealthy {
                true => HealthBefore::Ill,
                false => HealthBefore::NotIll,
            },
            stop,
            start,
            failures,
            trouble: old.trouble,
            way_back: old.way_back,
            room: match old.room_made {
                true => Room::Made,
                false => Room::NotMade,
            },
            fate: old.fate,
        }
    }
}

impl Step {
    fn stop(&self) -> Stop {
        let killed = self.killed;
        match (self.stop_ms, self.requested, self.prepared) {
            (Some(ms), ..) => Stop::Stopped(Stopped { ms, killed }),
            // Killed for the backup, and asked to stop once more; the file does not say how long
            // that took.
            (None, true, _) if killed.is_some() => {
                let ms = self.stop_timeout.saturating_mul(1000);
                Stop::Yielding(Some(Stopped { ms, killed }))
            }
            (None, true, _) => Stop::Requested,
            (None, false, true) => Stop::Unprepared,
            (None, false, false) => Stop::Planned,
        }
    }

    fn start(&self) -> Start {
        match (self.start_ms, self.looked_at_until_ms, self.waiting_since_ms) {
            (Some(ms), Some(until_ms), _) => Start::Watched { ms, until_ms },
            (Some(ms), None, _) => Start::Started { ms },
            (None, _, Some(since_ms)) => Start::Waiting { since_ms },
            (None, _, None) => Start::NotStarted,
        }
    }

    fn failures(&self) -> Failures {
        match (self.failures, self.failing_since_ms) {
            (0, _) => Failures::None,
            (count, first_ms) => Failures::Since { first_ms: first_ms.unwrap_or(u64::MAX), count },
        }
    }
}

impl From<super::Run> for Run {
    fn from(run: super::Run) -> Run {
        let requests_ended_ms = run.requests_ended_ms();
        let shutdown = run.shutdown;
        Run {
            schema: SCHEMA,
            was_running: run.was_running(),
            data_copied: run.data_copy.is_done(),
            looked_at: run.pre_stop == PreStop::Looked,
            guest_returned: run.data_copy == DataCopy::GuestReturned,
            proof_due: run.proof == Proof::Due,
            seen_down: shutdown.was_down(),
            handed_over: matches!(
                shutdown,
                Shutdown::HandedOver { .. }
                    | Shutdown::SeenDown { asked_ms: Some(_) }
                    | Shutdown::Returned { asked_ms: Some(_), .. }
            ),
            shutdown_ms: shutdown.asked_ms(),
            restarted_ms: match shutdown {
                Shutdown::Returned { at_ms, .. } => Some(at_ms),
                _ => None,
            },
            quiesce: run.quiesce.map(|quiesce| Quiesce {
                requests_ended_ms,
                over: match quiesce.by {
                    By::GuestShutdown => {
                        shutdown.was_down() || matches!(shutdown, Shutdown::Withheld { .. })
                    }
                    By::Stillpoint | By::Note => quiesce.rest.is_given_up(),
                },
                ..Quiesce::from(quiesce)
            }),
            id: run.id,
            vmid: run.vmid,
            guest_type: run.guest_type,
            job: run.job,
            hostname: run.hostname,
            storage: run.storage,
            target: run.target,
            mode_asked: run.mode_asked,
            mode_used: run.mode_used,
            opened: run.opened,
            root_volume: run.root_volume,
            noted: run.noted,
            incomplete: run.incomplete,
            unrest: run.unrest,
            notes: run.notes,
            reads: run.reads,
            archive: run.archive,
            revived: run.revived,
            verify: run.verify,
            journalling: run.journalled != Journalled::No,
            journalled: run.journalled.is_done(),
        }
    }
}

impl From<super::Quiesce> for Quiesce {
    fn from(quiesce: super::Quiesce) -> Quiesce {
        Quiesce {
            by: quiesce.by,
            began_ms: quiesce.rest.began_ms(),
            requests_ended_ms: None,
            rested_ms: match quiesce.rest {
                Rest::AtRest { rested_ms, .. } => Some(rested_ms),
                _ => None,
            },
            resumed_ms: quiesce.resuming.last_start_ms(),
            paused_before: quiesce.paused_before > 0,
            over: false,
            steps: quiesce.steps.into_iter().map(Step::from).collect(),
        }
    }
}

impl From<super::Step> for Step {
    fn from(step: super::Step) -> Step {
        Step {
            id: step.id,
            engine: step.engine,
            name: step.name,
            project: step.project,
            service: step.service,
            action: step.action,
            stop_timeout: step.stop_timeout,
            before: step.before,
            prepared: step.stop.was_prepared(),
            started_at: step.started_at,
            after: step.after,
            not_in_backup: step.not_in_backup,
            requested: !matches!(step.stop, Stop::Planned | Stop::Unprepared),
            stop_ms: step.stop.ms(),
            killed: step.stop.killed(),
            start_ms: step.start.ms(),
            failures: step.failures.count(),
            failing_since_ms: match step.failures {
                Failures::None => None,
                Failures::Since { first_ms, .. } => Some(first_ms),
            },
            trouble: step.trouble,
            way_back: step.way_back,
            unhealthy: step.health_before == HealthBefore::Ill,
            room_made: step.room == Room::Made,
            waiting_since_ms: step.start.waiting_since_ms(),
            looked_at_until_ms: step.start.watched_until_ms(),
            fate: step.fate,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::super::Runs;
    use super::*;
    use crate::sys::{Root, text};

    /// Runs as the previous version has left them, each halted at the step in its name.
    fn recorded() -> Vec<(String, String)> {
        let directory =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/runs/schema-1");
        let mut files: Vec<(String, String)> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn load(text: &str) -> super::super::Run {
        serde_json::from_str::<Run>(text).map(super::super::Run::from).unwrap()
    }

    #[test]
    fn a_recorded_run_keeps_its_shape_and_all_that_it_says() {
        let directory = std::env::temp_dir().join(format!("stillpoint-schema1-{}", text::token()));
        let runs = Runs::of(&Root::at(&directory));
        fs::create_dir_all(directory.join("var/lib/stillpoint/runs")).unwrap();
        let recorded = recorded();
        assert!(recorded.len() > 50);
        for (name, text) in recorded {
            let vmid = load(&text).vmid;
            let path = directory.join(format!("var/lib/stillpoint/runs/{vmid}.json"));
            fs::write(&path, &text).unwrap();
            let run = runs.load(vmid).unwrap().unwrap();
            runs.save(&run).unwrap();
            let mut before: serde_json::Value = serde_json::from_str(&text).unwrap();
            if before["quiesce"]["over"] == true && before["quiesce"]["by"] == "stillpoint" {
                // Nobody needs to know how long a stop took that was given up afterwards.
                before["quiesce"]["rested_ms"] = serde_json::Value::Null;
            }
            let after = fs::read_to_string(&path).unwrap();
            let after: serde_json::Value = serde_json::from_str(&after).unwrap();
            assert_eq!(after, before, "{name}");
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_recorded_run_is_in_the_states_that_its_step_says() {
        for (name, text) in recorded() {
            let run = load(&text);
            let quiesce = run.quiesce.as_ref();
            let rest = quiesce.map(|quiesce| quiesce.rest);
            let begun = quiesce.is_some_and(|quiesce| quiesce.resuming != Resuming::NotBegun);
            let stops = |wanted: fn(Stop) -> bool| {
                quiesce.is_some_and(|quiesce| quiesce.steps.iter().all(|step| wanted(step.stop)))
            };
            let all_stopped = stops(|stop| matches!(stop, Stop::Stopped(_)));
            let (mode, point) = name.split_once('-').unwrap();
            let is = match (mode, point) {
                (_, "opened") => run.pre_stop == PreStop::NotCome && quiesce.is_none(),
                (_, "armed") => run.pre_stop == PreStop::Looked && quiesce.is_none(),
                (_, "planned" | "noted") => {
                    rest == Some(Rest::Planned)
                        && run.shutdown == Shutdown::NotAsked
                        && stops(|stop| stop == Stop::Planned)
                }
                ("snapshot" | "suspend", "stop-confirmed-3") => {
                    matches!(rest, Some(Rest::Stopping { .. })) && !begun && !all_stopped
                }
                ("snapshot" | "suspend", "post-restart" | "proven" | "started") => {
                    matches!(rest, Some(Rest::AtRest { .. }))
                        && !begun
                        && all_stopped
                        && run.proof == Proof::NotDue
                        && run.is_at_rest()
                }
                ("snapshot" | "suspend", "start-confirmed" | "start-confirmed-2") => {
                    run.data_copy == DataCopy::GuestReturned
                        && run.proof == Proof::Done
                        && begun
                        && run.is_open()
                }
                ("snapshot" | "suspend", "backup-end" | "log-end") => {
                    run.data_copy == DataCopy::GuestReturned
                        && !run.is_open()
                        && run.journalled == Journalled::No
                        && run.downtime_ms().is_some()
                }
                ("stop", "backup-end") => run.shutdown.may_still_come() && !begun,
                ("stop", "post-restart" | "started") => {
                    matches!(run.shutdown, Shutdown::SeenDown { asked_ms: Some(_) })
                        && run.data_copy == DataCopy::Done
                }
                ("stop", "start-confirmed" | "start-confirmed-2" | "log-end") => {
                    matches!(run.shutdown, Shutdown::Returned { asked_ms: Some(_), .. })
                        && run.data_copy == DataCopy::GuestReturned
                        && run.downtime_ms().is_some()
                }
                ("down", _) => !run.was_running() && quiesce.is_none(),
                ("killed", "in-pre-stop-closing") => {
                    run.journalled == Journalled::Yes && rest.is_some_and(Rest::is_given_up)
                }
                (_, "journalled" | "closing" | "in-pre-stop-journalled") => {
                    run.journalled == Journalled::Writing && !run.is_open()
                }
                ("stopped", "in-pre-stop-backup-abort" | "in-pre-stop-log-end") => {
                    rest.is_some_and(Rest::is_given_up)
                }
                ("killed", "in-pre-stop-started") => {
                    rest.is_some_and(Rest::is_given_up) && all_stopped && run.is_open()
                }
                // Halted before the step's changes were recorded.
                (
                    "snapshot" | "suspend",
                    "stop-requested" | "stop-requested-2" | "stop-confirmed",
                )
                | ("stopped" | "killed", "in-pre-stop-guard-woken") => rest == Some(Rest::Planned),
                _ => panic!("{name} is not known here"),
            };
            assert!(is, "{name}: {run:#?}");
        }
    }

    #[test]
    fn what_no_recording_has_is_read_and_written_too() {
        let text = recorded().into_iter().find(|(name, _)| name == "snapshot-backup-end");
        let mut json: serde_json::Value = serde_json::from_str(&text.unwrap().1).unwrap();
        json["quiesce"]["paused_before"] = true.into();
        let step = &mut json["quiesce"]["steps"][0];
        for (field, value) in [
            ("fate", serde_json::json!("open")),
            ("start_ms", serde_json::Value::Null),
            ("stop_ms", serde_json::Value::Null),
            ("killed", "with-data".into()),
            ("failures", 2.into()),
            ("failing_since_ms", 7.into()),
            ("waiting_since_ms", 8.into()),
            ("unhealthy", true.into()),
            ("room_made", true.into()),
        ] {
            step[field] = value;
        }
        let run = load(&json.to_string());
        let step = &run.quiesce.as_ref().unwrap().steps[0];
        assert_eq!(step.stop.killed(), Some(Killed::WithData));
        assert_eq!(step.failures, Failures::Since { first_ms: 7, count: 2 });
        assert_eq!(step.start, Start::Waiting { since_ms: 8 });
        assert_eq!((step.health_before, step.room), (HealthBefore::Ill, Room::Made));
        assert_eq!(serde_json::to_value(Run::from(run)).unwrap(), json);
    }
}
