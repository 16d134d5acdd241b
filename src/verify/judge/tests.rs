use super::*;
use crate::pbs::{SnapshotFile, Verification};

fn upid(count: u32, started: u32) -> Upid {
    format!("UPID:vm:00005DF6:00029750:{count:08X}:{started:08X}:verify_snapshot:a:b@pbs:")
        .parse()
        .unwrap()
}

fn state(verification: Option<(VerifyState, Upid)>) -> Result<State, Error> {
    let verification = verification.map(|(state, upid)| Verification { state, upid });
    Ok(State { files: Vec::new(), verification, fingerprint: None })
}

/// The evidence of a task that began first, with a snapshot that task 1 had verified before.
fn verdict(exitstatus: &str, state: &Result<State, Error>, log: &[&str]) -> Verdict {
    let log: Vec<String> = log.iter().map(ToString::to_string).collect();
    let findings = Findings::of(&log, &SNAPSHOT.parse().unwrap());
    let ending = Ending::from(exitstatus.to_owned());
    let (ours, before) = (upid(5, 100), upid(1, 9000));
    let (ours, before, log) = (&ours, Some(&before), Some(&findings));
    Evidence { ours, before, ending: &ending, state, log }.judge()
}

const SNAPSHOT: &str = "ct/9001/2026-11-21T23:16:00Z";
const SKIPPED: &str = "2026-11-21T23:17:29+00:00: SKIPPED: verify a:ct/9001/2026-11-21T23:16:00Z";
const DAMAGED: &str = "2026-11-21T23:17:29+00:00: verify a:ct/9001/2026-11-21T23:16:00Z/root.pxar.didx failed: \
                       chunks could not be verified";
const MANIFEST: &str =
    "2026-11-21T23:17:29+00:00: verify a:ct/9001/2026-11-21T23:16:00Z - manifest";
const FAILED: &str = "verification failed - please check the log for details";

fn outcome(exitstatus: &str, state: &Result<State, Error>, log: &[&str]) -> VerifyOutcome {
    verdict(exitstatus, state, log).outcome
}

fn refused(status: u16, reason: &str) -> Result<State, Error> {
    Err(Error::Refused { status, reason: reason.into() })
}

#[test]
fn only_the_snapshots_own_state_is_a_proof() {
    let ok = |upid| state(Some((VerifyState::Ok, upid)));
    assert_eq!(outcome("OK", &ok(upid(5, 100)), &[]), VerifyOutcome::Ok);
    assert_eq!(outcome("OK", &ok(upid(6, 100)), &[]), VerifyOutcome::Ok, "started no earlier");
    assert_eq!(outcome("OK", &ok(upid(4, 99)), &[]), VerifyOutcome::Unknown, "an old one");
    let earlier = ok(upid(4, 100));
    assert_eq!(outcome("OK", &earlier, &[]), VerifyOutcome::Unknown, "in the same second");
    assert_eq!(outcome("OK", &earlier, &[SKIPPED]), VerifyOutcome::Skipped);
    assert_eq!(outcome("abort requested", &earlier, &[]), VerifyOutcome::Unknown);
    assert_eq!(outcome("OK", &ok(upid(6, 99)), &[]), VerifyOutcome::Unknown, "an old one");
    let ahead = ok(upid(4, 9000));
    assert_eq!(outcome("OK", &ahead, &[]), VerifyOutcome::Unknown, "the clock was set back");
    let restarted = |started: u32| {
        let upid = upid(1, started).to_string().replace("00029750", "00029999");
        ok(upid.parse().unwrap())
    };
    assert_eq!(outcome("unknown", &restarted(101), &[]), VerifyOutcome::Ok, "after a restart");
    assert_eq!(outcome("OK", &restarted(99), &[]), VerifyOutcome::Unknown, "before a restart");
    assert_eq!(outcome("OK", &state(None), &[]), VerifyOutcome::Unknown);
    assert_eq!(outcome("OK", &state(None), &[SKIPPED]), VerifyOutcome::Skipped);
    assert_eq!(outcome("WARNINGS: 1", &state(None), &[]), VerifyOutcome::Unknown);
}

#[test]
fn what_the_snapshot_bore_before_is_no_proof_whatever_the_clocks_say() {
    let before: Upid = upid(1, 9000).to_string().replace("00029750", "00029999").parse().unwrap();
    let ours = upid(5, 100);
    let of = |state: VerifyState, ending: &Ending, before: Option<&Upid>, bears: &Upid| {
        let state = super::tests::state(Some((state, bears.clone())));
        let log = Findings::default();
        let evidence = Evidence { ours: &ours, before, ending, state: &state, log: Some(&log) };
        evidence.judge().outcome
    };
    // The server's clock was ahead when the snapshot was found good, and the next task was
    // interrupted.
    for ending in [Ending::Unknown, Ending::Ok, Ending::Aborted("abort requested".into())] {
        let found = of(VerifyState::Ok, &ending, Some(&before), &before);
        assert_eq!(found, VerifyOutcome::Unknown, "{ending}");
        let found = of(VerifyState::Failed, &ending, Some(&before), &before);
        assert_eq!(found, VerifyOutcome::Unknown, "what was found before is no damage of now");
        assert_eq!(of(VerifyState::Ok, &ending, None, &before), VerifyOutcome::Ok, "a later one");
    }
    // A task that was found after a lost answer had written its result before it was noted.
    assert_eq!(of(VerifyState::Ok, &Ending::Ok, Some(&ours), &ours), VerifyOutcome::Ok);
}

