use super::*;
use crate::pbs::Verification;

const UPID: &str =
    r"UPID:vm:00000B7B:0005CCB7:000000C5:6B0A0189:verificationjob:office\x3arecv:root@pam:";

fn state(verification: Option<VerifyState>) -> Result<State, Error> {
    let upid = || UPID.parse().unwrap();
    let verification = verification.map(|state| Verification { state, upid: upid() });
    Ok(State { files: Vec::new(), verification, fingerprint: None })
}

#[test]
fn the_servers_later_verdict_counts_in_both_directions() {
    use VerifyState::{Failed, Ok};
    assert_eq!(see(Ok, "office", &state(Some(Ok))), Seen::Same);
    assert_eq!(see(Failed, "office", &state(Some(Failed))), Seen::Same);
    let Seen::Otherwise(failed) = see(Ok, "office", &state(Some(Failed))) else { panic!() };
    assert_eq!(failed.outcome, VerifyOutcome::Failed);
    assert!(failed.reason.unwrap().contains("verificationjob"));
    let Seen::Otherwise(mended) = see(Failed, "office", &state(Some(Ok))) else { panic!() };
    assert_eq!((mended.outcome, mended.reason), (VerifyOutcome::Ok, None));
}

#[test]
fn what_says_nothing_of_this_datastore_changes_nothing() {
    for known in [VerifyState::Ok, VerifyState::Failed] {
        for found in [VerifyState::Ok, VerifyState::Failed] {
            let synced = see(known, "cellar", &state(Some(found)));
            assert!(matches!(synced, Seen::Nothing(_)), "{synced:?}");
        }
        assert!(matches!(see(known, "office", &state(None)), Seen::Nothing(_)));
        let refused = |status, reason: &str| Err(Error::Refused { status, reason: reason.into() });
        for error in [
            Err(Error::Unreachable { reason: "refused".into(), unsent: true }),
            Err(Error::Denied { status: 403, reason: "no".into() }),
            refused(400, "datastore 'office' is not mounted"),
            refused(503, "busy"),
            refused(400, "unable to load blob 'x' - Input/output error (os error 5)"),
        ] {
            let seen = see(known, "office", &error);
            assert!(matches!(seen, Seen::Nothing(_)), "{error:?}: {seen:?}");
        }
    }
}

#[test]
fn a_manifest_that_is_damaged_since_is_a_failure() {
    let reason = "unable to load blob 'x' - Data blob has wrong CRC checksum.".to_owned();
    let refused = Err(Error::Refused { status: 400, reason });
    let Seen::Otherwise(verdict) = see(VerifyState::Ok, "office", &refused) else { panic!() };
    assert_eq!((verdict.outcome, verdict.advice), (VerifyOutcome::Failed, Advice::Forget));
    assert_eq!(see(VerifyState::Failed, "office", &refused), Seen::Same);
    assert_eq!(see(VerifyState::Ok, "office", &Err(Error::Gone)), Seen::Gone);
}
