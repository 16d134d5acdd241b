//! The arguments of the command.

use std::time::Duration;

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use clap::{Args, Parser, Subcommand};

use crate::config;
use crate::sys::clock;
use crate::vzdump::Vmid;

/// Consistent, proven and restorable Proxmox backups of Docker guests.
#[derive(Debug, Parser)]
#[command(name = "stillpoint", version, about, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

/// What the command can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check this node: what stands in the way of good backups, and how to fix it
    ///
    /// One line for each check: ok, warn or fail, with the fix as a command. The exit status is 0,
    /// 1 if a check warns, 2 if one fails.
    #[command(after_help = "Example: stillpoint doctor --storage offsite")]
    Doctor {
        /// Only this storage of a backup server, and what its user may do there
        #[arg(long, value_name = "STORAGE")]
        storage: Option<String>,
        /// As JSON: schema, version, node, worst, and checks with level, about, message and fix
        #[arg(long)]
        json: bool,
    },
    /// Show the state of each guest: last backup, grade, downtime, verify
    ///
    /// With --check the exit status is 0 if all is well, 1 for a warning, 2 if something is
    /// critical and 3 if the state cannot be determined.
    #[command(after_help = "Examples: stillpoint status
          stillpoint status --check --max-age 26h")]
    Status {
        #[command(flatten)]
        form: StatusForm,
        /// Warn if the last good backup is older than this; twice this age is critical
        #[arg(long, value_name = "DURATION", default_value = "8d", value_parser = duration)]
        max_age: Duration,
        /// First ask the backup servers again about proven backups, as a timer does once a day
        #[arg(long)]
        refresh: bool,
    },
    /// Show what happened: backups, verifies, recoveries
    ///
    /// With --check-chain it shows no records, but says whether the journal is as it was written. The exit status is
    /// then 0 if it is sound and 1 if not.
    #[command(after_help = "Examples: stillpoint journal --guest 9001 --last 20
          stillpoint journal --kind verify --since 7d
          stillpoint journal --check-chain")]
    Journal(JournalArguments),
    /// Show what a backup would stop, in which order and how; changes nothing
    #[command(after_help = "Example: stillpoint plan 9001")]
    Plan {
        vmid: Vmid,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Test whether a guest's engine can start a container; a backup must know this before it stops
    /// any
    ///
    /// A throwaway container is made from a present image and removed again. Its program does not
    /// exist, so nothing in it runs. The exit status is 0 if the engine starts containers, and 1 if
    /// it does not or if that is unknown.
    #[command(after_help = "Example: stillpoint try 9001")]
    Try { vmid: Vmid },
    /// List the snapshots on the backup servers
    ///
    /// For each storage of a backup server: its name, its identity (server:datastore#fingerprint,
    /// the same on every node), and whether this node uses it. Then its snapshots, in no particular
    /// order: name, size, result and start of the last verify, p for protected, e for encrypted,
    /// the beginning of the key's fingerprint, owner and comment. The exit status is 1 if a storage
    /// could not be listed.
    #[command(after_help = "Example: stillpoint snapshots --storage offsite --guest 9001")]
    Snapshots {
        /// Only this storage
        #[arg(long, value_name = "STORAGE")]
        storage: Option<String>,
        /// Only this guest
        #[arg(long, value_name = "VMID")]
        guest: Option<Vmid>,
        /// One JSON object for each record
        #[arg(long)]
        json: bool,
    },
    /// Have a backup server verify a guest's latest snapshot, or the given one
    #[command(after_help = "Examples: stillpoint verify 9001 --wait
          stillpoint verify offsite:backup/ct/9001/2026-11-21T23:22:56Z")]
    Verify {
        /// A guest (VMID), or a volume in the notation of `pvesm list`
        #[arg(value_name = "VMID|VOLID")]
        what: String,
        /// All snapshots of the guest, in one verify of its group, which reads shared data only
        /// once
        #[arg(long)]
        all: bool,
        /// Wait for the outcome and show the progress
        #[arg(long)]
        wait: bool,
    },
    /// Show what the next start of a guest would change about its identity, and why; changes
    /// nothing
    #[command(after_help = "Example: stillpoint restore-check 9002")]
    RestoreCheck {
        vmid: Vmid,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a restored copy the identity of its original, which is stopped or gone
    ///
    /// Hostname, hardware addresses and IP addresses come back, from the record of the change. The
    /// machine-id and SSH host keys inside stay as they are now.
    #[command(after_help = "Example: stillpoint adopt 9002")]
    Adopt { vmid: Vmid },
    /// Enable Stillpoint's hookscript, which is called when these guests start
    #[command(after_help = "Example: stillpoint enable 9001 9002")]
    Enable {
        #[command(flatten)]
        guests: Guests,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Disable Stillpoint's hookscript; a previous hookscript is put back
    #[command(after_help = "Example: stillpoint disable --all")]
    Disable {
        #[command(flatten)]
        guests: Guests,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Have vzdump call Stillpoint in every backup of this node
    #[command(after_help = "Example: stillpoint register")]
    Register {
        /// Also call Stillpoint when any guest of this node starts, without a line in its
        /// configuration
        #[arg(long)]
        all_guests: bool,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Undo `register`; a previous script is put back
    #[command(after_help = "Example: stillpoint unregister")]
    Unregister {
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the settings in force, and where each comes from
    #[command(after_help = "Example: stillpoint config")]
    Config {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Start what an interrupted backup left stopped, and thaw a guest that it left frozen
    #[command(after_help = "Example: stillpoint resume 9001")]
    Resume {
        vmid: Vmid,
        /// Start nothing, and give up on the containers that are not back
        #[arg(long)]
        forget: bool,
    },
    /// Start, in a restored or moved guest, what ran when it was backed up
    #[command(after_help = "Example: stillpoint settle 9002")]
    Settle { vmid: Vmid },
    /// The same for a guest that is starting: waits for it (called by the hook)
    #[command(hide = true)]
    Started { vmid: Vmid },
    /// Start everything that interrupted backups left stopped (called at boot)
    #[command(after_help = "Example: stillpoint recover")]
    Recover,
    /// Guard a guest while its containers are stopped (called by the hook)
    #[command(hide = true)]
    Guard { vmid: Vmid },
    /// Collect the outcomes of verifies (called by the hook)
    #[command(hide = true)]
    Collect,
    /// Ask the backup servers again about proven backups (called by a timer)
    #[command(hide = true)]
    Refresh,
}

/// The form of `status`.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
pub struct StatusForm {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// One line and an exit status, as Nagios plugins do
    #[arg(long)]
    pub check: bool,
    /// Lines of a Checkmk local check
    #[arg(long)]
    pub checkmk: bool,
}

/// Which records to show.
#[derive(Args, Clone, Debug)]
pub struct JournalArguments {
    /// One JSON object for each record
    #[arg(long)]
    pub json: bool,
    /// Only this guest
    #[arg(long, value_name = "VMID")]
    pub guest: Option<Vmid>,
    /// Only records of this kind: backup, verify, recovered, settled, identity, ...
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Only records since then: a time, or how long ago, as in 7d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<DateTime<Utc>>,
    /// Only records before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<DateTime<Utc>>,
    /// Only the newest of these
    #[arg(long, value_name = "NUMBER")]
    pub last: Option<usize>,
    /// Then wait for more records, until Ctrl-C
    #[arg(long)]
    pub follow: bool,
    /// Check whether a record was changed, cut out or moved after it was written
    #[arg(long, conflicts_with_all = ["json", "guest", "kind", "since", "until", "last", "follow"])]
    pub check_chain: bool,
    /// Also check that the line with this head is still there; each job's summary has a head
    #[arg(long, value_name = "HEAD", requires = "check_chain")]
    pub against: Option<String>,
}

/// Some guests, or all guests of this node.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct Guests {
    #[arg(value_name = "VMID")]
    pub vmids: Vec<Vmid>,
    /// Every container of this node
    #[arg(long)]
    pub all: bool,
}

/// A local time, a time of RFC 3339, or how long ago.
fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    let local = |time: NaiveDateTime| time.and_local_timezone(Local).earliest();
    let day = |text: &str| text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0);
    let formats = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"];
    let ago = config::duration(text)
        .and_then(|ago| clock::now().checked_sub_signed(TimeDelta::from_std(ago).ok()?));
    let written = || formats.iter().find_map(|it| NaiveDateTime::parse_from_str(text, it).ok());
    ago.or_else(|| text.parse::<DateTime<Utc>>().ok())
        .or_else(|| written().or_else(|| day(text)).and_then(local).map(|it| it.to_utc()))
        .ok_or_else(|| "a time, as in 2026-11-21 or '2026-11-21 23:00', or 7d".to_string())
}

/// A duration in the notation of the settings.
fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).ok_or_else(|| "a whole number and its unit, as in 26h or 8d".to_string())
}