#[test]
fn what_a_sync_brought_is_no_proof() {
    let elsewhere: Upid =
        upid(7, 200).to_string().replace(":a:b@", r":tank\x3a-ct-9001:b@").parse().unwrap();
    let other_node: Upid = upid(7, 200).to_string().replace(":vm:", ":pbs2:").parse().unwrap();
    for upid in [elsewhere, other_node] {
        for found in [VerifyState::Ok, VerifyState::Failed] {
            let verdict = verdict("OK", &state(Some((found, upid.clone()))), &[]);
            assert_eq!(verdict.outcome, VerifyOutcome::Unknown, "{upid}");
            assert!(verdict.reason.unwrap().contains("a sync has replaced"));
        }
    }
}

#[test]
fn a_failure_is_a_failure_whatever_the_task_says() {
    let failed = state(Some((VerifyState::Failed, upid(5, 100))));
    assert_eq!(outcome(FAILED, &failed, &[]), VerifyOutcome::Failed);
    assert_eq!(outcome("OK", &failed, &[]), VerifyOutcome::Failed);
    let old = state(Some((VerifyState::Ok, upid(1, 50))));
    assert_eq!(outcome(FAILED, &old, &[DAMAGED]), VerifyOutcome::Failed);
    let unreadable = refused(400, "no such file");
    assert_eq!(outcome(FAILED, &unreadable, &[DAMAGED]), VerifyOutcome::Failed);
}

#[test]
fn a_failure_without_a_word_of_damage_is_none() {
    let old = state(Some((VerifyState::Ok, upid(1, 50))));
    assert_eq!(outcome(FAILED, &old, &[]), VerifyOutcome::Unknown);
    assert_eq!(outcome(FAILED, &refused(400, "no such file"), &[]), VerifyOutcome::Unknown);
    assert_eq!(outcome("OK", &refused(400, "no such file"), &[]), VerifyOutcome::Unknown);
    let ending = Ending::from(FAILED.to_owned());
    let (ours, before) = (upid(5, 100), None);
    let unread = Evidence { ours: &ours, before, ending: &ending, state: &old, log: None }.judge();
    assert_eq!(unread.outcome, VerifyOutcome::Unknown);
    assert!(unread.reason.unwrap().contains("could not be read"));
}

#[test]
fn a_datastore_that_cannot_be_used_now_is_asked_later() {
    for reason in [
        "datastore 'a' is unavailable: offline maintenance mode: b",
        "datastore 'a' is unavailable: datastore is being unmounted",
        "datastore 'a' is unavailable: datastore is being deleted",
        "datastore 'a' is not mounted",
    ] {
        let verdict = verdict(FAILED, &refused(400, reason), &[]);
        assert_eq!(
            (verdict.outcome, verdict.retry),
            (VerifyOutcome::Unreachable, Retry::ForADay),
            "{reason}"
        );
        assert_eq!(verdict.advice == Advice::Mount, reason.ends_with("not mounted"), "{reason}");
    }
    assert_eq!(outcome(FAILED, &refused(500, "x"), &[]), VerifyOutcome::Unreachable);
}

#[test]
fn a_snapshot_removed_while_it_is_read_is_not_damaged_and_what_was_damaged_before_is() {
    let gone = || Err(Error::Gone);
    let of = |file: &str, why: &str| {
        format!("2026-11-21T23:17:29+00:00: verify a:{SNAPSHOT}/{file} failed: {why}")
    };
    let blob = of(
        "pct.conf.blob",
        "unable to load blob '\"/ds/pct.conf.blob\"' - No such file or directory (os error 2)",
    );
    let index = of(
        "root.pxar.didx",
        "Unable to open dynamic index \"/ds/root.pxar.didx\" - No such file or directory (os error 2)",
    );
    let manifest = format!(
        "{MANIFEST} update error: unable to load blob 'x' - No such file or directory (os error 2)"
    );
    let removed = verdict(FAILED, &gone(), &[&blob, &index, &manifest]);
    assert_eq!((removed.outcome, removed.advice), (VerifyOutcome::Skipped, Advice::LookThere));
    let damaged = verdict(FAILED, &gone(), &[DAMAGED, &blob, &manifest]);
    assert_eq!(damaged.outcome, VerifyOutcome::Failed);
    // One that is still there has lost a file.
    let failed = state(Some((VerifyState::Failed, upid(5, 100))));
    assert_eq!(verdict(FAILED, &failed, &[&blob]).outcome, VerifyOutcome::Failed);
}

