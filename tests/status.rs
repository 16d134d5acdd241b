//! `stillpoint status`: the state of each guest, for people and for monitoring.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use directory::Directory;
use serde_json::{Value, json};
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::pbs::SnapshotId;
use stillpoint_sim::tls::{Identity, Versions};
use stillpoint_sim::vzdump::replay::{Happening, Options, replay};
use stillpoint_sim::vzdump::report::Report;
use stillpoint_sim::vzdump::stage::stage;
use stillpoint_sim::vzdump::trace::Scenario;

mod directory;

const HOUR: i64 = 3600;

/// A node with a guest without problems, and one that was never backed up.
fn node() -> Directory {
    let node = Directory::new();
    node.write(
        "etc/pve/lxc/9001.conf",
        "hostname: prod-docker\nhookscript: local:snippets/stillpoint\n",
    );
    node.write("etc/pve/lxc/101.conf", "hostname: gateway\n");
    node.backup(9001, 3 * HOUR, "a", json!({}));
    node.verify(9001, 2 * HOUR + HOUR / 2, "a", "ok", None);
    node
}

fn guest(status: &Value, vmid: u32) -> &Value {
    let guests = status["guests"].as_array().unwrap();
    guests.iter().find(|guest| guest["vmid"] == vmid).unwrap_or(&Value::Null)
}

/// Checks that an object has exactly these fields, in any order.
fn assert_fields(value: &Value, names: &str) {
    let mut names: Vec<&str> = names.split_whitespace().collect();
    names.sort_unstable();
    let found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, names);
}

#[test]
fn a_guest_has_a_line_with_all_that_counts() {
    let (status, text) = node().said(&["status"]);
    assert_eq!(status, 0);
    let lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0].join(" "), "VMID NAME AGE GRADE MODE DOWN VERIFY ON START");
    assert_eq!(lines[1].join(" "), "101 gateway never - - - - -");
    assert_eq!(lines[2].join(" "), "9001 prod-docker 3 h clean snapshot 0.76 s ok 2 h hookscript");
    assert_eq!(lines.len(), 3, "{text}");
}

#[test]
fn everything_fits_80_columns_and_has_no_colours_in_a_pipe() {
    let node = node();
    let long = "a-guest-with-quite-a-long-name-for-a-host";
    node.write("etc/pve/lxc/9002.conf", &format!("hostname: {long}\n"));
    let different = json!({
        "mode_used": "suspend", "grade": "crash-consistent", "downtime_ms": 61_230,
        "reasons": ["shop-db-1 was not stopped within its time, and neither was shop-cache-1"],
    });
    node.backup(9002, 30 * HOUR, "b", different);
    node.verify(9002, 29 * HOUR, "b", "unreachable", Some("cannot connect to 192.0.2.10:8007"));
    let (_, text) = node.said(&["status"]);
    assert!(!text.contains('\u{1b}'), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(text.contains("crash  "), "{text}");
    assert!(text.contains("suspend*") && text.contains("* made in another mode"), "{text}");
    assert!(text.contains("9002 a-guest-with-quite-a-long-name"), "{text}");
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("the backup is crash-consistent: shop-db-1 was not stopped"), "{flat}");
    assert!(text.lines().any(|line| line.starts_with("warning   9002 ")), "{text}");
}

#[test]
fn the_json_has_the_shape_that_is_documented() {
    let status = node().json(&["status", "--json"]);
    assert_fields(&status, "schema time node level problems guests now");
    assert_eq!((&status["schema"], &status["level"]), (&json!(1), &json!("ok")));
    let well = guest(&status, 9001);
    assert_fields(
        well,
        "vmid name type level problems backup last_success verify last_verified on_start not_back \
         settled start_refused",
    );
    assert_fields(
        &well["backup"],
        "time age_s outcome error grade reasons mode_asked mode_used downtime_ms not_back storage \
         target",
    );
    assert_fields(&well["last_success"], "time age_s");
    assert_fields(&well["verify"], "state time age_s reason");
    assert_eq!((&well["type"], &well["on_start"]), (&json!("lxc"), &json!("hookscript")));
    assert_eq!(
        (&well["backup"]["grade"], &well["verify"]["state"]),
        (&json!("clean"), &json!("ok"))
    );
    let age = well["last_success"]["age_s"].as_i64().unwrap();
    assert!((3 * HOUR..4 * HOUR).contains(&age), "{age}");
    assert_eq!(guest(&status, 101)["backup"], Value::Null);
}

