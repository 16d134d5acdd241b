//! The order and the time in which a stack's containers are started again.

use std::time::{Duration, Instant};

use serde_json::Value;
use stillpoint_sim::engine::What;
use stillpoint_sim::engine::container::{Restart, Spec, Status};
use stillpoint_sim::engine::network::Network;
use stillpoint_sim::vzdump::report::Report;

use crate::scene::{At, Scene, wait_for};

const ADDRESS: &str = "172.30.0.2";

fn scene(containers: impl Fn() -> Vec<Spec>) -> Scene {
    Scene::new("lxc-snapshot-1vol", &|guest| guest.containers = containers())
}

/// Sets how long started containers are watched.
fn looked_at_for(scene: &Scene, ms: u32) {
    scene.node.write("failpoint-stays-up", &ms.to_string()).unwrap();
}

fn status(scene: &Scene, name: &str) -> Status {
    let containers = scene.engine().containers();
    containers.iter().find(|container| container.spec.name == name).unwrap().status
}

fn running(scene: &Scene) -> Vec<String> {
    let containers = scene.engine().containers().into_iter();
    let running = containers.filter(|container| container.status == Status::Running);
    running.map(|container| container.spec.name).collect()
}

/// When that first happened to that container.
fn first(scene: &Scene, name: &str, what: What) -> Instant {
    let events = scene.engine().events();
    let found = events.iter().find(|event| event.name == name && event.what == what);
    found.unwrap_or_else(|| panic!("{name}: {what:?} in {events:#?}")).at
}

fn record(scene: &Scene, kind: &str) -> Value {
    let records = scene.node.journal().unwrap();
    records.into_iter().rfind(|record| record["kind"] == kind).unwrap()
}

fn fate(record: &Value, name: &str) -> String {
    let containers = record["containers"].as_array().unwrap();
    let found = containers.iter().find(|container| container["name"] == name).unwrap();
    found["fate"].as_str().unwrap().to_string()
}

fn mail(scene: &Scene) -> String {
    std::fs::read_to_string(scene.node.path("mail")).unwrap_or_default()
}

/// The hook's output.
fn said(report: &Report) -> String {
    report.calls.iter().flat_map(|call| &call.said).map(String::as_str).collect()
}

fn app(number: usize) -> Spec {
    Spec::service("apps", &format!("app{number}")).network(Network::any("edge"))
}

fn proxy() -> Spec {
    Spec::service("edge", "proxy").network(Network::fixed("edge", ADDRESS))
}

#[test]
fn a_fixed_address_is_free_when_its_owner_is_started() {
    let scene = scene(|| {
        let mut containers: Vec<Spec> = (0..5).map(app).collect();
        containers.push(proxy());
        containers
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene).len(), 6);
    assert_eq!(scene.engine().count("proxy", What::StartAsked), 1, "at the first try");
}

#[test]
fn a_fixed_address_comes_before_what_its_owner_depends_on() {
    let scene = scene(|| {
        let of = |name| Spec::service("shop", name).network(Network::any("edge"));
        let proxy = Spec::service("shop", "proxy").network(Network::fixed("edge", ADDRESS));
        let proxy = proxy.depends_on("web:service_healthy:false").restart(Restart::No);
        let web = of("web").depends_on("db:service_started:false");
        vec![proxy, web.healthy(Duration::from_millis(300), Duration::ZERO), of("db")]
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene).len(), 3);
    assert!(first(&scene, "proxy", What::Started) < first(&scene, "db", What::Started));
    assert!(first(&scene, "db", What::Started) < first(&scene, "web", What::Started));
}

#[test]
fn a_fixed_port_comes_before_a_range_that_holds_it() {
    let scene = scene(|| {
        let with = |name, ports| Spec { ports: vec![ports], ..Spec::service("shop", name) };
        vec![with("any", (8000, 8010)), with("web", (8000, 8000))]
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene).len(), 2);
    assert_eq!(scene.engine().count("web", What::StartAsked), 1, "at the first try");
}

/// Its engine does not show which address the proxy needs, and the app is started before it.
#[test]
fn an_address_that_was_taken_is_freed() {
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| {
        guest.engine.hides_addresses = true;
        let of = |name, network| Spec::service("shop", name).network(network);
        let proxy = of("proxy", Network::fixed("edge", ADDRESS));
        let app = of("app", Network::any("edge"));
        guest.containers = vec![app, proxy.depends_on("app:service_started:false")];
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene).len(), 2, "{:#?}", scene.engine().events());
    let count = |name, what| scene.engine().count(name, what);
    assert_eq!((count("app", What::StopAsked), count("proxy", What::StartAsked)), (2, 2));
    assert_eq!(fate(&record(&scene, "backup"), "app"), "back");
}

