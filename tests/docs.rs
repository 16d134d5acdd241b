//! Checks that the documentation is true and complete: every command, option and setting is on its
//! page.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use directory::Directory;
use stillpoint::command::cli::Arguments;
use stillpoint::config::KEYS;

mod directory;

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn packaging(path: &str) -> PathBuf {
    in_tree("packaging").join(path)
}

fn read(path: &str) -> String {
    let path = packaging(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A man page with `\-` and `\(dq` replaced by the characters that they produce.
fn page(name: &str) -> String {
    read(&format!("man/{name}")).replace("\\-", "-").replace("\\(dq", "\"")
}

/// The text of each `.SS` section, by its title.
fn sections(page: &str) -> Vec<(String, String)> {
    page.split("\n.SS ")
        .skip(1)
        .map(|section| {
            let (title, text) = section.split_once('\n').unwrap();
            let end = text.find("\n.SH ").unwrap_or(text.len());
            (title.trim_matches('"').to_string(), text[..end].to_string())
        })
        .collect()
}

fn files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(packaging(directory)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_command_and_option_is_in_the_man_page_and_no_other() {
    let page = page("stillpoint.1");
    let sections = sections(&page);
    let command = Arguments::command();
    let shown: Vec<_> = command.get_subcommands().filter(|one| !one.is_hide_set()).collect();
    for one in &shown {
        let title = format!("stillpoint {}", one.get_name());
        let (_, text) = sections
            .iter()
            .find(|(known, _)| *known == title)
            .unwrap_or_else(|| panic!("{title} has no section in stillpoint.1"));
        let mut meant: Vec<String> = one
            .get_arguments()
            .filter_map(|argument| Some(format!("--{}", argument.get_long()?)))
            .filter(|option| option != "--help")
            .collect();
        let mut written: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1).filter(|it| it.starts_with("--")))
            .map(String::from)
            .collect();
        meant.sort();
        written.sort();
        assert_eq!(meant, written, "{title}");
    }
    let known = |title: &str| {
        let name = title.strip_prefix("stillpoint ").unwrap();
        name == "help" || shown.iter().any(|one| one.get_name() == name)
    };
    for (title, _) in &sections {
        assert!(known(title), "stillpoint.1 tells of {title}, which there is not");
    }
}

#[test]
fn the_help_of_every_command_has_an_example_that_is_understood() {
    for one in Arguments::command().get_subcommands().filter(|one| !one.is_hide_set()) {
        let name = one.get_name();
        let help = one.get_after_help().unwrap_or_else(|| panic!("{name} has none")).to_string();
        let examples: Vec<Vec<&str>> = help
            .lines()
            .map(|line| line.trim_start_matches("Examples:").trim_start_matches("Example:").trim())
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert!(!examples.is_empty(), "{name}");
        for example in examples {
            assert_eq!(example.get(..2), Some(["stillpoint", name].as_slice()), "{help}");
            let understood = Arguments::command().try_get_matches_from(&example);
            assert!(understood.is_ok(), "{name}: {}", understood.unwrap_err());
        }
        assert!(one.get_about().is_some_and(|about| about.to_string().len() > 10), "{name}");
    }
}

#[test]
fn every_setting_is_in_the_man_page_and_in_the_settings_page_with_its_default() {
    let page = page("stillpoint.toml.5");
    let settings = read("doc/settings.md");
    for (key, default) in KEYS {
        let name = key.replace("guest.*", "guest.VMID").replace("storage.*", "storage.ID");
        let row = format!("`{name}`");
        assert!(settings.contains(&row), "{name} is not in settings.md");
        match default {
            Some(default) => {
                let row = format!("| {row} | `{default}` |");
                assert!(settings.contains(&row), "settings.md: {row}");
                let tag = format!(".BR {name} \" = {default}\"");
                assert!(page.contains(&tag), "stillpoint.toml.5: {tag}\n{page}");
            }
            None => assert!(page.contains(&name), "{name} is not in stillpoint.toml.5"),
        }
    }
}

#[test]
fn every_example_file_is_in_the_settings_page() {
    let settings = read("doc/settings.md");
    for file in files("examples") {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".toml") {
            assert!(settings.contains(&format!("(../examples/{name})")), "{name}");
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut pages = files("doc");
    pages.extend(["README.md", "src/DESIGN.md", ".github/CONTRIBUTING.md"].map(in_tree));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#']).next().unwrap();
            if !link.is_empty() && !link.contains("://") {
                let target = page.parent().unwrap().join(link);
                assert!(target.exists(), "{}: {link}", page.display());
            }
        }
    }
}

