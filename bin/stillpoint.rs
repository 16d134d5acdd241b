//! The `stillpoint` command: for a person, and for systemd units.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stillpoint::command;
use stillpoint::sys::Root;
use stillpoint::vzdump::Vmid;

/// Consistent, proven and restorable Proxmox backups of Docker guests.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what happened: backups, verifies, recoveries
    #[command(after_help = "Example: stillpoint journal --guest 9001")]
    Journal {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Only this guest
        #[arg(long, value_name = "VMID")]
        guest: Option<Vmid>,
    },
    /// Show what a backup would stop, in which order and how; touches nothing
    #[command(after_help = "Example: stillpoint plan 9001")]
    Plan {
        vmid: Vmid,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Start what an interrupted backup left stopped
    #[command(after_help = "Example: stillpoint resume 9001")]
    Resume { vmid: Vmid },
    /// Bring back everything that interrupted backups left stopped (called at boot)
    #[command(after_help = "Example: stillpoint recover")]
    Recover,
    /// Watch over a guest while its containers are stopped (called by the hook)
    #[command(hide = true)]
    Guard { vmid: Vmid },
    /// Start, in a restored or moved guest, what was running when it was backed up
    #[command(after_help = "Example: stillpoint settle 9002")]
    Settle { vmid: Vmid },
    /// Collect the outcomes of verifies (called by the hook)
    #[command(hide = true)]
    Collect,
}

fn main() -> ExitCode {
    let root = Root::from_env();
    let done = match Arguments::parse().command {
        Command::Journal { json, guest } => command::journal(&root, guest, json),
        Command::Plan { vmid, json } => command::plan(&root, vmid, json),
        Command::Resume { vmid } => command::resume(&root, vmid),
        Command::Recover => command::recover(&root),
        Command::Guard { vmid } => stillpoint::quiesce::guard(&root, vmid),
        Command::Settle { vmid } => command::settle(&root, vmid),
        Command::Collect => command::collect(&root),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stillpoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}