#[test]
fn a_failure_names_what_is_damaged_and_the_way_out() {
    let failed = state(Some((VerifyState::Failed, upid(5, 100))));
    let verdict = verdict(FAILED, &failed, &[DAMAGED]);
    let reason = verdict.reason.unwrap();
    assert!(reason.contains("root.pxar.didx failed: chunks could not"), "{reason}");
    assert_eq!(verdict.advice, Advice::BackUp);
}

#[test]
fn a_damaged_manifest_has_to_be_forgotten_and_a_missing_one_not() {
    let refusal = "unable to load blob 'x' - Data blob has wrong CRC checksum.";
    let of = |why: &str, state: &Result<State, Error>| {
        let line = format!("{MANIFEST} load error: unable to load blob 'x' - {why}");
        let verdict = verdict(FAILED, state, &[&line]);
        (verdict.outcome, verdict.advice)
    };
    let damaged = of("Data blob has wrong CRC checksum.", &refused(400, refusal));
    assert_eq!(damaged, (VerifyOutcome::Failed, Advice::Forget));
    let missing = refused(400, "manifest not found for snapshot 'ct/1/x'");
    let missing = of("No such file or directory (os error 2)", &missing);
    assert_eq!(missing, (VerifyOutcome::Failed, Advice::BackUp));
    let disk = refused(400, "unable to load blob 'x' - Input/output error (os error 5)");
    let disk = of("Input/output error (os error 5)", &disk);
    assert_eq!(disk.0, VerifyOutcome::Unknown);
}

#[test]
fn what_may_be_better_the_next_time_is_tried_again_and_nothing_else() {
    let old = state(Some((VerifyState::Ok, upid(1, 50))));
    let retry = |exitstatus: &str, log: &[&str]| verdict(exitstatus, &old, log).retry;
    assert_eq!(retry("unknown", &[]), Retry::FewTimes);
    assert_eq!(retry("Server shutdown requested - aborting task", &[]), Retry::FewTimes);
    let locked = format!("{SKIPPED} - could not acquire snapshot lock: unable to acquire x");
    assert_eq!(retry("OK", &[&locked]), Retry::ForADay);
    assert_eq!(retry("OK", &[&format!("{SKIPPED} (recently verified)")]), Retry::FewTimes);
    let stopped = retry("abort requested - aborting task", &[]);
    assert_eq!(stopped, Retry::Never, "a person has stopped it");
    assert_eq!(retry(FAILED, &[DAMAGED]), Retry::Never);
    let gone = refused(400, "unable to load blob: No such file");
    let verdict =
        verdict("OK", &gone, &[&format!("{SKIPPED} - snapshot does not exist (anymore).")]);
    assert_eq!((verdict.outcome, verdict.retry), (VerifyOutcome::Skipped, Retry::Never));
}

#[test]
fn what_could_not_be_written_down_is_no_damage() {
    let old = state(Some((VerifyState::Ok, upid(1, 50))));
    let of = |log: &[&str]| verdict(FAILED, &old, log);
    for (why, advice) in [
        ("unable to acquire manifest lock", Advice::VerifyAgain),
        ("write failed: No space left on device (os error 28)", Advice::Room),
    ] {
        let line = format!("{MANIFEST} update error: {why}");
        let found = of(&[&line]);
        assert_eq!((found.outcome, found.retry), (VerifyOutcome::Unknown, Retry::FewTimes));
        assert!(found.reason.as_ref().unwrap().contains(why), "{found:?}");
        assert_eq!(found.advice, advice);
        let damaged = of(&[DAMAGED, &line]);
        assert_eq!((damaged.outcome, damaged.retry), (VerifyOutcome::Failed, Retry::Never));
    }
}

#[test]
fn data_that_is_not_encrypted_is_named() {
    let file = |name: &str, mode: &str| SnapshotFile {
        filename: name.into(),
        crypt_mode: Some(mode.into()),
        size: None,
    };
    let state = |files| State { files, verification: None, fingerprint: None };
    let encrypted = state(vec![
        file("root.pxar.didx", "encrypt"),
        file("index.json.blob", "sign-only"),
        file("rsa-encrypted.key.blob", "none"),
    ]);
    assert_eq!(not_encrypted(&encrypted, "offsite"), None);
    let open = state(vec![file("root.pxar.didx", "encrypt"), file("pct.conf.blob", "none")]);
    let verdict = not_encrypted(&open, "offsite").unwrap();
    assert_eq!(verdict.outcome, VerifyOutcome::Failed);
    let reason = verdict.reason.unwrap();
    assert!(reason.contains("pct.conf.blob") && !reason.contains("root.pxar"), "{reason}");
    assert!(not_encrypted(&state(Vec::new()), "offsite").is_some(), "nothing is known");
}
