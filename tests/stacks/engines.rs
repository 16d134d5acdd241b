//! A guest with several container engines: of the system and of its users.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use serde_json::Value;
use stillpoint_sim::engine::container::{Spec, Status};
use stillpoint_sim::engine::{Engine, EngineConfig, Hostile, What};
use stillpoint_sim::vzdump::replay::Options;

use crate::scene::{At, Scene, wait_for};

const PODMAN: &str = "run/podman/podman.sock";
const ROOTLESS_DOCKER: &str = "run/user/1000/docker.sock";
const ROOTLESS_PODMAN: &str = "run/user/1001/podman/podman.sock";

/// Another engine in the guest, with one running container.
fn another(scene: &Scene, socket: &'static str, name: &str) -> Engine {
    let config = EngineConfig { socket, ..EngineConfig::default() };
    let containers = vec![Spec::service("side", name)];
    let engine = Engine::new(scene.guest().dir(), config, containers).unwrap();
    wait_for("the engine answers", || engine.is_up()).unwrap();
    engine
}

fn inside(scene: &Scene, path: &str) -> PathBuf {
    scene.guest().dir().join("root").join(path)
}

/// A socket that nothing listens on any more.
fn dead(scene: &Scene, socket: &str) {
    let path = inside(scene, socket);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    drop(UnixListener::bind(path).unwrap());
}

fn backup(scene: &Scene) -> Value {
    scene.play_with(Options { ..scene.options() });
    let records = scene.node.journal().unwrap();
    records.into_iter().find(|record| record["kind"] == "backup").unwrap()
}

fn status(engine: &Engine, name: &str) -> Status {
    let containers = engine.containers();
    containers.iter().find(|container| container.spec.name == name).unwrap().status
}

fn plan(scene: &Scene) -> Value {
    let output = scene.stillpoint(&["plan", "9001", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn names(record: &Value) -> Vec<&str> {
    let containers = record["containers"].as_array().unwrap();
    containers.iter().map(|container| container["name"].as_str().unwrap()).collect()
}

#[test]
fn the_containers_of_all_engines_are_brought_to_rest_and_back() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let others = [
        (another(&scene, PODMAN, "pod"), "pod"),
        (another(&scene, ROOTLESS_DOCKER, "mine"), "mine"),
        (another(&scene, ROOTLESS_PODMAN, "yours"), "yours"),
    ];
    let record = backup(&scene);
    assert_eq!(record["grade"], "clean", "{record:#}");
    assert_eq!(names(&record).len(), 6, "{record:#}");
    for (engine, name) in &others {
        assert_eq!(engine.count(name, What::StopAsked), 1, "{name}");
        assert_eq!(status(engine, name), Status::Running, "{name}");
    }
    assert_eq!(scene.engine().count("db", What::StopAsked), 1);
}

#[test]
fn a_guest_with_nothing_but_a_rootless_engine_is_no_guest_without_an_engine() {
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| {
        guest.engine.socket = ROOTLESS_PODMAN;
    });
    let record = backup(&scene);
    assert_eq!(record["grade"], "clean", "{record:#}");
    assert_eq!(scene.engine().count("db", What::StopAsked), 1);
    assert_eq!(status(scene.engine(), "db"), Status::Running);
}

#[test]
fn an_engine_that_cannot_be_reached_keeps_no_other_from_being_brought_to_rest() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    dead(&scene, PODMAN);
    let text = String::from_utf8(scene.stillpoint(&["plan", "9001"]).stdout).unwrap();
    assert!(text.contains("Warning: the container engine at /run/podman/podman.sock"), "{text}");
    let why = plan(&scene)["unreachable"][0].as_str().unwrap().to_string();
    assert!(why.contains("/run/podman/podman.sock"), "{why}");
    let doctor = scene.stillpoint(&["doctor", "--json"]);
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(
        said.contains("cannot be brought to rest: the container engine at /run/podman"),
        "{said}"
    );
    let record = backup(&scene);
    assert_eq!(record["grade"], "crash-consistent", "{record:#}");
    let reasons = record["reasons"].to_string();
    assert!(reasons.contains("/run/podman/podman.sock"), "{reasons}");
    assert_eq!(scene.engine().count("db", What::StopAsked), 1);
    assert_eq!(status(scene.engine(), "db"), Status::Running);
}

