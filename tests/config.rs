//! `stillpoint config`: the settings in force, where each comes from, and the errors of a file.

use std::path::Path;

use directory::Directory;
use serde_json::Value;

mod directory;

fn setting<'a>(config: &'a Value, key: &str) -> &'a Value {
    let settings = config["settings"].as_array().unwrap();
    settings.iter().find(|setting| setting["key"] == key).unwrap_or(&Value::Null)
}

#[test]
fn each_setting_says_where_it_comes_from() {
    let node = Directory::new();
    node.write("etc/pve/stillpoint/config.toml", "[verify]\nwait = \"1min\"\nparallel = 2\n");
    node.write(
        "etc/stillpoint/config.toml",
        "# mine\n[verify]\nparallel = 3\n\n[guest.9001]\nverify.when = \"7d\"\n",
    );
    let output = node.stillpoint(&["config"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    assert!(line("wait = \"1min\"").ends_with("# /etc/pve/stillpoint/config.toml:2"), "{text}");
    assert!(line("parallel = 3").ends_with("# /etc/stillpoint/config.toml:3"), "{text}");
    assert!(line("hold-limit = \"5min\"").ends_with("# default"), "{text}");
    assert!(line("verify.when = \"7d\"").ends_with("# /etc/stillpoint/config.toml:6"), "{text}");
    assert!(text.contains("[guest.9001]") && text.contains("# ping-url is not set"), "{text}");

    let config = node.json(&["config", "--json"]);
    assert_eq!(config["schema"], 1);
    assert_eq!(config["files"][0]["used"], true);
    let parallel = setting(&config, "verify.parallel");
    assert_eq!(parallel["value"], 3);
    assert_eq!(parallel["file"], "/etc/stillpoint/config.toml");
    assert_eq!(parallel["line"], 3);
    let default = setting(&config, "quiesce.hold-limit");
    assert_eq!((&default["value"], &default["file"]), (&"5min".into(), &Value::Null));
    assert_eq!(setting(&config, "guest.9001.verify.when")["value"], "7d");
    assert_eq!(setting(&config, "report.ping-url")["value"], Value::Null);
}

#[test]
fn what_is_printed_is_a_settings_file_that_says_the_same() {
    let node = Directory::new();
    node.write(
        "etc/stillpoint/config.toml",
        "guest.9001.strategy = 'pause'\n[report]\nping-url = \"https://hc.example.org/ping/0b0b\"\n",
    );
    let first = node.json(&["config", "--json"]);
    node.write("etc/stillpoint/config.toml", &node.said(&["config"]).1);
    let second = node.json(&["config", "--json"]);
    let values = |config: &Value| -> Vec<(Value, Value)> {
        let settings = config["settings"].as_array().unwrap();
        settings.iter().map(|setting| (setting["key"].clone(), setting["value"].clone())).collect()
    };
    assert_eq!(values(&first), values(&second));
}

#[test]
fn a_broken_file_is_named_with_its_lines_and_the_other_one_counts() {
    let node = Directory::new();
    node.write("etc/pve/stillpoint/config.toml", "[verify]\nparallel = 2\n");
    node.write(
        "etc/stillpoint/config.toml",
        "[quiesce]\nhold-limt = \"5min\"\ntime-limit = \"60\"\n[verify]\nparallel = 4\n",
    );
    let output = node.stillpoint(&["config"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(
            "# Settings file NOT used: /etc/stillpoint/config.toml, line 2:\n#   there is no setting \
             quiesce.hold-limt, the nearest is quiesce.hold-limit\n"
        ),
        "{text}"
    );
    assert!(text.contains("line 3:\n#   quiesce.time-limit: '60' is not a duration"), "{text}");
    let config = node.json(&["config", "--json"]);
    assert_eq!(setting(&config, "verify.parallel")["value"], 2);
    assert_eq!(config["files"][1]["used"], false);
    assert_eq!(config["files"][1]["faults"][1]["line"], 3);
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let node = Directory::new();
    std::fs::create_dir_all(node.0.join("etc/stillpoint/config.toml")).unwrap();
    let output = node.stillpoint(&["config"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Settings file NOT used: /etc/stillpoint/config.toml"), "{text}");
}

#[test]
fn every_example_is_a_settings_file() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples");
    let mut seen = 0;
    for example in std::fs::read_dir(examples).unwrap() {
        let path = example.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let node = Directory::new();
        node.write("etc/stillpoint/config.toml", &std::fs::read_to_string(&path).unwrap());
        let output = node.stillpoint(&["config", "--json"]);
        let config: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), config["files"]);
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
}