/// Every field in the documentation's table of the JSON exists, and no other.
#[test]
fn the_documentation_names_every_field_of_the_json() {
    let node = node();
    node.backup(9001, HOUR, "b", json!({}));
    let status = node.json(&["status", "--json"]);
    let page = include_str!("../packaging/doc/monitoring.md");
    fn names(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    found.push(name.clone());
                    names(inner, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    names(&status, &mut found);
    assert!(status["now"][0]["what"] == "verify", "{status}");
    for name in found {
        assert!(page.contains(&format!("`{name}`")), "{name} is not in monitoring.md");
    }
}

#[test]
fn metrics_that_cannot_be_written_are_a_problem_of_the_node() {
    let node = node();
    let path = "etc/stillpoint/config.toml";
    node.write(path, "[report]\ntextfile-directory = \"/nowhere\"\n");
    let problems = node.json(&["status", "--json"])["problems"].to_string();
    assert!(problems.contains("the metrics cannot be written to /nowhere"), "{problems}");
    node.write(path, "[report]\ntextfile-directory = \"/etc\"\n");
    assert_eq!(node.json(&["status", "--json"])["problems"], json!([]));
}

/// `script` provides the terminal.
#[test]
fn what_a_guest_has_named_does_nothing_to_a_terminal_as_json_either() {
    let node = node();
    node.backup(9001, HOUR, "b", json!({ "notes": ["\u{9b}2J\u{202e}"] }));
    let journal = format!("{} journal --json", env!("CARGO_BIN_EXE_stillpoint"));
    let mut script = std::process::Command::new("/usr/bin/script");
    script.args(["-qec", &journal, "/dev/null"]).env("STILLPOINT_ROOT", &node.0);
    let shown = script.stdin(std::process::Stdio::null()).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("\\u009b2J\\u202e") && !shown.contains('\u{9b}'), "{shown}");
    let mut piped = std::process::Command::new(env!("CARGO_BIN_EXE_stillpoint"));
    let piped = piped.args(["journal", "--json"]).env("STILLPOINT_ROOT", &node.0).output().unwrap();
    assert!(String::from_utf8(piped.stdout).unwrap().contains('\u{9b}'));
}

#[test]
fn who_looks_after_a_start_is_told() {
    let node = node();
    let on_start = |vmid| {
        let status = node.json(&["status", "--json"]);
        guest(&status, vmid)["on_start"].as_str().unwrap().to_string()
    };
    assert_eq!((on_start(9001).as_str(), on_start(101).as_str()), ("hookscript", "none"));
    let drop_in = "[Service]\nExecStartPre=-/usr/libexec/stillpoint/guest-hook %i pre-start unit\n";
    node.write("etc/systemd/system/pve-container@.service.d/stillpoint.conf", drop_in);
    node.write("etc/pve/qemu-server/200.conf", "name: vm\n");
    assert_eq!((on_start(9001).as_str(), on_start(101).as_str()), ("hookscript", "node"));
    assert_eq!(on_start(200), "none", "a VM");
    node.write("etc/pve/lxc/101.conf", "hookscript: local:snippets/of-somebody-else\n");
    assert_eq!(on_start(101), "node");
}

#[test]
fn a_check_speaks_as_nagios_plugins_do() {
    let node = node();
    let (code, line) = node.said(&["status", "--check"]);
    assert_eq!(code, 0, "{line}");
    assert!(line.starts_with("OK - 2 guests, the oldest last backup is 3 h old"), "{line}");
    assert_eq!(line.lines().count(), 1);
    let (text, data) = line.trim_end().split_once(" | ").unwrap();
    assert!(text.ends_with("1 never backed up"), "{text}");
    for pair in data.split(' ') {
        let (label, value) = pair.split_once('=').unwrap();
        assert!(!label.is_empty() && value.starts_with(|digit: char| digit.is_ascii_digit()));
    }
    assert!(data.contains("guests=2 warning=0 critical=0"), "{data}");
    let oldest = data.split_once("oldest=").unwrap().1.split_once("s;691200;1382400;0").unwrap().0;
    assert!((3 * HOUR..4 * HOUR).contains(&oldest.parse().unwrap()), "{data}");

    assert_eq!(node.said(&["status", "--check", "--max-age", "2h"]).0, 1);
    assert_eq!(node.said(&["status", "--check", "--max-age", "1h"]).0, 2);
    assert_eq!(node.said(&["status", "--check", "--max-age", "1"]).0, 2, "no duration");

    node.verify(9001, HOUR, "a", "skipped", Some("a backup | is being written"));
    let (code, line) = node.said(&["status", "--check"]);
    assert_eq!(code, 1);
    assert!(line.starts_with("WARNING - 2 guests, 1 of them has a problem: 9001"), "{line}");
    assert_eq!(line.matches('|').count(), 1, "{line}");

    let error = json!({ "outcome": "failed", "error": "no space left", "grade": null });
    node.backup(9001, HOUR, "b", error);
    let (code, line) = node.said(&["status", "--check"]);
    assert_eq!(code, 2);
    assert!(line.starts_with("CRITICAL - ") && line.contains("no space left"), "{line}");
}

#[test]
fn a_check_that_cannot_tell_is_unknown() {
    let node = Directory::new();
    node.write("etc/pve/lxc", "no directory");
    let (code, line) = node.said(&["status", "--check"]);
    assert_eq!(code, 3);
    assert!(line.starts_with("UNKNOWN - "), "{line}");
    let (code, line) = node.said(&["status", "--checkmk"]);
    assert_eq!(code, 0);
    assert!(line.starts_with("3 Stillpoint - "), "{line}");
    assert_eq!(node.said(&["status"]).0, 1);
}

#[test]
fn a_guest_that_is_not_there_is_not_called_stopped() {
    let node = node();
    for (vmid, why) in [("9999", "there is no guest 9999"), ("101", "guest 101 is not running")] {
        let output = node.stillpoint(&["plan", vmid]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn checkmk_has_a_service_for_the_node_and_one_for_each_guest() {
    let node = node();
    node.verify(9001, HOUR, "a", "failed", Some("the server says: verification failed"));
    let (code, text) = node.said(&["status", "--checkmk"]);
    assert_eq!(code, 0);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("0 Stillpoint guests=2 "), "{text}");
    assert!(
        lines[1].starts_with("0 Stillpoint_guest_101 - 101 gateway: never backed up"),
        "{text}"
    );
    assert!(lines[2].starts_with("2 Stillpoint_guest_9001 age="), "{text}");
    assert!(lines[2].contains(";691200;1382400|downtime=0.76 9001 prod-docker: "), "{text}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn damage_in_the_journal_and_what_a_later_version_wrote_are_told_and_no_more() {
    let node = node();
    node.journal(HOUR, "of-another-day", json!({ "vmid": 9001 }));
    let journal = node.read("var/lib/stillpoint/journal.jsonl");
    node.write("var/lib/stillpoint/journal.jsonl.1", "{\"kind\":\"backup\",\"vm\n");
    node.write("var/lib/stillpoint/journal.jsonl", &journal);
    let (_, text) = node.said(&["status"]);
    assert!(text.contains("clean"), "{text}");
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("the journal has 1 line that cannot be read, the first: "), "{flat}");
    assert!(flat.contains("journal.jsonl.1, line 1"), "{flat}");
    assert!(flat.contains("1 record that this version does not understand"), "{flat}");
    assert_eq!(node.said(&["status", "--check"]).0, 1);
}

#[test]
fn the_last_of_each_guest_is_found_across_the_rotation() {
    let node = node();
    let journal = node.read("var/lib/stillpoint/journal.jsonl");
    node.write("var/lib/stillpoint/journal.jsonl.1", &journal);
    fs::remove_file(node.0.join("var/lib/stillpoint/journal.jsonl")).unwrap();
    node.write("etc/pve/lxc/9002.conf", "hostname: other\n");
    node.backup(9002, HOUR, "b", json!({ "grade": "paused" }));
    let status = node.json(&["status", "--json"]);
    assert_eq!(guest(&status, 9001)["backup"]["grade"], "clean");
    assert_eq!(guest(&status, 9002)["backup"]["grade"], "paused");
}

#[test]
fn a_broken_settings_file_is_a_warning() {
    let node = node();
    node.write("etc/stillpoint/config.toml", "[quiesce]\nhold-limt = \"5min\"\n");
    let (code, line) = node.said(&["status", "--check"]);
    assert_eq!(code, 1);
    assert!(line.contains("/etc/stillpoint/config.toml is not used"), "{line}");
}

#[test]
fn a_run_that_nobody_ends_is_critical_and_says_the_way_out() {
    let node = node();
    node.write("var/lib/stillpoint/runs/9001.json", "{ cut off");
    let status = node.json(&["status", "--json"]);
    assert_eq!(status["now"][0]["what"], "left-over");
    assert_eq!(guest(&status, 9001)["level"], "critical");
    let seed = include_str!("fuzz/seeds/run/stack.json");
    let mut run: Value = serde_json::from_str(seed).unwrap();
    run["vmid"] = json!(9001);
    node.write("var/lib/stillpoint/runs/9001.json", &run.to_string());
    let status = node.json(&["status", "--json"]);
    let now = status["now"][0]["message"].as_str().unwrap();
    assert!(now.contains("was interrupted") && now.contains("`stillpoint recover`"), "{now}");
    assert_eq!(node.said(&["status", "--check"]).0, 2);
    let mut over = run.clone();
    over["journalled"] = json!(true);
    node.write("var/lib/stillpoint/runs/9001.json", &over.to_string());
    let status = node.json(&["status", "--json"]);
    let now = status["now"][0]["message"].as_str().unwrap();
    assert!(now.contains("is over, and") && !now.contains("interrupted"), "{now}");
    node.write("var/lib/stillpoint/runs/9001.json", &run.to_string());
    // The command that it names does help.
    assert_eq!(node.said(&["recover"]).0, 0);
    assert_eq!(node.json(&["status", "--json"])["now"], json!([]));
}

/// Becomes the worker of a task, which ends with its input. `$0` is the kind and the VMID; a start
/// time is field 22 of a process's `stat`, which is the 20th after its name.
const WORKER: &str = r#"stat=$(</proc/$$/stat); set -- ${stat##*) }
exec -a "$(printf 'task UPID:sim:%08X:%08X:6B02265C:%s:root@pam:' $$ "${20}" "$0")" cat"#;

fn worker(kind: &str, vmid: u32) -> std::process::Child {
    let mut worker = Command::new("bash");
    worker.args(["-c", WORKER, &format!("{kind}:{vmid}")]);
    worker.stdin(Stdio::piped()).stdout(Stdio::null());
    let worker = worker.spawn().unwrap();
    let title = format!("/proc/{}/cmdline", worker.id());
    while !fs::read_to_string(&title).unwrap().starts_with("task UPID:") {
        thread::sleep(Duration::from_millis(5));
    }
    worker
}

#[test]
fn a_lock_that_nobody_works_under_is_a_warning_with_the_command() {
    let node = node();
    let path = "etc/pve/lxc/9001.conf";
    let config = node.read(path);
    for lock in ["backup", "snapshot", "snapshot-delete"] {
        node.write(path, &format!("lock: {lock}\n{config}"));
        let (code, said) = node.said(&["status", "--check"]);
        let words = format!(
            "it is locked ({lock}) and no backup is under way, so the next one fails: \
             pct unlock 9001"
        );
        assert!(code == 1 && said.contains(&words), "{code}: {said}");
    }
    // The task that works under the lock removes it.
    for kind in ["vzsnapshot", "vzdelsnapshot"] {
        let mut worker = worker(kind, 9001);
        assert_eq!(node.said(&["status", "--check"]).0, 0, "{kind}");
        drop(worker.stdin.take());
        worker.wait().unwrap();
    }
    let mut of_another = worker("vzsnapshot", 900);
    assert_eq!(node.said(&["status", "--check"]).0, 1);
    drop(of_another.stdin.take());
    of_another.wait().unwrap();
    // A migration has nothing to do with backups.
    node.write(path, &format!("lock: migrate\n{config}"));
    assert_eq!(node.said(&["status", "--check"]).0, 0);
    node.write("etc/pve/qemu-server/102.conf", "name: vm\nlock: backup\n");
    let (code, said) = node.said(&["status", "--check"]);
    assert!(code == 1 && said.contains("qm unlock 102"), "{code}: {said}");
}

/// Checks the rules of Prometheus's text format for each line, and for the order of lines.
fn well_formed(page: &str) -> Vec<(String, String)> {
    let mut samples = Vec::new();
    let mut family = String::new();
    let mut seen = Vec::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_string();
            assert!(!seen.contains(&family), "{family} comes twice");
            assert!(help.len() > family.len() + 10, "{line}");
            seen.push(family.clone());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert_eq!(kind, format!("{family} gauge"));
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            assert_eq!(name, family, "{line}");
            assert!(!samples.iter().any(|(known, _)| known == series), "{series} comes twice");
            samples.push((series.to_string(), value.to_string()));
        }
    }
    assert!(page.ends_with('\n'));
    samples
}

/// Checks the page with Prometheus's own tool, if it is installed.
fn promtool(arguments: &[&str], page: &str) {
    let child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

fn scenario() -> Scenario {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/vzdump/traces.json");
    Scenario::load(Path::new(file), "lxc-snapshot-pbs").unwrap()
}

/// A backup of guest 9001 with these settings of `[report]`; returns the metrics, if any.
fn backed_up(report: &str, spoil: bool) -> (Report, Option<String>) {
    backed_up_with(report, spoil, &[])
}

/// The same with more variables in the hook's environment.
fn backed_up_with(report: &str, spoil: bool, env: &[(&str, &str)]) -> (Report, Option<String>) {
    let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
    let node = Arc::new(stage(&scenario(), None, &binaries, &|_| {}).unwrap());
    node.write("etc/stillpoint/config.toml", &format!("[report]\n{report}\n")).unwrap();
    fs::create_dir_all(node.path("metrics")).unwrap();
    let its = Arc::clone(&node);
    let observer = move |happening: &Happening| {
        if spoil && matches!(happening, Happening::Called(argv) if argv[0] == "backup-end") {
            let made = SnapshotId::new("backups", "", "ct", "9001", 1_795_303_376);
            its.backup_server().unwrap().pbs.corrupt(&made).unwrap();
        }
    };
    let options = Options {
        observer: Some(Arc::new(observer)),
        env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        ..Options::default()
    };
    let report = replay(&node, &scenario(), &options).unwrap();
    let path = node.path("metrics/stillpoint.prom");
    let mode = fs::metadata(&path).map(|metadata| metadata.permissions().mode() & 0o777);
    assert!(mode.is_err() || mode.unwrap() == 0o644);
    (report, fs::read_to_string(path).ok())
}

#[test]
fn a_job_leaves_metrics_in_the_text_format_with_documented_names() {
    let (report, page) = backed_up("textfile-directory = \"/metrics\"", false);
    let page = page.unwrap_or_else(|| panic!("{}", report.text()));
    let samples = well_formed(&page);
    let value = |series: &str| {
        let found = samples.iter().find(|(known, _)| known == series);
        found.map_or("none", |(_, value)| value.as_str())
    };
    assert_eq!(value("stillpoint_backup_last_ok{vmid=\"9001\"}"), "1");
    assert_eq!(value("stillpoint_backup_last_grade{vmid=\"9001\",grade=\"clean\"}"), "1");
    assert_eq!(value("stillpoint_backup_last_grade{vmid=\"9001\",grade=\"paused\"}"), "0");
    assert_eq!(value("stillpoint_verify_last_outcome{vmid=\"9001\",outcome=\"ok\"}"), "1");
    assert_eq!(value("stillpoint_backup_last_containers_not_back{vmid=\"9001\"}"), "0");
    assert_eq!(value("stillpoint_settings_ok"), "1");
    let made = value("stillpoint_backup_last_success_timestamp_seconds{vmid=\"9001\"}");
    assert!(made.parse::<f64>().unwrap() > 1.7e9);
    promtool(&["check", "metrics"], &page);
    let documented = include_str!("../packaging/doc/monitoring.md");
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(documented.contains(&format!("`{name}`")), "{name} is not in monitoring.md");
    }
}

#[test]
fn metrics_that_cannot_be_written_are_a_line_in_the_task_log_and_nothing_else() {
    let (report, page) = backed_up("textfile-directory = \"/nowhere\"", false);
    assert!(page.is_none());
    let text = report.task_log.join("\n");
    assert!(text.contains("the metrics are not written"), "{text}");
    for call in &report.calls {
        assert_eq!(call.exit, Some(0), "{:?}", call.argv);
    }
}

/// A server that answers every request with `status` and passes on the first line of each.
fn asked(status: &'static str) -> (String, mpsc::Receiver<String>) {
    let (address, lines) = serve(status, None);
    (format!("http://{address}/ping/0b0b"), lines)
}

fn serve(
    status: &'static str,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let line = match &tls {
                None => answer(&mut stream, status),
                Some(config) => {
                    let server = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                    answer(&mut rustls::StreamOwned::new(server, stream), status)
                }
            };
            // A client that does not trust the server sends nothing more.
            let line = line.unwrap_or_else(|error| error.to_string());
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

fn answer(stream: &mut (impl Read + Write), status: &str) -> std::io::Result<String> {
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes)?;
    let request = String::from_utf8_lossy(&bytes[..count]).into_owned();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nOK")?;
    stream.flush()?;
    Ok(request.lines().next().unwrap_or_default().to_string())
}

