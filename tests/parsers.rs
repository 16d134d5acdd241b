//! Every parser of untrusted or damaged input keeps its promises, whatever the input.
//!
//! The short run on stable Rust of the targets that `tests/fuzz` runs for long: with every sample,
//! with every sample cut off at every byte, and with mutations. It does the same each time;
//! `SEED=NUMBER` and `ROUNDS=NUMBER` in the environment change that. With `CORPUS=DIRECTORY` it
//! only writes the samples there, as the fuzzer's first inputs.

#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::fmt::Write;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use stillpoint::config::Settings;
use stillpoint::engine::Container;
use stillpoint::guest::Volumes;
use stillpoint::journal::{Entry, Journal};
use stillpoint::quiesce::{self, run_of};
use stillpoint::run::{By, Quiesced, Runs};
use stillpoint::sys::Root;
use stillpoint::vzdump::Vmid;

use mutate::{Random, mutate};
use targets::memory::most_of;

/// A sample is cut off at this many places at most, a long one at fewer.
const MOST_CUTS: usize = 400;
const MOST_CUT_BYTES: usize = 1 << 19;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Calls a target with all its samples, whole and cut off, and with mutations of them for that many
/// rounds.
fn exercise(target: &str, rounds: u64) {
    let samples = targets::samples::of(&tests(), target);
    assert!(!samples.is_empty(), "{target} has no samples");
    if let Some(corpus) = std::env::var_os("CORPUS") {
        return write(&Path::new(&corpus).join(target), &samples);
    }
    for (name, sample) in &samples {
        holds(target, &format!("sample {name}"), sample);
        let cuts = MOST_CUTS.min(MOST_CUT_BYTES / sample.len().max(1));
        let step = sample.len().div_ceil(cuts).max(1);
        for cut in (0..sample.len()).step_by(step) {
            holds(target, &format!("sample {name}, the first {cut} bytes"), &sample[..cut]);
        }
    }
    let seed = number("SEED", 1);
    for round in 0..number("ROUNDS", rounds) {
        let mut random = Random::new(seed ^ (round << 20));
        let mut input = samples[random.below(samples.len())].1.clone();
        mutate(&mut random, &mut input, &samples);
        holds(target, &format!("SEED={seed}, round {round}"), &input);
    }
}

fn write(directory: &Path, samples: &[(String, Vec<u8>)]) {
    fs::create_dir_all(directory).unwrap();
    for (name, sample) in samples {
        fs::write(directory.join(name), sample).unwrap();
    }
}

/// Calls the target; if it fails, prints the input.
fn holds(target: &str, whence: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| targets::call(target, input))).is_err() {
        panic!("{target} broke with {whence}, {} bytes:\n{}", input.len(), shown(input));
    }
}

/// The input as a Rust byte string, so that it can be made a sample.
fn shown(input: &[u8]) -> String {
    let mut text = String::from("b\"");
    for byte in input.iter().take(20_000) {
        let _ = write!(text, "{}", byte.escape_ascii());
    }
    text + if input.len() > 20_000 { "\" and more" } else { "\"" }
}

macro_rules! seeded {
    ($($target:ident $rounds:literal)*) => {
        $(#[test]
        fn $target() {
            exercise(stringify!($target), $rounds);
        })*

        #[test]
        fn every_target_is_run_here_and_by_the_fuzzer() {
            let here: Vec<&str> = vec![$(stringify!($target)),*];
            let all: Vec<&str> = targets::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(here, all);
            let names = |directory: &str| -> Vec<String> {
                let entries = fs::read_dir(tests().join("fuzz").join(directory)).unwrap();
                let name = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_string();
                let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap().path())).collect();
                names.sort();
                names
            };
            assert_eq!(names("fuzz_targets"), all);
            assert_eq!(names("seeds"), all);
        }
    };
}

// The number of mutated inputs: fewer for targets that write files.
seeded! {
    call 3000
    container 2000
    container_list 3000
    guest_config 2000
    guest_edit 2000
    info 3000
    journal 200
    mountinfo 2000
    pbs_snapshots 700
    pbs_upid 3000
    plan 1500
    quiesced 3000
    run 1000
    settings 800
    storage 800
    target 3000
    task_log 200
    text 1500
    vzdump_upid 3000
}

const MIB: usize = 1 << 20;

/// `head`, then `item` with a counter instead of `%` until there are `size` bytes, then `tail`.
fn long(head: &str, item: &str, tail: &str, size: usize) -> Vec<u8> {
    let mut text = head.to_string();
    let (before, after) = item.split_once('%').unwrap_or((item, ""));
    let mut count = 0;
    while text.len() < size {
        let comma = if count == 0 { "" } else { "," };
        if item.contains('%') {
            let _ = write!(text, "{comma}{before}{count:06x}{after}");
        } else {
            let _ = write!(text, "{comma}{item}");
        }
        count += 1;
    }
    (text + tail).into_bytes()
}

