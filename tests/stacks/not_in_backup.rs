//! plan, doctor, the summary, the journal and status name what a guest's backup does not contain.

use serde_json::Value;
use stillpoint_sim::node::{GuestSpec, Node};
use stillpoint_sim::vzdump::report::Report;

use crate::scene::{Scene, VMID};

/// A guest's root file system, and a media library and a share that the guest itself has mounted.
const MOUNTS: &str = "100 99 7:0 / / rw - ext4 /dev/loop0 rw\n\
    110 100 0:60 / /var/lib/docker/volumes/media/_data rw - nfs4 192.0.2.10:/m rw\n\
    111 100 0:61 / /mnt/the\\040nas rw - cifs //192.0.2.10/p rw\n\
    112 100 0:62 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw\n";

/// A backup of a guest, and its node.
fn backup(
    recorded: &str,
    adjust: &dyn Fn(&mut GuestSpec),
    arrange: &dyn Fn(&Node),
) -> (Scene, Report) {
    let scene = Scene::new(recorded, adjust);
    arrange(&scene.node);
    let report = scene.play_with(scene.options());
    assert_eq!(report.lost(), Vec::<String>::new(), "{}", report.text());
    (scene, report)
}

fn stillpoint(scene: &Scene, arguments: &[&str]) -> (String, i32) {
    let output = scene.stillpoint(arguments);
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

fn mounted(node: &Node) {
    node.write(&format!("guests/{VMID}/root/proc/1/mountinfo"), MOUNTS).unwrap();
}

fn mount_point(node: &Node, line: &str) {
    let guest = node.guest(VMID).unwrap();
    let config = guest.config().unwrap();
    guest.set_config(&config.replacen("net0:", &format!("{line}\nnet0:"), 1)).unwrap();
}

fn summary(report: &Report) -> String {
    report.calls.last().unwrap().said.join("\n")
}

fn not_in_backup(record: &Value, name: &str) -> Vec<String> {
    let containers = record["containers"].as_array().unwrap();
    let container = containers.iter().find(|container| container["name"] == name).unwrap();
    let paths = container["not_in_backup"].as_array().unwrap();
    paths.iter().map(|path| path.as_str().unwrap().to_string()).collect()
}

#[test]
fn data_on_what_the_guest_has_mounted_is_named() {
    let volumes = |spec: &mut GuestSpec| {
        spec.containers[0].volumes = vec![("media".into(), "/m".into())];
        spec.containers[1].volumes = vec![("/mnt/the nas/p".into(), "/p".into())];
    };
    let (scene, report) = backup("lxc-snapshot-1vol", &volumes, &mounted);
    let record = &report.records("backup")[0];
    assert_eq!(record["grade"], "clean", "what is in the backup is consistent");
    assert_eq!(not_in_backup(record, "db"), ["/var/lib/docker/volumes/media/_data"]);
    assert_eq!(not_in_backup(record, "cache"), ["/mnt/the nas/p"]);
    assert_eq!(not_in_backup(record, "web"), Vec::<String>::new());
    let named = ["db (/var/lib/docker/volumes/media/_data)", "cache (/mnt/the nas/p)"];
    let said = summary(&report);
    for name in named {
        assert!(said.contains(&format!("guest {VMID}: not in the backup: ")), "{said}");
        assert!(said.contains(name), "{said}");
    }
    let (plan, _) = stillpoint(&scene, &["plan", "9001"]);
    assert!(plan.contains("; not in the backup: /mnt/the nas/p"), "{plan}");
    let (doctor, _) = stillpoint(&scene, &["doctor"]);
    let doctor = doctor.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        doctor.contains("data of cache lies on /mnt/the nas (cifs //192.0.2.10/p)"),
        "{doctor}"
    );
    assert!(doctor.contains("data of db lies on /var/lib/docker/volumes/media/_data"), "{doctor}");
}