/// Every file below `directory` whose contents are text.
fn texts(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(texts(&path));
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.push((path, text));
        }
    }
    found
}

/// The titles of a page's sections.
fn titles(page: &str) -> Vec<&str> {
    let titles = page.lines().filter(|line| line.starts_with('#'));
    titles.map(|line| line.trim_start_matches('#').split(" (").next().unwrap().trim()).collect()
}

/// Whether the words after `DESIGN.md, ` or `FACTS-PVE.md, ` begin with the title of a section.
fn names_a_section(page: &str, words: &str) -> bool {
    titles(page).iter().any(|title| words.starts_with(title))
}

#[test]
fn every_page_and_section_that_a_comment_names_is_there() {
    let homes = ["", "src", "tests", "tests/fixtures", "packaging/doc", ".github"].map(in_tree);
    let find = |name: &str| homes.iter().map(|home| home.join(name)).find(|path| path.exists());
    let mut sections = 0;
    for (path, text) in
        ["src", "bin", "hooks", "tests"].map(in_tree).iter().flat_map(|it| texts(it))
    {
        let seed_or_recording = ["fuzz/seeds", "fuzz/artifacts", "fuzz/corpus", "fuzz/target"];
        if path == in_tree("tests/docs.rs")
            || seed_or_recording.iter().any(|it| path.to_str().unwrap().contains(it))
        {
            continue;
        }
        // Comments are wrapped, so a title may continue on the next line.
        let lines = text.lines().map(|line| line.trim_start().trim_start_matches(['/', '!', '#']));
        let flat = lines.collect::<Vec<_>>().join(" ").replace("  ", " ");
        for old in ["`facts/", " facts/", "facts: ", "table of the design"] {
            assert!(!flat.contains(old), "{}: '{old}' leads nowhere", path.display());
        }
        for (at, _) in flat.match_indices(".md") {
            let start =
                flat[..at].rfind(|it: char| !(it.is_alphanumeric() || "-_./*".contains(it)));
            let name = flat[start.map_or(0, |start| start + 1)..at + 3]
                .trim_start_matches("../")
                .trim_start_matches('/');
            if name.contains('*')
                || name == ".md"
                || flat[at + 3..].starts_with(char::is_alphanumeric)
            {
                continue;
            }
            let page = find(name).unwrap_or_else(|| panic!("{}: {name}", path.display()));
            let Some(words) = flat[at + 3..].strip_prefix(", ") else { continue };
            let has_sections = name.contains("FACTS-") || name.ends_with("DESIGN.md");
            if has_sections && !words.starts_with('`') && !words.starts_with("tests/") {
                let page = fs::read_to_string(page).unwrap();
                assert!(names_a_section(&page, words), "{}: {name}, {words:.40}", path.display());
                sections += 1;
            }
        }
    }
    assert!(sections > 2, "{sections}");
}

#[test]
fn the_contributors_page_names_suites_and_files_that_there_are() {
    let page = fs::read_to_string(in_tree(".github/CONTRIBUTING.md")).unwrap();
    let mut words = page.split([' ', '`', '\n']).peekable();
    let mut suites = 0;
    while let Some(word) = words.next() {
        if word == "--test" {
            let suite = format!("tests/{}.rs", words.peek().unwrap());
            assert!(in_tree(&suite).exists(), "{suite}");
            suites += 1;
        }
    }
    assert!(suites > 8, "{suites}");
    for name in page.split('`').skip(1).step_by(2) {
        let in_a_directory = ["src/", "tests/", "packaging/"].iter().any(|it| name.starts_with(it));
        if in_a_directory && !name.contains([' ', '*']) && !name.contains("...") {
            assert!(in_tree(name).exists(), "{name}");
        }
    }
}