/// An engine's answers may have some MiB: what is made of them must fit into the hook's 256 MiB.
#[test]
fn a_hostile_answer_costs_little_more_than_itself() {
    let id = "3b1f0c2d4e5f";
    let head =
        format!(r#"{{"Id":"{id}","Name":"/x","State":{{"Status":"running"}},"HostConfig":{{}},"#);
    for (what, head, item, tail) in [
        ("labels", format!(r#"{head}"Config":{{"Labels":{{"#), r#""%":"""#, "}}}"),
        (
            "labels of ours",
            format!(r#"{head}"Config":{{"Labels":{{"#),
            r#""stillpoint.%":"""#,
            "}}}",
        ),
        ("mounts", format!(r#"{head}"Config":{{}},"Mounts":["#), "{}", "]}"),
        ("paths", format!(r#"{head}"Config":{{}},"Mounts":["#), r#"{"Source":"/a"}"#, "]}"),
        ("passed over", format!(r#"{head}"Config":{{}},"Else":["#), "0", "]}"),
    ] {
        let answer = long(&head, item, tail, 2 * MIB);
        let (container, most) = most_of(|| Container::parse(&answer));
        let container = container.unwrap();
        assert!(container.weight() <= MIB, "{what}: {}", container.weight());
        assert!(most <= MIB, "{what}: {most} bytes for an answer of {}", answer.len());
    }
    let list = long("[", r#"{"Id":"3b1f0c%"}"#, "]", 2 * MIB);
    let (ids, most) = most_of(|| Container::parse_list(&list));
    assert!(ids.is_err_and(|why| why.contains("more containers")));
    assert!(most <= 2 * MIB, "{most} bytes for a list of {}", list.len());
    let list = long("[", r#"{"Id":""}"#, "]", 2 * MIB);
    let (ids, most) = most_of(|| Container::parse_list(&list));
    assert!(ids.is_err() && most <= 2 * MIB, "{most} bytes for a list of {}", list.len());
}

/// The error about an invalid answer may quote it, escaped: six times its size, and never two
/// copies at once.
#[test]
fn refusing_a_hostile_answer_costs_no_more_than_six_times_itself() {
    let quoted = format!("[\"{}\"]", "\x7f".repeat(4 * MIB));
    let (ids, most) = most_of(|| Container::parse_list(quoted.as_bytes()));
    assert!(ids.unwrap_err().len() < 4000);
    assert!(most <= 8 * quoted.len(), "{most} bytes to refuse {}", quoted.len());
}

/// The note in the guest may have 16 MiB, and its content goes into the journal.
#[test]
fn a_hostile_note_costs_little_more_than_itself() {
    let head = r#"{"schema":1,"run":"","vmid":9001,"time":"","containers":["#;
    let item = r#"{"id":"3b1f0c%","name":"","action":"stop","started_at":"","after":[]}"#;
    let mut many = long(head, item, "]}", 4 * MIB);
    let one = r#"{"id":"3b1f0c2d4e5f","name":"","action":"stop","started_at":"","after":["#;
    let mut dense = long(&format!("{head}{one}"), "0", "]}]}", 4 * MIB);
    for note in [&mut many, &mut dense] {
        let (parsed, most) = most_of(|| Quiesced::parse(note));
        assert!(parsed.is_none(), "more than ten thousand containers run nowhere");
        assert!(most <= 6 * note.len(), "{most} bytes for a note of {}", note.len());
    }
}

/// A guest's labels say what depends on what, and vzdump waits for the plan.
#[test]
fn ten_thousand_containers_that_all_wait_for_each_other_are_planned() {
    let containers: Vec<Container> = (0..10_000)
        .map(|number| {
            let after: Vec<String> =
                (1..=10).map(|n| format!("s{}", number / 10 * 10 + n - 1)).collect();
            let labels = format!(
                r#"{{"com.docker.compose.project":"p","com.docker.compose.service":"s{number}",
                "com.docker.compose.depends_on":"{}"}}"#,
                after.join(",")
            );
            let answer = format!(
                r#"{{"Id":"{number:012x}","Name":"/s{number}","State":{{"Status":"running"}},
                "Config":{{"Labels":{labels}}},"HostConfig":{{}}}}"#
            );
            Container::parse(answer.as_bytes()).unwrap()
        })
        .collect();
    let plan = quiesce::plan(Vmid(9001), &containers, &Settings::default(), &Volumes::default());
    assert_eq!(plan.waves().iter().map(Vec::len).sum::<usize>(), containers.len());
}

/// A guest decides how long its names are. What is stopped must be found again.
#[test]
fn a_run_that_could_not_be_read_again_is_not_written() {
    let directory = Scratch::new("run");
    let runs = Runs::of(&Root::at(&directory.0));
    let note = |name: &str| {
        let note = format!(
            r#"{{"schema":1,"run":"a","vmid":9001,"time":"","containers":
            [{{"id":"3b1f0c2d4e5f","name":"{name}","action":"stop","started_at":"","after":[]}}]}}"#
        );
        run_of(Quiesced::parse(note.as_bytes()).unwrap(), Vmid(9001), By::Stillpoint)
    };
    runs.save(&note("db")).unwrap();
    let error = runs.save(&note(&"\\u0001".repeat(3 * MIB))).unwrap_err();
    assert!(format!("{error:#}").contains("larger than"), "{error:#}");
    let kept = runs.load(Vmid(9001)).unwrap().unwrap();
    assert_eq!(kept.quiesce.unwrap().steps[0].name, "db");
}

/// A line that is too long is damage as a whole: its end is no record, and later lines keep their
/// numbers.
#[test]
fn a_line_of_the_journal_that_is_too_long_is_one_damage() {
    let directory = Scratch::new("line");
    fs::create_dir_all(directory.0.join("var/lib/stillpoint")).unwrap();
    let record = br#"{"kind":"x","run":"a"}"#;
    let mut text = vec![b' '; 32 * MIB];
    text.extend(record);
    text.push(b'\n');
    text.extend(record);
    text.push(b'\n');
    fs::write(directory.0.join("var/lib/stillpoint/journal.jsonl"), text).unwrap();
    let mut found = Vec::new();
    let read = Journal::of(&Root::at(&directory.0)).read(|entry| {
        found.push(match entry {
            Entry::Record(record) => record.json["run"].as_str().unwrap().to_string(),
            Entry::Damaged { line, .. } => format!("damage in line {line}"),
        });
        true
    });
    read.unwrap();
    assert_eq!(found, ["damage in line 1", "a"]);
}

/// A directory that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("stillpoint-{name}-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
