//! The recordings themselves.

use super::made::recording;
use super::promise::{keeps_its_promises, played};

macro_rules! recordings {
    ($($test:ident $name:literal)*) => {
        $(#[test]
        fn $test() {
            keeps_its_promises(&played(&recording($name)));
        })*

        #[test]
        fn every_recording_has_its_test() {
            let mut named = vec![$($name),*];
            named.sort_unstable();
            let all = super::made::recordings();
            let all: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
            assert_eq!(all, named);
        }
    };
}

recordings! {
    dumpdir_missing "dumpdir-missing"
    dumpdir_unwritable "dumpdir-unwritable"
    disk_full_snapshot "disk-full-snapshot"
    disk_full_stop "disk-full-stop"
    hook_fails_in_backup_end_snapshot "hook-fails-in-backup-end-snapshot"
    hook_fails_in_job_end "hook-fails-in-job-end"
    hook_fails_in_pre_restart_snapshot "hook-fails-in-pre-restart-snapshot"
    hook_fails_in_pre_restart_suspend "hook-fails-in-pre-restart-suspend"
    kill9_in_pre_stop_snapshot "kill9-in-pre-stop-snapshot"
    lxc_snapshot_1vol "lxc-snapshot-1vol"
    lxc_snapshot_2vol "lxc-snapshot-2vol"
    lxc_snapshot_pbs "lxc-snapshot-pbs"
    lxc_stdout "lxc-stdout"
    lxc_stop_running "lxc-stop-running"
    lxc_stopped_guest "lxc-stopped-guest"
    lxc_suspend "lxc-suspend"
    snapshot_unsupported "snapshot-unsupported"
    stop_button_in_archive_stop "stop-button-in-archive-stop"
    stop_button_in_pre_stop "stop-button-in-pre-stop"
    storage_broken "storage-broken"
}

#[test]
fn at_the_snapshot_everything_is_at_rest() {
    for name in ["lxc-snapshot-1vol", "lxc-snapshot-2vol", "lxc-suspend"] {
        let report = played(&recording(name));
        let [instant] = &report.instants[..] else { panic!("{name}: one guest, one instant") };
        assert_eq!(instant.running, Vec::<String>::new(), "{name}");
        assert!(instant.note.is_some(), "{name}: the backup says what was running");
        assert_eq!(report.records("backup")[0]["grade"], "clean", "{name}");
    }
}

#[test]
fn a_backup_on_a_server_is_verified() {
    let report = played(&recording("lxc-snapshot-pbs"));
    assert_eq!(report.pbs_tasks.len(), 1, "{}", report.text());
    assert_eq!(report.pbs_tasks[0]["exitstatus"], "OK");
    assert_eq!(report.records("verify")[0]["outcome"], "ok");
}