#[test]
fn with_on_error_fail_nothing_is_stopped_where_one_engine_cannot_be_reached() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    scene.settings("[quiesce]\non-error = \"fail\"\n");
    dead(&scene, ROOTLESS_DOCKER);
    let report = scene.play(Vec::new());
    let pre_stop = report.calls.iter().find(|call| call.argv[0] == "pre-stop").unwrap();
    assert_eq!(pre_stop.exit, Some(1), "{pre_stop:?}");
    assert_eq!(scene.engine().count("db", What::StopAsked), 0);
}

#[test]
fn the_same_socket_under_two_names_is_one_engine() {
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| guest.engine.socket = PODMAN);
    symlink("/run/podman/podman.sock", inside(&scene, "run/docker.sock")).unwrap();
    let steps = plan(&scene)["stop_order"].to_string();
    assert_eq!(steps.matches("\"db\"").count(), 2, "its name and its service: {steps}");
}

#[test]
fn one_engine_at_two_sockets_has_each_container_once() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    fs::create_dir_all(inside(&scene, "run/user/1000")).unwrap();
    // Another inode, as with an engine that has two -H options.
    let relay = UnixListener::bind(inside(&scene, ROOTLESS_DOCKER)).unwrap();
    let engine = inside(&scene, "run/docker.sock");
    std::thread::spawn(move || {
        for client in relay.incoming().map_while(Result::ok) {
            let engine = std::os::unix::net::UnixStream::connect(&engine).unwrap();
            let (mut up, mut down) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
            let (mut client, mut engine) = (client, engine);
            std::thread::spawn(move || std::io::copy(&mut up, &mut engine));
            std::thread::spawn(move || std::io::copy(&mut down, &mut client));
        }
    });
    let steps = plan(&scene)["stop_order"].to_string();
    assert_eq!(steps.matches("\"db\"").count(), 2, "its name and its service: {steps}");
}

#[test]
fn one_engine_that_goes_away_keeps_no_other_from_being_brought_back() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let pod = another(&scene, PODMAN, "pod");
    let (socket, aside) = (inside(&scene, PODMAN), inside(&scene, "run/podman/aside"));
    scene.when(At::Ended("pre-stop"), move |_| fs::rename(&socket, &aside).unwrap());
    let (socket, aside) = (inside(&scene, PODMAN), inside(&scene, "run/podman/aside"));
    let db = scene.guest().clone();
    scene.when(At::Ended("job-end"), move |_| {
        let engine = db.engine.as_ref().unwrap();
        assert_eq!(status(engine, "db"), Status::Running, "it waits for another engine");
        fs::rename(&aside, &socket).unwrap();
    });
    let record = backup(&scene);
    assert_eq!(record["grade"], "crash-consistent", "{record:#}");
    wait_for("pod runs", || status(&pod, "pod") == Status::Running).unwrap();
}

#[test]
fn a_note_of_an_older_version_is_of_the_first_engine() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let _pod = another(&scene, PODMAN, "pod");
    let engine = scene.engine();
    let db = engine.containers().into_iter().find(|c| c.spec.name == "db").unwrap();
    assert!(engine.modify("db", |container| container.status = Status::Exited));
    let note = serde_json::json!({
        "schema": 1, "run": "1-2-3", "vmid": 9001, "time": "2026-11-21T23:22:56.000Z",
        "containers": [{
            "id": db.id, "name": "db", "project": "shop", "service": "db", "action": "stop",
            "after": [],
            "started_at": db.started_at.unwrap()
                .to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
        }],
    });
    fs::create_dir_all(inside(&scene, "var/lib/stillpoint")).unwrap();
    fs::write(inside(&scene, "var/lib/stillpoint/quiesced.json"), note.to_string()).unwrap();
    let settled = scene.stillpoint(&["settle", "9001"]);
    assert!(settled.status.success(), "{settled:?}");
    assert_eq!(status(engine, "db"), Status::Running);
}

