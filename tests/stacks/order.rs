//! The order of a stack whose labels give no dependencies.

use serde_json::Value;
use stillpoint_sim::engine::Event;
use stillpoint_sim::engine::What;
use stillpoint_sim::engine::container::{DEPENDS_ON, Spec};

use crate::scene::Scene;

/// As compose v1 makes it: without a label for its dependencies.
fn v1(service: &str, image: &str) -> Spec {
    let mut spec = Spec::service("shop", service).label("com.docker.compose.version", "1.29.2");
    spec.labels.remove(DEPENDS_ON);
    spec.image = image.to_string();
    spec
}

fn scene() -> Scene {
    Scene::new("lxc-snapshot-1vol", &|guest| {
        // The databases come first in the list and would stop fastest.
        guest.containers = vec![
            v1("store", "postgres:16").takes(1, 1),
            v1("cache", "mcr.microsoft.com/mssql/server:2022-latest").takes(1, 1),
            v1("web", "nginx").takes(200, 1),
            v1("worker", "shop/worker").takes(200, 1),
        ];
    })
}

fn waves(plan: &Value) -> Vec<Vec<&str>> {
    let waves = plan["stop_order"].as_array().unwrap().iter();
    waves
        .map(|wave| {
            wave.as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect()
        })
        .collect()
}

#[test]
fn plan_says_that_the_order_is_unknown() {
    let scene = scene();
    let output = scene.stillpoint(&["plan", "9001", "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(waves(&plan), [vec!["worker", "web"], vec!["cache", "store"]]);
    let text = String::from_utf8(scene.stillpoint(&["plan", "9001"]).stdout).unwrap();
    assert!(text.contains("order unknown: stack shop"), "{text}");
    assert!(text.contains("databases (cache, store)"), "{text}");
}

#[test]
fn databases_stop_last_and_start_first() {
    let scene = scene();
    scene.play(Vec::new());
    let events = scene.engine().events();
    let at = |name: &str, is: fn(&Event) -> bool| {
        events.iter().position(|event| event.name == name && is(event)).unwrap()
    };
    for database in ["store", "cache"] {
        for other in ["web", "worker"] {
            let stopped = at(other, |event| matches!(event.what, What::Stopped(_)));
            assert!(stopped < at(database, |event| event.what == What::StopAsked), "{database}");
            let started = at(database, |event| event.what == What::Started);
            assert!(started < at(other, |event| event.what == What::StartAsked), "{database}");
        }
    }
}

#[test]
fn a_stack_that_says_its_order_is_left_as_it_says() {
    let scene = Scene::new("lxc-snapshot-1vol", &|_| {});
    let text = String::from_utf8(scene.stillpoint(&["plan", "9001"]).stdout).unwrap();
    assert!(!text.contains("order unknown"), "{text}");
}

#[test]
fn one_service_alone_needs_no_order() {
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| {
        guest.containers = vec![v1("store", "postgres:16")];
    });
    let text = String::from_utf8(scene.stillpoint(&["plan", "9001"]).stdout).unwrap();
    assert!(!text.contains("order unknown"), "{text}");
}