#[test]
fn the_ping_tells_whether_the_job_went_well() {
    let (url, requests) = asked("200 OK");
    let (report, _) = backed_up(&format!("ping-url = \"{url}\""), false);
    let request = requests.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(request, "GET /ping/0b0b HTTP/1.1", "{}", report.text());
    let (url, requests) = asked("200 OK");
    let (report, _) = backed_up(&format!("ping-url = \"{url}\""), true);
    let request = requests.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(request, "GET /ping/0b0b/fail HTTP/1.1", "{}", report.text());
}

#[test]
fn a_ping_goes_to_a_server_with_a_certificate_that_the_system_trusts_and_to_no_other() {
    let trusted = Identity::new(&["localhost"]).unwrap();
    let other = Identity::new(&["localhost"]).unwrap();
    let directory = Directory::new();
    directory.write("roots.pem", &trusted.pem());
    let roots = directory.0.join("roots.pem");
    let env = [("SSL_CERT_FILE", roots.to_str().unwrap())];
    let ping = |server: &Identity| {
        let config = server.server_config(Versions::Both).unwrap();
        let (address, lines) = serve("200 OK", Some(config));
        let url = format!("https://localhost:{}/ping/0b0b", address.port());
        let (report, _) = backed_up_with(&format!("ping-url = \"{url}\""), false, &env);
        let line = lines.recv_timeout(Duration::from_secs(60)).unwrap();
        (line, report.task_log.join("\n"))
    };
    let (line, log) = ping(&trusted);
    assert_eq!(line, "GET /ping/0b0b HTTP/1.1", "{log}");
    assert!(!log.contains("did not arrive"), "{log}");
    let (line, log) = ping(&other);
    assert!(!line.contains("0b0b"), "the URL was told to a stranger: {line}");
    assert!(log.contains("the ping to localhost did not arrive"), "{log}");
}