#[test]
fn data_behind_a_link_of_the_guest_is_named() {
    let volumes = |spec: &mut GuestSpec| {
        spec.containers[1].volumes = vec![("/photos/p".into(), "/p".into())];
    };
    let linked = |node: &Node| {
        mounted(node);
        let link = node.path(format!("guests/{VMID}/root/photos"));
        std::os::unix::fs::symlink("/mnt/the nas", link).unwrap();
    };
    let (scene, report) = backup("lxc-snapshot-1vol", &volumes, &linked);
    assert_eq!(not_in_backup(report.records("backup")[0], "cache"), ["/photos/p"]);
    assert!(summary(&report).contains("cache (/photos/p)"), "{}", summary(&report));
    let (doctor, _) = stillpoint(&scene, &["doctor"]);
    let doctor = doctor.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(doctor.contains("data of cache lies on /mnt/the nas"), "{doctor}");
}

#[test]
fn a_backup_without_the_engines_own_directory_is_incomplete() {
    for recorded in ["lxc-snapshot-1vol", "lxc-stop-running", "lxc-suspend"] {
        let docker = |node: &Node| mount_point(node, "mp0: local:a,mp=/var/lib/docker,size=8G");
        let (scene, report) = backup(recorded, &|_| {}, &docker);
        let record = &report.records("backup")[0];
        assert_eq!(record["grade"], "incomplete", "{recorded}");
        let reason = record["reasons"][0].as_str().unwrap();
        for name in ["db", "cache", "web"] {
            assert!(reason.contains(name), "{recorded}: {reason}");
            assert!(not_in_backup(record, name).contains(&"/var/lib/docker".to_string()));
        }
        let said = summary(&report);
        assert!(said.contains("incomplete backup (/var/lib/docker"), "{recorded}: {said}");
        assert!(said.contains(&format!("guest {VMID}: not in the backup: ")), "{said}");
        let (status, code) = stillpoint(&scene, &["status", "--check"]);
        assert_eq!(code, 1, "{recorded}: {status}");
        assert!(status.contains("the backup is incomplete: /var/lib/docker"), "{status}");
        let (plan, _) = stillpoint(&scene, &["plan", "9001"]);
        assert!(plan.contains("Note: /var/lib/docker, where the engine keeps"), "{plan}");
    }
}

#[test]
fn an_engine_on_what_the_guest_has_mounted_makes_the_backup_incomplete() {
    let arrange = |node: &Node| {
        let mounts = format!("{MOUNTS}113 100 7:9 / /var/lib/docker rw - ext4 /dev/loop9 rw\n");
        node.write(&format!("guests/{VMID}/root/proc/1/mountinfo"), &mounts).unwrap();
    };
    let (scene, report) = backup("lxc-snapshot-1vol", &|_| {}, &arrange);
    assert_eq!(report.records("backup")[0]["grade"], "incomplete");
    let (doctor, _) = stillpoint(&scene, &["doctor"]);
    let doctor = doctor.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = "all of its containers lie on /var/lib/docker (ext4 /dev/loop9)";
    assert!(doctor.contains(said), "{doctor}");
}

#[test]
fn an_engine_on_a_mount_point_with_backup_is_in_the_backup() {
    let docker =
        |node: &Node| mount_point(node, "mp0: local:a,mp=/var/lib/docker,backup=1,size=8G");
    let (_, report) = backup("lxc-snapshot-1vol", &|_| {}, &docker);
    assert_eq!(report.records("backup")[0]["grade"], "clean");
}

#[test]
fn containers_on_a_tmpfs_or_with_a_part_elsewhere_are_not_in_the_backup() {
    let root = MOUNTS.lines().next().unwrap();
    for (point, mount) in [
        ("mp0: local:a,mp=/var/lib/docker/overlay2", ""),
        ("tags: none", "110 100 0:60 / /var/lib/docker rw - tmpfs tmpfs rw\n"),
    ] {
        let (scene, report) = backup("lxc-snapshot-1vol", &|_| {}, &|node| {
            mount_point(node, point);
            let mounts = format!("{root}\n{mount}");
            node.write(&format!("guests/{VMID}/root/proc/1/mountinfo"), &mounts).unwrap();
        });
        let record = &report.records("backup")[0];
        assert_eq!(record["grade"], "incomplete", "{point} {mount}: {record:#}");
        let (said, _) = stillpoint(&scene, &["status", "--check"]);
        assert!(said.starts_with("WARNING"), "{said}");
    }
}
