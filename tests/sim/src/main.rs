//! `stillpoint-sim`: shows a whole backup as a story, or replays one recorded run.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use stillpoint_sim::hooks::Binaries;
use stillpoint_sim::vzdump::replay::{Options, replay};
use stillpoint_sim::vzdump::stage::stage;
use stillpoint_sim::vzdump::trace::Scenario;

/// A simulated Proxmox VE node for Stillpoint. Without a command: shows a whole backup as a story.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Replay one recorded run of the real vzdump, and show the end state
    Replay {
        /// A file shaped like tests/fixtures/vzdump/traces.json
        #[arg(long)]
        trace: PathBuf,
        /// Name of the scenario in the file
        #[arg(long)]
        scenario: String,
        /// Make the node in this directory and keep it
        #[arg(long)]
        root: Option<PathBuf>,
        /// The hook to call, its sibling programs beside it
        #[arg(long)]
        hook: Option<PathBuf>,
        /// Let no verify on the backup server end before the job has ended
        #[arg(long)]
        verifies_outlast_job: bool,
        /// Print the end state as JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stillpoint-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let Some(action) = arguments.command else {
        return stillpoint_sim::story::tell(&Binaries::built()?);
    };
    let Action::Replay { trace, scenario, root, hook, verifies_outlast_job, json } = action;
    let binaries = match hook {
        Some(hook) => Binaries::beside(&hook)?,
        None => Binaries::built()?,
    };
    let scenario = Scenario::load(&trace, &scenario)?;
    let node = stage(&scenario, root.as_deref(), &binaries, &|_| {})?;
    // Failpoints of a test build come from the caller's environment.
    let failpoint = |(name, _): &(String, String)| name.starts_with("STILLPOINT_FAIL");
    let options = Options {
        env: std::env::vars().filter(failpoint).collect(),
        verifies_outlast_jobs: verifies_outlast_job,
        ..Options::default()
    };
    let report = replay(&node, &scenario, &options)?;
    if json {
        let report = serde_json::to_string(&report).context("writing the report")?;
        println!("{report}");
    } else {
        println!("{}", report.text());
    }
    Ok(())
}
