//! Runs the cases, each in its own process and, if the system allows it, in its own pid and mount
//! namespace. A node finds the workers of vzdump in `/proc`, so two simulated nodes on one machine
//! would see each other's.

use std::collections::VecDeque;
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::random::Dice;
use super::table;

/// The environment variable with the case that this process runs.
const CASE: &str = "STILLPOINT_FAULTS_CASE";

/// The prefix of a case's result, before the JSON.
const RESULT: &str = "RESULT ";

/// A case that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(900);

/// How many of the matrix and random cases the short run has.
const SMALL_PART: usize = 40;

/// One fault.
pub struct Case {
    /// The row of the table that it counts for.
    pub fault: String,
    /// Unique.
    pub name: String,
    pub weight: Weight,
    pub run: Box<dyn Fn() -> Result<Ended> + Send + Sync>,
}

/// When a case runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Always.
    Always,
    /// One of many similar ones: some of them, chosen by the seed.
    Sampled,
    /// Only in the full run, because it takes long.
    Long,
}

/// The result of a case that kept the promise.
#[derive(Default, Clone, serde::Serialize, serde::Deserialize)]
pub struct Ended {
    /// Milliseconds from the fault to the last start of a container, if one had to be started.
    pub back_ms: Option<u64>,
    /// How many of these the engine itself takes: its boot and the starts, one after the other.
    pub own_ms: Option<u64>,
    /// Why it did not run.
    pub skipped: Option<String>,
}

impl Case {
    pub fn always(
        fault: &str,
        name: &str,
        run: impl Fn() -> Result<Ended> + Send + Sync + 'static,
    ) -> Self {
        let name = format!("{fault}: {name}").replace(' ', "-");
        Self { fault: fault.to_owned(), name, weight: Weight::Always, run: Box::new(run) }
    }

    pub fn weighing(mut self, weight: Weight) -> Self {
        self.weight = weight;
        self
    }
}

/// The result of a case in the parent process.
pub struct Outcome {
    pub fault: String,
    pub name: String,
    pub ended: Option<Ended>,
    pub said: String,
    pub took: Duration,
}

/// Runs one case, or the selected ones.
pub fn main(cases: &[Case]) -> ExitCode {
    if let Ok(name) = std::env::var(CASE) {
        return run_one(cases, &name);
    }
    let chosen = choose(cases);
    let isolated = isolation();
    let threads = match isolated {
        Some(_) => std::thread::available_parallelism().map_or(2, usize::from) * 4,
        None => 1,
    };
    println!("\nrunning {} of {} faults", chosen.len(), cases.len());
    let queue: Mutex<VecDeque<&Case>> = Mutex::new(chosen.iter().copied().collect());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some(case) = next else { break };
                    let outcome = spawn(case, isolated);
                    print(&outcome);
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    let failed = outcomes.iter().filter(|outcome| outcome.ended.is_none()).count();
    let skipped =
        |outcome: &&Outcome| outcome.ended.as_ref().is_some_and(|ended| ended.skipped.is_some());
    let ignored = outcomes.iter().filter(skipped).count();
    table::print(&outcomes);
    println!(
        "test result: {}. {} passed; {failed} failed; {ignored} ignored; 0 measured; {} filtered out\n",
        if failed == 0 { "ok" } else { "FAILED" },
        outcomes.len() - failed - ignored,
        cases.len() - chosen.len(),
    );
    ExitCode::from(u8::from(failed > 0))
}

