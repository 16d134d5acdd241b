//! The simulated engine does what Docker does.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use stillpoint_sim::engine::container::{Spec, Status};
use stillpoint_sim::engine::{Engine, EngineConfig, stack};

struct Guest {
    dir: PathBuf,
    engine: Engine,
}

impl Guest {
    fn new(containers: Vec<Spec>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = format!("stillpoint-engine-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("running"), "").unwrap();
        let engine = Engine::new(&dir, EngineConfig::default(), containers).unwrap();
        let guest = Self { dir, engine };
        guest.until(|guest| guest.engine.is_up());
        guest
    }

    fn until(&self, what: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !what(self) {
            assert!(Instant::now() < deadline, "waited in vain");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn send(&self, request: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.dir.join("root/run/docker.sock")).unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn ask(&self, request: &str) -> (u16, Value) {
        let mut answer = String::new();
        self.send(request).read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    fn status(&self, name: &str) -> Option<Status> {
        let containers = self.engine.containers();
        containers.iter().find(|c| c.spec.name == name).map(|c| c.status)
    }

    fn reboot(&self, cut: bool) {
        if cut {
            fs::remove_file(self.dir.join("running")).unwrap();
        } else {
            self.engine.shut_down();
        }
        self.until(|guest| !guest.engine.is_up());
        fs::write(self.dir.join("running"), "").unwrap();
        self.until(|guest| guest.engine.is_up());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        fs::remove_dir_all(Path::new(&self.dir)).unwrap();
    }
}

#[test]
fn a_stop_outlives_its_client_and_a_start_meanwhile_is_already_so() {
    let guest = Guest::new(stack::shop());
    drop(guest.send("POST /v1.44/containers/db/stop"));
    guest.until(|guest| guest.engine.containers()[0].stopping);
    assert_eq!(guest.ask("POST /containers/db/start").0, 304);
    guest.until(|guest| guest.status("db") == Some(Status::Exited));
    assert_eq!(guest.ask("POST /containers/db/stop").0, 304);
    assert_eq!(guest.ask("POST /containers/db/start").0, 204);
    assert_eq!(guest.status("db"), Some(Status::Running));
}

#[test]
fn refusals_are_worded_like_the_real_ones() {
    let guest = Guest::new(stack::shop());
    let message = |request: &str| {
        let (status, body) = guest.ask(request);
        (status, body["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(message("GET /containers/x/json"), (404, "No such container: x".to_owned()));
    assert_eq!(message("GET /v1.24/info").0, 400);
    assert_eq!(message("GET /v1.99/info").0, 400);
    assert_eq!(message("POST /containers/old-migration/pause").0, 409);
    assert_eq!(guest.ask("POST /containers/db/pause").0, 204);
    assert_eq!(message("POST /containers/db/pause").0, 409);
    assert_eq!(message("POST /containers/db/start").0, 409);
    assert_eq!(guest.ask("POST /containers/db/unpause").0, 204);
}

#[test]
fn the_list_can_be_filtered() {
    let guest = Guest::new(stack::shop());
    let count = |request: &str| guest.ask(request).1.as_array().map(Vec::len);
    assert_eq!(count("GET /containers/json"), Some(3));
    assert_eq!(count("GET /containers/json?all=true"), Some(4));
    assert_eq!(
        count("GET /containers/json?filters=%7B%22status%22%3A%5B%22exited%22%5D%7D"),
        Some(1)
    );
    let label = "%7B%22label%22%3A%5B%22com.docker.compose.service%3Dweb%22%5D%7D";
    assert_eq!(count(&format!("GET /containers/json?filters={label}")), Some(1));
}

#[test]
fn a_shutdown_is_no_stop_by_hand() {
    let guest = Guest::new(stack::shop());
    guest.reboot(false);
    assert_eq!(guest.status("db"), Some(Status::Running), "unless-stopped");
    assert_eq!(guest.status("cache"), Some(Status::Exited), "no");
    assert_eq!(guest.status("web"), Some(Status::Running), "always");
}

#[test]
fn what_was_stopped_by_hand_stays_down_unless_always() {
    let guest = Guest::new(stack::shop());
    assert_eq!(guest.ask("POST /containers/db/stop").0, 204);
    assert_eq!(guest.ask("POST /containers/web/stop").0, 204);
    guest.reboot(true);
    assert_eq!(guest.status("db"), Some(Status::Exited));
    assert_eq!(guest.status("web"), Some(Status::Running));
}

#[test]
fn a_frozen_guest_answers_nothing_until_the_thaw() {
    let guest = Guest::new(stack::shop());
    fs::write(guest.dir.join("frozen"), "").unwrap();
    let mut stream = guest.send("GET /_ping");
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(stream.read(&mut [0; 8]).is_err());
    fs::remove_file(guest.dir.join("frozen")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(stream.read(&mut [0; 8]).unwrap() > 0);
}

#[test]
fn a_stopped_throwaway_container_is_gone() {
    let guest = Guest::new(vec![stack::throwaway()]);
    assert_eq!(guest.ask("POST /containers/import/stop").0, 204);
    assert_eq!(guest.status("import"), None);
}

#[test]
fn who_ignores_sigterm_takes_the_whole_timeout() {
    let mut deaf = Spec::service("shop", "deaf");
    deaf.ignores_sigterm = true;
    let guest = Guest::new(vec![deaf]);
    let began = Instant::now();
    assert_eq!(guest.ask("POST /containers/deaf/stop?t=4").0, 204);
    assert!(began.elapsed() >= Duration::from_millis(200), "4 s at a twentieth");
    let (_, body) = guest.ask("GET /containers/deaf/json");
    assert_eq!(body["State"]["ExitCode"], 137);
}