#[test]
fn what_is_up_first_after_a_start_waits_for_no_other_engine() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let pod = another(&scene, PODMAN, "pod");
    let of = |engine: &Engine, name: &str, socket: &str| {
        let found = engine.containers().into_iter().find(|c| c.spec.name == name).unwrap();
        assert!(engine.modify(name, |container| container.status = Status::Exited));
        serde_json::json!({
            "id": found.id, "engine": socket, "name": name, "project": "x", "service": name,
            "action": "stop", "after": [],
            "started_at": found.started_at.unwrap()
                .to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
        })
    };
    let containers =
        [of(&pod, "pod", "/run/podman/podman.sock"), of(scene.engine(), "db", "/run/docker.sock")];
    let note = serde_json::json!({
        "schema": 1, "run": "1-2-3", "vmid": 9001, "time": "2026-11-21T23:22:56.000Z",
        "containers": containers,
    });
    fs::create_dir_all(inside(&scene, "var/lib/stillpoint")).unwrap();
    fs::write(inside(&scene, "var/lib/stillpoint/quiesced.json"), note.to_string()).unwrap();
    let aside = inside(&scene, "run/podman/aside");
    fs::rename(inside(&scene, PODMAN), &aside).unwrap();
    std::thread::scope(|scope| {
        let settling = scope.spawn(|| scene.stillpoint(&["settle", "9001"]));
        wait_for("db runs", || status(scene.engine(), "db") == Status::Running).unwrap();
        assert_eq!(status(&pod, "pod"), Status::Exited);
        fs::rename(&aside, inside(&scene, PODMAN)).unwrap();
        let settled = settling.join().unwrap();
        assert!(settled.status.success(), "{settled:?}");
    });
    assert_eq!(status(&pod, "pod"), Status::Running);
    let records = scene.node.journal().unwrap();
    let settled: Vec<&Value> = records.iter().filter(|r| r["kind"] == "settled").collect();
    assert_eq!(settled.len(), 1, "{records:#?}");
    let started = settled[0]["containers"].as_array().unwrap();
    assert!(started.iter().all(|container| container["start_ms"].is_u64()), "{settled:#?}");
}

/// Each question that it may leave open.
#[test]
fn an_engine_that_never_answers_leaves_the_others_their_time() {
    for hostile in [Hostile::Silent, Hostile::Trickle, Hostile::Secretive] {
        let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
        scene.settings("[quiesce]\nbudget = \"15s\"\n");
        let pod = another(&scene, PODMAN, "pod");
        pod.configure(|engine| engine.hostile = Some(hostile.clone()));
        let record = backup(&scene);
        assert_eq!(record["grade"], "crash-consistent", "{record:#}");
        assert!(record["reasons"].to_string().contains(PODMAN), "{hostile:?}: {record:#}");
        let engine = scene.engine();
        assert_eq!(engine.count("db", What::StopAsked), 1, "{hostile:?}: {record:#}");
        assert_eq!(status(engine, "db"), Status::Running, "{hostile:?}");
    }
}

#[test]
fn what_runs_without_a_known_socket_is_no_guest_without_an_engine() {
    for (processes, named) in [
        ("7 /usr/bin/dockerd -H unix:///srv/docker.sock", "/run/docker.sock"),
        ("7 /usr/bin/conmon --api-version 1", PODMAN),
        ("7 /usr/bin/containerd-shim-runc-v2 -namespace default -id a", "namespace default"),
        ("7 /opt/k3s/containerd-shim-runc-v2 -namespace k8s.io -id a", "namespace k8s.io"),
    ] {
        let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
        fs::remove_file(inside(&scene, "run/docker.sock")).unwrap();
        scene.node.write("guests/9001/processes", &format!("{processes}\n")).unwrap();
        let record = backup(&scene);
        assert_eq!(record["grade"], "crash-consistent", "{processes}: {record:#}");
        assert!(record["reasons"].to_string().contains(named), "{processes}: {record:#}");
        for arguments in [&["plan", "9001"][..], &["doctor"]] {
            let output = scene.stillpoint(arguments);
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains(named), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn containers_of_containerd_beside_docker_are_no_clean_backup() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let shim =
        |namespace: &str| format!("7 containerd-shim-runc-v2 -namespace {namespace} -id a\n");
    let own = shim("moby") + &shim("plugins.moby");
    scene.node.write("guests/9001/processes", &own).unwrap();
    assert_eq!(backup(&scene)["grade"], "clean", "Docker's own");
    scene.node.write("guests/9001/processes", &(own + &shim("default"))).unwrap();
    scene.play_with(Options { ..scene.options() });
    let record = scene.node.journal().unwrap().into_iter().rfind(|it| it["kind"] == "backup");
    let record = record.unwrap();
    assert_eq!(record["grade"], "crash-consistent", "{record:#}");
    assert_eq!(scene.engine().count("db", What::StopAsked), 2, "Docker's are at rest all the same");
}
