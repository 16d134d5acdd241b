use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{print, print_json};
use crate::inventory::{self, Item, Place};
use crate::pbs::{BackupType, Choice, Pbs};
use crate::pve::node_name;
use crate::pve::storage::Attached;
use crate::sys::text::{count, printable};
use crate::sys::{Root, terminal};
use crate::vzdump::Vmid;

/// The limit for listing one storage, however long the list is and however slowly it is read.
const LIST_LIMIT: Duration = Duration::from_secs(3600);

/// From this many columns on, a terminal has room for the owner and a short comment.
const ROOMY: usize = 110;

/// How many invalid snapshots are reported with their reason.
const TOLD: usize = 3;

/// Prints the snapshots of one storage, or of all storages that this node uses, in no particular
/// order. The exit status is 1 if a list could not be read to its end.
pub fn snapshots(
    root: &Root,
    storage: Option<&str>,
    guest: Option<Vmid>,
    as_json: bool,
) -> Result<u8> {
    let places = places(root, storage)?;
    let mut status = 0;
    for place in &places {
        if !as_json {
            print(&headline(place))?;
        }
        // A storage that this node does not use is asked only if it was named.
        if storage.is_none() && place.attached != Attached::Enabled {
            continue;
        }
        if let Err(error) = list(root, place, guest, as_json) {
            eprintln!("stillpoint: {}: {error:#}", place.storage);
            status = 1;
        }
    }
    Ok(status)
}

fn places(root: &Root, storage: Option<&str>) -> Result<Vec<Place>> {
    let places = match inventory::places(root, &node_name(root)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.context("/etc/pve/storage.cfg")?,
    };
    let Some(wanted) = storage else {
        if places.is_empty() {
            bail!("no storage of this node is a Proxmox Backup Server (`pvesm add pbs` adds one)");
        }
        return Ok(places);
    };
    let found: Vec<Place> = places.into_iter().filter(|place| place.storage == wanted).collect();
    if found.is_empty() {
        bail!("{}: no such storage of type pbs (`pvesm status` lists them)", printable(wanted, 80));
    }
    Ok(found)
}

/// `Storage offsite, enabled, namespace pve: 192.0.2.7:tank#05:53:...`
fn headline(place: &Place) -> String {
    let attached = match place.attached {
        Attached::Enabled => "enabled",
        Attached::Disabled => "disabled",
        Attached::Elsewhere => "only on other nodes",
    };
    let namespace = match &place.namespace {
        Some(name) => format!(", namespace {name}"),
        None => String::new(),
    };
    let id = place.storage_id.as_deref().unwrap_or("server or datastore missing");
    printable(&format!("Storage {}, {attached}{namespace}: {id}", place.storage), 1000)
}

fn list(root: &Root, place: &Place, guest: Option<Vmid>, as_json: bool) -> Result<()> {
    let pbs = Pbs::open(root, &place.storage)?;
    let id = guest.map(|guest| guest.to_string());
    let choice = Choice { backup_type: None, backup_id: id.as_deref() };
    let (mut printed, mut shown, mut odd) = (Ok(()), 0, 0);
    let deadline = Instant::now() + LIST_LIMIT;
    let listed = pbs.each_snapshot(choice, deadline, &mut |entry| {
        let entry = match entry {
            Ok(entry) => entry,
            Err(reason) => {
                odd += 1;
                if odd <= TOLD {
                    eprintln!("stillpoint: {}: a snapshot is left out: {reason}", place.storage);
                }
                return ControlFlow::Continue(());
            }
        };
        // A host's backup may have the same name as a guest's.
        if guest.is_some() && entry.snapshot.backup_type == BackupType::Host {
            return ControlFlow::Continue(());
        }
        let item = Item::of(place, entry);
        printed = if as_json { json(&item) } else { table(&item, shown) };
        shown += 1;
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    printed?;
    listed?;
    if !as_json {
        print(&format!("{}.", count(shown, "snapshot")))?;
    }
    if odd > 0 {
        bail!("{} not understood", count(odd, "snapshot"));
    }
    Ok(())
}

fn json(item: &Item<'_>) -> Result<()> {
    print_json(&serde_json::to_string(item)?)
}

fn table(item: &Item<'_>, shown: usize) -> Result<()> {
    if shown == 0 {
        row(Item::head())?;
    }
    row(item.row())
}

/// Owner and comment go on a second line if the terminal has no room.
fn row([first, more]: [String; 2]) -> Result<()> {
    if !terminal::is_read() || terminal::width() >= ROOMY {
        return print(format!("{first} {more}").trim_end());
    }
    print(first.trim_end())?;
    print(&format!("    {more}"))
}
