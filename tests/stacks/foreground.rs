//! A stack with a compose client in the foreground is paused: once all of its containers have
//! stopped, it may be removed.

use serde_json::Value;
use stillpoint_sim::engine::What;
use stillpoint_sim::engine::container::Spec;

use crate::scene::{Scene, VMID};

const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
const CONFIG_FILES: &str = "com.docker.compose.project.config_files";

/// The shop, and another stack with or without a client in the foreground.
fn scene(processes: &str, label: Option<&str>) -> Scene {
    let scene = Scene::new("lxc-snapshot-1vol", &|guest| {
        for service in ["core", "store"] {
            let spec = Spec::service("harbor", service)
                .label(WORKING_DIR, "/opt/harbor")
                .label(CONFIG_FILES, "/opt/harbor/compose.yaml");
            guest.containers.push(match label {
                Some(label) => spec.label("stillpoint.quiesce", label),
                None => spec,
            });
        }
        for spec in guest.containers.iter_mut().take(4) {
            if spec.labels.get("com.docker.compose.project").is_some_and(|name| name == "shop") {
                spec.labels.insert(WORKING_DIR.to_string(), "/srv/shop".to_string());
            }
        }
    });
    scene.node.write(&format!("guests/{VMID}/processes"), processes).unwrap();
    scene
}

fn backup(scene: &Scene) -> Value {
    scene.play(Vec::new());
    let records = scene.node.journal().unwrap();
    records.into_iter().find(|record| record["kind"] == "backup").unwrap()
}

fn stopped_or_paused(scene: &Scene, name: &str) -> (usize, usize) {
    (scene.engine().count(name, What::StopAsked), scene.engine().count(name, What::Paused))
}

#[test]
fn a_stack_whose_client_stays_with_it_is_paused() {
    let scene = scene("41 sshd\n42 docker compose -f /opt/harbor/compose.yaml up\n", None);
    let plan = String::from_utf8(scene.stillpoint(&["plan", "9001"]).stdout).unwrap();
    assert!(plan.contains("stack harbor is paused, not stopped"), "{plan}");
    let record = backup(&scene);
    assert_eq!(record["grade"], "mixed", "{record:#}");
    for name in ["core", "store"] {
        assert_eq!(stopped_or_paused(&scene, name), (0, 1), "{name}");
    }
    assert_eq!(stopped_or_paused(&scene, "db"), (1, 0));
    assert!(record["notes"].to_string().contains("stack harbor is paused"), "{record:#}");
}

#[test]
fn a_client_is_known_however_it_was_begun() {
    for command in [
        "/usr/bin/python3 -u /usr/bin/docker-compose -f /opt/harbor/compose.yaml up",
        "python3 -m compose -p harbor up",
        "podman compose -p harbor up",
    ] {
        let scene = scene(&format!("42 {command}\n"), None);
        backup(&scene);
        assert_eq!(stopped_or_paused(&scene, "core"), (0, 1), "{command}");
        assert_eq!(stopped_or_paused(&scene, "db"), (1, 0), "{command}");
    }
}

#[test]
fn a_label_that_asks_for_a_stop_does_not_have_the_stack_removed() {
    let scene = scene("42 docker-compose -p harbor up\n", Some("stop"));
    let record = backup(&scene);
    assert_eq!(stopped_or_paused(&scene, "core"), (0, 1));
    let notes = record["notes"].to_string();
    assert!(notes.contains("stillpoint.quiesce=stop is not followed"), "{notes}");
}

#[test]
fn a_label_that_leaves_a_container_running_is_followed() {
    let scene = scene("42 docker compose -p harbor up\n", Some("none"));
    backup(&scene);
    assert_eq!(stopped_or_paused(&scene, "core"), (0, 0));
}

#[test]
fn a_client_that_does_not_stay_changes_nothing() {
    let scene = scene("42 docker compose -p harbor up -d\n43 docker compose logs -f\n", None);
    let record = backup(&scene);
    assert_eq!(record["grade"], "clean", "{record:#}");
    assert_eq!(stopped_or_paused(&scene, "core"), (1, 0));
}

#[test]
fn a_client_that_may_stay_with_any_stack_has_all_of_them_paused() {
    let scene = scene("42 docker compose up\n", None);
    let record = backup(&scene);
    assert_eq!(record["grade"], "paused", "{record:#}");
    for name in ["core", "store", "db", "web"] {
        assert_eq!(stopped_or_paused(&scene, name), (0, 1), "{name}");
    }
}
