//! `/etc/pve` is a FUSE file system. If its daemon hangs, a process that reads there waits in the
//! kernel, and no signal ends it. A guest must still start, and stopped containers must come back.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::node::Node;

/// Set in the process that has its own mount namespace.
const INNER: &str = "STILLPOINT_TEST_HUNG_CLUSTER";

/// The hook's own limits are 5 s for each of two looks; a call that takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_cluster_file_system_that_never_answers_keeps_no_guest_from_starting() {
    if std::env::var_os(INNER).is_some() {
        return inside();
    }
    let namespace = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount", "--"]);
        unshare
    };
    let can = namespace().arg("true").stderr(Stdio::null()).status();
    let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if !can.is_ok_and(|status| status.success()) || fuse.is_err() {
        println!("skipped: it takes a mount namespace of its own and /dev/fuse");
        return;
    }
    let name = "a_cluster_file_system_that_never_answers_keeps_no_guest_from_starting";
    let status = namespace()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INNER, "1")
        .status();
    assert!(status.unwrap().success());
}

fn inside() {
    let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
    let node = Node::new(None, &binaries).unwrap();
    // Otherwise the hook would wait for its init.
    node.write("guests/9001/running", "").unwrap();
    std::fs::create_dir(node.path("guests/9001/root")).unwrap();
    let hung = Hung::at(&node.path("etc/pve"));
    let call = |arguments: &[&str]| {
        let mut hook = Command::new(env!("CARGO_BIN_EXE_guest-hook"));
        hook.args(arguments).env_clear().env("STILLPOINT_ROOT", node.root());
        said_by(&mut hook)
    };
    let said = call(&["9001", "pre-start"]);
    assert!(said.contains("guest 9001 starts unchanged"), "{said}");
    assert!(said.contains("has another hookscript"), "{said}");
    let left = node.processes().unwrap();
    assert!(!left.is_empty(), "it was no hang that a signal can't end");
    // The process that was left behind still has the lock.
    let said = call(&["9001", "pre-start", "unit"]);
    assert!(said.contains("guest 9001 starts"), "{said}");
    call(&["9001", "post-start"]);
    call(&["9001", "post-stop"]);
    // The commands of the units.
    for arguments in [["guard", "9001"].as_slice(), &["recover"], &["collect"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
        command.args(arguments).env_clear().env("STILLPOINT_ROOT", node.root());
        said_by(&mut command);
    }
    let text = std::fs::read_to_string("packaging/debian/prerm").unwrap();
    node.write("tmp/prerm", &text.replace("PATIENCE=300", "PATIENCE=1")).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_stillpoint")).parent().unwrap();
    let mut prerm = Command::new("/bin/sh");
    prerm.arg(node.path("tmp/prerm")).arg("remove").env("STILLPOINT_ROOT", node.root());
    prerm.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
    said_by(&mut prerm);

    // The daemon is gone: every process that waited for it gets an answer and ends.
    drop(hung);
    wait_for_all(&node);
    metrics_that_hang(&node);
}

/// The directory of the metrics may lie on a server that does not answer.
fn metrics_that_hang(node: &Node) {
    node.write("srv/metrics/file", "").unwrap();
    node.write("etc/stillpoint/config.toml", "[report]\ntextfile-directory = \"/srv/metrics\"\n")
        .unwrap();
    let hung = Hung::at(&node.path("srv/metrics"));
    let mut hook = Command::new(env!("CARGO_BIN_EXE_vzdump-hook"));
    hook.arg("job-end").env_clear().env("STILLPOINT_ROOT", node.root());
    let said = said_by(&mut hook);
    assert!(said.contains("the directory /srv/metrics does not answer"), "{said}");
    let mut status = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
    status.arg("status").env_clear().env("STILLPOINT_ROOT", node.root());
    let said = said_by(&mut status);
    assert!(said.contains("the directory /srv/metrics does not"), "{said}");
    drop(hung);
    wait_for_all(node);
}

fn wait_for_all(node: &Node) {
    let deadline = Instant::now() + PATIENCE;
    while !node.processes().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "somebody stays behind");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command to its end, which must come.
fn said_by(command: &mut Command) -> String {
    let mut program = command.stdout(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while program.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "{command:?} hangs");
        thread::sleep(Duration::from_millis(10));
    }
    // Proxmox VE also waits for the end of its output, so a process that is left behind must not
    // hold it open.
    let output = program.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A file system whose daemon receives every request and answers only the first (without that,
/// requests could still be cancelled). Dropping this ends the daemon.
struct Hung(PathBuf);

impl Hung {
    fn at(directory: &Path) -> Hung {
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
        let options = CString::new(options).unwrap();
        mount(Some("hung"), directory, Some("fuse"), MsFlags::empty(), Some(options.as_c_str()))
            .unwrap();
        let mut requests = fuse;
        let mut request = vec![0; 1 << 20];
        let length = requests.read(&mut request).unwrap();
        assert!(length >= 40, "FUSE_INIT has a head of 40 bytes");
        // Its header is length, error and the request's number; then version 7.31 and default
        // limits.
        let mut answer = vec![0; 80];
        answer[..4].copy_from_slice(&80_u32.to_ne_bytes());
        answer[8..16].copy_from_slice(&request[8..16]);
        answer[16..20].copy_from_slice(&7_u32.to_ne_bytes());
        answer[20..24].copy_from_slice(&31_u32.to_ne_bytes());
        answer[36..40].copy_from_slice(&4096_u32.to_ne_bytes());
        requests.write_all(&answer).unwrap();
        thread::spawn(move || while requests.read(&mut request).is_ok() {});
        Hung(directory.to_path_buf())
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).unwrap();
    }
}