#[test]
fn an_address_is_freed_whoever_has_started_the_container_that_has_it() {
    let scene = scene(|| vec![proxy(), app(0)]);
    scene.when(At::Called("post-restart"), |guest| {
        assert!(guest.engine.as_ref().unwrap().start("app0"));
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene).len(), 2, "{:#?}", scene.engine().events());
    assert_eq!(scene.engine().count("app0", What::StopAsked), 2);
}

/// Each has a fixed address in one network and a free one in the other's: no order is right for
/// both.
#[test]
fn nobody_with_an_address_of_its_own_is_stopped_for_another() {
    let scene = scene(|| {
        let of = |name, own: &str, other: &str| Spec {
            networks: vec![Network::fixed(own, ADDRESS), Network::any(other)],
            ..Spec::service("shop", name)
        };
        vec![of("one", "a", "b"), of("two", "b", "a")]
    });
    scene.when(At::Ended("job-end"), |guest| {
        let engine = guest.engine.as_ref().unwrap();
        let up = engine.containers().into_iter().find(|c| c.status == Status::Running).unwrap();
        assert_eq!(engine.count(&up.spec.name, What::StopAsked), 1);
        engine.remove(&up.spec.name);
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene).len(), 1, "the other has its address again");
}

#[test]
fn an_address_that_a_stranger_has_is_named_and_the_stranger_left_alone() {
    let scene = scene(|| vec![proxy(), app(0)]);
    scene.when(At::Called("post-restart"), |guest| {
        let engine = guest.engine.as_ref().unwrap();
        let stranger = Spec::service("other", "stranger").network(Network::any("edge"));
        engine.add(stranger);
    });
    let stranger = |what| scene.engine().count("stranger", what);
    scene.when(At::Ended("job-end"), |guest| {
        let engine = guest.engine.as_ref().unwrap();
        let refused = engine.count("proxy", What::StartAsked);
        assert!(refused > 0);
        engine.remove("stranger");
    });
    let report = scene.play(Vec::new());
    assert_eq!((stranger(What::StopAsked), stranger(What::Removed)), (0, 1));
    let text = said(&report);
    assert!(text.contains("stranger has it"), "{text}");
    wait_for("proxy runs", || status(&scene, "proxy") == Status::Running).unwrap();
}

/// A database that needs a moment, an app that gives up without it, and a web server that its
/// engine restarts.
fn waits_for_health() -> Vec<Spec> {
    let db = Spec::service("shop", "db");
    let app = Spec::service("shop", "app").depends_on("db:service_healthy:false");
    let web = Spec::service("shop", "web").depends_on("db:service_healthy:false");
    vec![
        db.healthy(Duration::from_millis(1500), Duration::from_secs(30)),
        app.restart(Restart::No).ends(Duration::from_millis(200), 1, Some("db")),
        web,
    ]
}

#[test]
fn what_its_engine_would_not_start_again_waits_until_its_database_is_healthy() {
    let scene = scene(waits_for_health);
    scene.play(Vec::new());
    wait_for("app runs", || status(&scene, "app") == Status::Running).unwrap();
    let engine = scene.engine();
    assert_eq!(engine.count("app", What::Started), 1);
    assert_eq!(engine.count("app", What::Stopped(1)), 1, "it was stopped, and has not given up");
    assert!(engine.commands("db").iter().any(|command| command == "check-health"));
    assert!(first(&scene, "web", What::Started) < first(&scene, "app", What::Started));
}

#[test]
fn a_long_wait_is_left_to_the_guard() {
    let scene = scene(|| {
        let mut containers = waits_for_health();
        containers[0].healthy_after = Some(Duration::from_secs(8));
        containers
    });
    let report = scene.play(Vec::new());
    let text = said(&report);
    assert!(text.contains("it waits for db to be healthy"), "{text}");
    assert_eq!(fate(&record(&scene, "backup"), "app"), "open");
    assert_eq!(fate(&record(&scene, "recovered"), "app"), "back");
    assert_eq!(scene.engine().count("app", What::Started), 1);
    assert_eq!(mail(&scene), "", "vzdump has not died");
}

#[test]
fn a_database_that_was_never_healthy_is_not_waited_for() {
    let scene = scene(|| {
        let mut containers = waits_for_health();
        containers[1].ends = None;
        containers[0].healthy_after = Some(Duration::from_secs(3600));
        containers[0].unhealthy = true;
        containers
    });
    let report = scene.play(Vec::new());
    let text = said(&report);
    assert!(!text.contains("it waits for db"), "{text}");
    assert_eq!(fate(&record(&scene, "backup"), "app"), "back");
}

#[test]
fn what_gives_up_after_the_backup_is_started_again() {
    let scene = scene(|| {
        let mut containers = waits_for_health();
        // It is unknown what it waits for.
        containers[1] = containers[1].clone().depends_on("");
        containers
    });
    looked_at_for(&scene, 4000);
    scene.play(Vec::new());
    wait_for("nobody looks any more", || scene.node.runs_left().unwrap().is_empty()).unwrap();
    assert_eq!(status(&scene, "app"), Status::Running);
    assert!(scene.engine().count("app", What::Started) > 1);
    assert_eq!(mail(&scene), "");
}