/// Stillpoint writes every metric that the example alerts and the dashboard use.
#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    let documented = read("doc/monitoring.md");
    let dashboard = read("examples/stillpoint-dashboard.json");
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
    for text in [read("examples/stillpoint-alerts.yml"), dashboard] {
        let mut seen = 0;
        for (at, _) in text.match_indices("stillpoint_") {
            let name = |letter: char| !(letter.is_ascii_lowercase() || letter == '_');
            let end = text[at..].find(name).unwrap();
            let metric = &text[at..at + end];
            assert!(documented.contains(&format!("| `{metric}` |")), "{metric}");
            seen += 1;
        }
        assert!(seen > 5);
    }
}

/// Like the tests below, it is skipped if the tool is missing.
#[test]
fn prometheus_understands_the_alerts() {
    let rules = packaging("examples/stillpoint-alerts.yml");
    let output = Command::new("promtool").args(["check", "rules"]).arg(rules).output();
    let Ok(output) = output else { return };
    assert!(output.status.success(), "{output:?}");
}

/// Each alert with a series, a value that makes it fire, and one that does not.
const ALERTS: [(&str, &str, &str, &str); 10] = [
    ("StillpointBackupFailed", "stillpoint_backup_last_ok", "0", "1"),
    // A time in 1970, and one in the future.
    (
        "StillpointBackupTooOld",
        "stillpoint_backup_last_success_timestamp_seconds",
        "0",
        "4102444800",
    ),
    ("StillpointVerifyFailed", "stillpoint_verify_last_outcome{outcome=\"failed\"}", "1", "0"),
    ("StillpointNotVerified", "stillpoint_verify_last_outcome{outcome=\"denied\"}", "1", "0"),
    (
        "StillpointCrashConsistent",
        "stillpoint_backup_last_grade{grade=\"crash-consistent\"}",
        "1",
        "0",
    ),
    ("StillpointIncomplete", "stillpoint_backup_last_grade{grade=\"incomplete\"}", "1", "0"),
    ("StillpointContainersNotBack", "stillpoint_backup_last_containers_not_back", "2", "0"),
    ("StillpointLeftOver", "stillpoint_left_over_runs", "1", "0"),
    ("StillpointLongDowntime", "stillpoint_backup_last_downtime_seconds", "61", "60"),
    ("StillpointSettingsBroken", "stillpoint_settings_ok", "0", "1"),
];

#[test]
fn every_alert_fires_and_is_silent_where_all_is_well() {
    let rules = packaging("examples/stillpoint-alerts.yml");
    let text = read("examples/stillpoint-alerts.yml");
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let known: Vec<&str> = ALERTS.iter().map(|(alert, ..)| *alert).collect();
    assert_eq!(named.collect::<Vec<_>>(), known);
    let node = Directory::new();
    // Whether any of these alerts fires after two days of these series; `None` if the tool is
    // missing.
    let fires = |series: &[(&str, &str)], alerts: &[&str]| {
        let series: Vec<String> = series
            .iter()
            .map(|(series, value)| {
                format!("      - {{series: '{series}', values: '{value}+0x2880'}}\n")
            })
            .collect();
        let alerts: Vec<String> = alerts
            .iter()
            .map(|alert| {
                format!("      - {{eval_time: 48h, alertname: {alert}, exp_alerts: []}}\n")
            })
            .collect();
        let test = format!(
            "rule_files: ['{}']\ntests:\n  - interval: 1m\n    input_series:\n{}    \
             alert_rule_test:\n{}",
            rules.display(),
            series.concat(),
            alerts.concat()
        );
        node.write("test.yml", &test);
        let path = node.0.join("test.yml");
        let output = Command::new("promtool").args(["test", "rules"]).arg(path).output().ok()?;
        let said = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap()).concat();
        assert!(output.status.success() || said.contains("got:"), "{said}");
        Some(!output.status.success())
    };
    for (alert, series, bad, _) in ALERTS {
        let Some(fired) = fires(&[(series, bad)], &[alert]) else { return };
        assert!(fired, "{alert} is silent");
    }
    let well = ALERTS.map(|(_, series, _, good)| (series, good));
    assert_eq!(fires(&well, &known), Some(false), "an alert fires without a cause");
}

#[test]
fn man_pages_are_clean() {
    for page in files("man") {
        let check = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).arg(&page).output();
            let Ok(output) = output else { return };
            let said = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
            assert_eq!(said.concat(), "", "{program} {}", page.display());
        };
        check("groff", &["-man", "-ww", "-z"]);
        check("mandoc", &["-Tlint"]);
    }
}