/// All cases, those whose names contain a word of the command line, or the short run.
fn choose(cases: &[Case]) -> Vec<&Case> {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if !words.is_empty() {
        let named = |case: &&Case| words.iter().any(|word| case.name.contains(word.as_str()));
        return cases.iter().filter(named).collect();
    }
    if std::env::var("STILLPOINT_FAULTS").is_ok_and(|value| value == "all") {
        return cases.iter().collect();
    }
    let seed = std::env::var("STILLPOINT_FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut dice = Dice::new(seed.unwrap_or(1));
    let (mut sampled, rest): (Vec<&Case>, Vec<&Case>) =
        cases.iter().partition(|case| case.weight == Weight::Sampled);
    let mut chosen: Vec<&Case> =
        rest.into_iter().filter(|case| case.weight == Weight::Always).collect();
    while chosen.len() < cases.len() && !sampled.is_empty() && SMALL_PART > 0 {
        if chosen.iter().filter(|case| case.weight == Weight::Sampled).count() == SMALL_PART {
            break;
        }
        chosen.push(sampled.swap_remove(dice.below(sampled.len())));
    }
    chosen
}

fn run_one(cases: &[Case], name: &str) -> ExitCode {
    let Some(case) = cases.iter().find(|case| case.name == name) else {
        eprintln!("there is no case {name}");
        return ExitCode::FAILURE;
    };
    match (case.run)() {
        Ok(ended) => {
            println!("{RESULT}{}", serde_json::to_string(&ended).unwrap());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command prefix that creates the namespaces; `None` if the system refuses.
fn isolation() -> Option<&'static [&'static str]> {
    const ROOT: &[&str] = &["--pid", "--fork", "--kill-child", "--mount-proc"];
    const USER: &[&str] =
        &["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let works = |words: &&&[&str]| {
        let status = Command::new("unshare")
            .args(**words)
            .arg("true")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    [ROOT, USER].iter().find(works).copied()
}

fn spawn(case: &Case, isolated: Option<&[&str]>) -> Outcome {
    let began = Instant::now();
    let me = std::env::current_exe().unwrap();
    let mut command = match isolated {
        Some(words) => {
            let mut command = Command::new("unshare");
            command.args(words).arg(me);
            command
        }
        None => Command::new(me),
    };
    // Inside a pid namespace every case is process 1, and simulated nodes are named after the
    // process; so they need other names.
    static NODES: AtomicU32 = AtomicU32::new(0);
    let number = NODES.fetch_add(1, Ordering::SeqCst);
    let name = format!("faults-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir(&directory).unwrap();
    command.env("TMPDIR", &directory).env("RUST_BACKTRACE", "0");
    command.env(CASE, &case.name).stdin(Stdio::null());
    command.env(ISOLATED, if isolated.is_some() { "1" } else { "" });
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    drop(command);
    let listener = std::thread::spawn(move || {
        let mut said = Vec::new();
        // Output before a read error is still useful.
        let _ = reader.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if began.elapsed() > PATIENCE => {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let said = listener.join().unwrap();
    if let Err(error) = std::fs::remove_dir_all(&directory) {
        eprintln!("{} stays: {error}", directory.display());
    }
    let result = said.lines().find_map(|line| line.strip_prefix(RESULT));
    let ended = result.and_then(|text| serde_json::from_str(text).ok());
    let ended = ended.filter(|_| status.is_some_and(|status| status.success()));
    Outcome {
        fault: case.fault.clone(),
        name: case.name.clone(),
        ended,
        said,
        took: began.elapsed(),
    }
}

/// The environment variable that says whether this process is in its own namespaces.
const ISOLATED: &str = "STILLPOINT_FAULTS_ISOLATED";

/// Whether this case may mount file systems without affecting others.
pub fn may_mount() -> bool {
    std::env::var(ISOLATED).is_ok_and(|value| !value.is_empty())
}

fn print(outcome: &Outcome) {
    let seconds = outcome.took.as_secs_f64();
    match &outcome.ended {
        Some(Ended { skipped: Some(why), .. }) => {
            println!("test {} ... ignored, {why}", outcome.name);
        }
        Some(_) => println!("test {} ... ok ({seconds:.1} s)", outcome.name),
        None => println!(
            "test {} ... FAILED ({seconds:.1} s)\n{}\nagain: cargo test --test faults -- {}\n",
            outcome.name, outcome.said, outcome.name
        ),
    }
}
