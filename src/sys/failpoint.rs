//! Points at which a fault test stops a process; compiled only into builds with debug assertions.

/// Marks a step boundary.
///
/// With `STILLPOINT_FAILPOINT=NAME=kill` in the environment the process kills itself here with
/// SIGKILL. With `NAME=halt` it creates the file `failpoint-hit` in the node's directory and waits
/// until it is killed or the file `failpoint-release` appears. `NAME#3` means the third time only.
/// Only the first process of a node halts: the others have inherited the environment.
#[cfg(debug_assertions)]
pub fn reach(root: &super::Root, name: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};

    static TIMES: AtomicU32 = AtomicU32::new(0);
    let Ok(wanted) = std::env::var("STILLPOINT_FAILPOINT") else { return };
    let Some((point, action)) = wanted.split_once('=') else { return };
    let (point, nth) = point.split_once('#').unwrap_or((point, "1"));
    if point != name || TIMES.fetch_add(1, Ordering::Relaxed) + 1 != nth.parse().unwrap_or(1) {
        return;
    }
    match (action, root.directory()) {
        ("kill", _) => {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
        ("halt", Some(directory)) => {
            let hit = std::fs::File::create_new(directory.join("failpoint-hit"));
            while hit.is_ok() && !directory.join("failpoint-release").exists() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        _ => {}
    }
}

/// Marks a step boundary; does nothing in this build.
#[cfg(not(debug_assertions))]
pub fn reach(_root: &super::Root, _name: &str) {}

/// A duration that a test has shortened, in ms, from the file `/failpoint-NAME` of the node.
#[cfg(debug_assertions)]
pub fn milliseconds(root: &super::Root, name: &str) -> Option<u64> {
    let path = root.path(&format!("/failpoint-{name}"));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A duration that a test has shortened; none in this build.
#[cfg(not(debug_assertions))]
pub fn milliseconds(_root: &super::Root, _name: &str) -> Option<u64> {
    None
}