#[test]
fn a_ping_that_does_not_arrive_changes_nothing_and_its_url_is_told_nowhere() {
    let (url, requests) = asked("404 Not Found");
    let (report, _) = backed_up(&format!("ping-url = \"{url}\""), false);
    requests.recv_timeout(Duration::from_secs(60)).unwrap();
    let text = report.task_log.join("\n");
    assert!(text.contains("did not arrive") && text.contains("status 404"), "{text}");
    assert!(!text.contains("0b0b"), "{text}");
    for call in &report.calls {
        assert_eq!(call.exit, Some(0), "{:?}", call.argv);
    }
}

#[test]
fn a_verify_that_fails_after_its_job_is_told_too() {
    let binaries = Binaries::beside(Path::new(env!("CARGO_BIN_EXE_vzdump-hook"))).unwrap();
    let node = Arc::new(stage(&scenario(), None, &binaries, &|_| {}).unwrap());
    let (url, requests) = asked("200 OK");
    let settings = format!(
        "[verify]\nwait = \"0s\"\n[report]\ntextfile-directory = \"/metrics\"\nping-url = \"{url}\"\n"
    );
    node.write("etc/stillpoint/config.toml", &settings).unwrap();
    fs::create_dir_all(node.path("metrics")).unwrap();
    let its = Arc::clone(&node);
    let observer = move |happening: &Happening| {
        if matches!(happening, Happening::Called(argv) if argv[0] == "backup-end") {
            let pbs = &its.backup_server().unwrap().pbs;
            let made = SnapshotId::new("backups", "", "ct", "9001", 1_795_303_376);
            pbs.corrupt(&made).unwrap();
            pbs.edit(|state| state.verify_time = Duration::from_secs(3600));
        }
    };
    let its = Arc::clone(&node);
    let told = thread::spawn(move || {
        let limit = Duration::from_secs(120);
        let first = requests.recv_timeout(limit).unwrap();
        let pbs = &its.backup_server().unwrap().pbs;
        for task in pbs.tasks() {
            pbs.finish(task["upid"].as_str().unwrap());
        }
        [first, requests.recv_timeout(limit).unwrap()]
    });
    let options = Options {
        observer: Some(Arc::new(observer)),
        settle: Duration::from_secs(120),
        ..Options::default()
    };
    replay(&node, &scenario(), &options).unwrap();
    let told = told.join().unwrap();
    assert_eq!(told, ["GET /ping/0b0b HTTP/1.1", "GET /ping/0b0b/fail HTTP/1.1"]);
    // The metrics are written before the ping.
    let page = fs::read_to_string(node.path("metrics/stillpoint.prom")).unwrap();
    let failed = "stillpoint_verify_last_outcome{vmid=\"9001\",outcome=\"failed\"} 1";
    assert!(page.contains(failed), "{page}");
}