#[test]
fn what_ends_without_an_error_has_finished() {
    let scene = scene(|| {
        let job = Spec::service("shop", "job").restart(Restart::No);
        vec![job.ends(Duration::from_millis(300), 0, None)]
    });
    let engine = scene.engine();
    looked_at_for(&scene, 4000);
    scene.when(At::Ended("post-restart"), |guest| {
        let engine = guest.engine.as_ref().unwrap();
        let ended = || engine.containers()[0].status == Status::Exited;
        wait_for("it ends", ended).unwrap();
    });
    scene.play(Vec::new());
    assert_eq!(engine.count("job", What::Started), 1);
    let seen = ["backup", "recovered"].map(|kind| {
        let records = scene.node.journal().unwrap();
        records.iter().rfind(|record| record["kind"] == kind).map(|record| fate(record, "job"))
    });
    assert_eq!(seen[0].as_deref(), Some("finished"), "{seen:?}");
    assert_eq!(mail(&scene), "");
    let status = scene.stillpoint(&["status", "--check"]);
    assert!(status.status.success(), "{status:?}");
}

#[test]
fn neither_a_one_off_nor_a_stopped_replica_takes_the_place_of_what_was_removed() {
    let scene = scene(|| {
        let web = |name: &str, status| {
            let mut web = Spec::service("shop", "web").status(status);
            web.name = name.to_owned();
            web
        };
        let one_off = web("shop-web-run-1", Status::Exited);
        vec![
            web("shop-web-1", Status::Running),
            web("shop-web-2", Status::Exited),
            one_off.label("com.docker.compose.oneoff", "True"),
            Spec::service("shop", "db"),
        ]
    });
    scene.when(At::Ended("pre-stop"), |guest| {
        guest.engine.as_ref().unwrap().remove("shop-web-1");
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene), ["db"]);
    assert_eq!(fate(&record(&scene, "backup"), "shop-web-1"), "gone");
}

#[test]
fn what_was_made_anew_takes_the_place_of_what_was_removed() {
    let scene = scene(|| vec![Spec::service("shop", "web"), Spec::service("shop", "db")]);
    scene.when(At::Ended("pre-stop"), |guest| {
        assert!(guest.engine.as_ref().unwrap().recreate("web", false));
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene).len(), 2);
}

#[test]
fn what_belongs_to_no_stack_and_was_made_anew_is_known_by_its_name() {
    let scene = scene(|| {
        let mut plain = Spec::service("", "agent");
        plain.labels.clear();
        vec![plain, Spec::service("shop", "db")]
    });
    scene.when(At::Ended("pre-stop"), |guest| {
        assert!(guest.engine.as_ref().unwrap().recreate("agent", false));
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene).len(), 2);
    assert_eq!(fate(&record(&scene, "backup"), "agent"), "back");
}

#[test]
fn a_one_off_is_paused_and_never_begun_anew() {
    let scene = scene(|| {
        let import = Spec::service("shop", "import").restart(Restart::No);
        vec![import.label("com.docker.compose.oneoff", "True"), Spec::service("shop", "db")]
    });
    scene.play(Vec::new());
    let count = |what| scene.engine().count("import", what);
    assert_eq!((count(What::Paused), count(What::Unpaused)), (1, 1));
    assert_eq!((count(What::StopAsked), count(What::StartAsked)), (0, 0));
    assert_eq!(record(&scene, "backup")["grade"], "mixed");
}

#[test]
fn who_is_in_the_network_of_one_that_is_gone_is_not_stopped() {
    let scene = scene(|| {
        let gone = "3b1f0c2d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcdef";
        vec![Spec::service("media", "torrent").in_network_of(gone), Spec::service("media", "db")]
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene).len(), 2);
    assert_eq!(scene.engine().count("torrent", What::StopAsked), 0);
    let record = record(&scene, "backup");
    assert_eq!(
        (record["grade"].as_str(), scene.engine().count("torrent", What::Paused)),
        (Some("mixed"), 1)
    );
    assert!(record["notes"].to_string().contains("torrent cannot start again"), "{record:#}");
}

#[test]
fn the_owner_of_a_network_stops_last_and_starts_first() {
    let scene = scene(|| {
        vec![Spec::service("media", "torrent").in_network_of("vpn"), Spec::service("media", "vpn")]
    });
    scene.play(Vec::new());
    assert_eq!(running(&scene).len(), 2);
    let stopped = |name| first(&scene, name, What::StopAsked);
    assert!(stopped("torrent") < stopped("vpn"));
    assert!(first(&scene, "vpn", What::Started) < first(&scene, "torrent", What::Started));
}
