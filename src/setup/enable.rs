//! Makes PVE call Stillpoint at the start of single guests: their `hookscript:`.

use anyhow::{Context, Result, bail};

use super::{kept, nodes, snippet, storages};
use crate::config::Settings;
use crate::guest;
use crate::identity;
use crate::pve::{self, Config, Member, Place, is_our_snippet};
use crate::setup::storages::Storage;
use crate::sys::Root;
use crate::vzdump::{GuestType, Vmid};

/// What to do with a guest.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing to do.
    Nothing,
    /// Set our hookscript.
    Set,
    /// Set ours, which calls the present one.
    Chain(String),
    /// Remove ours.
    Unset,
    /// Put back the previous one.
    PutBack(String),
}

/// The result for a guest, in a sentence; `Err` says why nothing was changed.
pub type Told = (Vmid, Result<String>);

/// The guests to change.
pub enum Which<'a> {
    These(&'a [Vmid]),
    /// Every container of this node.
    All,
}

impl Which<'_> {
    pub(super) fn vmids(&self, root: &Root) -> Result<Vec<Vmid>> {
        match self {
            Which::These(vmids) => {
                let mut vmids = vmids.to_vec();
                vmids.sort_unstable();
                vmids.dedup();
                Ok(vmids)
            }
            Which::All => {
                let here = |member: &Member| {
                    member.node.is_none() || member.node.as_deref() == Some(&pve::node_name(root))
                };
                let members = pve::members(root)?.into_iter();
                Ok(members
                    .filter(|member| member.guest_type == GuestType::Lxc && here(member))
                    .map(|member| member.vmid)
                    .collect())
            }
        }
    }
}

/// Sets our hookscript for each guest.
///
/// # Errors
/// If no storage can hold it, or if a guest could then not start on every node of the cluster.
pub fn enable(root: &Root, which: &Which<'_>, dry_run: bool) -> Result<Vec<Told>> {
    let vmids = which.vmids(root)?;
    let settings = Settings::load(root);
    let storage = choose(root)?;
    if !dry_run {
        // Also if guests are then refused: another node may be waiting for this node's files.
        snippet::install(root, &storage)?;
        nodes::leave_note(root)?;
    }
    everywhere(root, &storage)?;
    let volume = snippet::volume(&storage);
    let set = |vmid| {
        let config = here(root, vmid)?;
        let kept = kept::volume(root, vmid, &config).unwrap_or_default();
        let step = step_to_enable(&config, kept, settings.restore.chain)?;
        if !dry_run {
            take(root, vmid, &config, &step, &volume)?;
        }
        Ok(match (step, dry_run) {
            (Step::Chain(theirs), false) => {
                format!("hookscript enabled; {theirs} is kept, and Stillpoint calls it")
            }
            (Step::Chain(theirs), true) => {
                format!(
                    "hookscript would be enabled; {theirs} would be kept, and Stillpoint would \
                     call it"
                )
            }
            (Step::Nothing, _) => "hookscript already enabled".to_string(),
            (_, false) => "hookscript enabled".to_string(),
            (_, true) => {
                format!("hookscript would be enabled: pct set {vmid} --hookscript {volume}")
            }
        })
    };
    let mut told: Vec<Told> = vmids.into_iter().map(|vmid| (vmid, set(vmid))).collect();
    if !dry_run {
        record_owners(root, &mut told)?;
    }
    Ok(told)
}

/// Guests that are enabled now existed before every future copy of them, so they own their
/// addresses.
fn record_owners(root: &Root, told: &mut [Told]) -> Result<()> {
    let set: Vec<Vmid> =
        told.iter().filter(|(_, told)| told.is_ok()).map(|(vmid, _)| *vmid).collect();
    if set.is_empty() {
        return Ok(());
    }
    let mut unknown = identity::remember_all(root, &set).context(
        "the hookscripts are enabled, but the guests' hardware addresses cannot be recorded as \
         their own",
    )?;
    for (vmid, told) in told {
        if let (Ok(done), Some(error)) = (&told, unknown.remove(vmid)) {
            *told = Ok(format!(
                "{done}, but its hardware addresses cannot be recorded as its own: {error:#}"
            ));
        }
    }
    Ok(())
}

/// Removes our hookscript from each guest, and puts back the previous one.
pub fn disable(root: &Root, which: &Which<'_>, dry_run: bool) -> Result<Vec<Told>> {
    let tell = |vmid| {
        let config = here(root, vmid)?;
        let step = step_to_disable(&config, kept::volume(root, vmid, &config)?);
        if dry_run {
            return Ok(match step {
                Step::Nothing => "hookscript not enabled".to_string(),
                Step::PutBack(theirs) => format!("hookscript would be {theirs} again"),
                _ => format!("hookscript would be disabled: pct set {vmid} --delete hookscript"),
            });
        }
        give_up(root, vmid, step)
    };
    Ok(which.vmids(root)?.into_iter().map(|vmid| (vmid, tell(vmid))).collect())
}

fn step_to_enable(config: &Config, kept: Option<String>, chain: bool) -> Result<Step> {
    match (&config.hookscript, kept) {
        // The previous one could not be put back at the last disable.
        (None, Some(theirs)) if chain => Ok(Step::Chain(theirs)),
        (None, _) => Ok(Step::Set),
        (Some(volume), _) if is_our_snippet(volume) => Ok(Step::Nothing),
        (Some(volume), _) if chain => Ok(Step::Chain(volume.clone())),
        (Some(volume), _) => bail!(
            "it has the hookscript {volume}, and `restore.chain` is false: Stillpoint must not \
             replace it"
        ),
    }
}

fn step_to_disable(config: &Config, kept: Option<String>) -> Step {
    match (&config.hookscript, kept) {
        (Some(volume), kept) if is_our_snippet(volume) => kept.map_or(Step::Unset, Step::PutBack),
        _ => Step::Nothing,
    }
}

fn choose(root: &Root) -> Result<Storage> {
    let storages = storages::directories(root)?;
    let in_cluster = !nodes::others(root)?.is_empty();
    match storages::choose(&storages, in_cluster) {
        Some(storage) => Ok(storage.clone()),
        None => bail!(
            "no storage of this node accepts snippets, which a hookscript needs. To allow them: {}",
            storages::way_to_one(&storages)
        ),
    }
}

/// Checks that guests with our hookscript can start on every node of the cluster.
fn everywhere(root: &Root, storage: &Storage) -> Result<()> {
    let without = nodes::without_snippet(root, storage)?;
    if without.is_empty() {
        return Ok(());
    }
    bail!(
        "a guest that moves to {} could not start there, for {} is missing. Install the package there and run \
         `stillpoint register`, or use `stillpoint register --all-guests` on each node, which needs no hookscript",
        without.join(", "),
        snippet::volume(storage)
    );
}

/// The configuration of an LXC guest of this node.
fn here(root: &Root, vmid: Vmid) -> Result<Config> {
    if root.path("/etc/pve/qemu-server").join(format!("{vmid}.conf")).exists() {
        bail!("it is a VM: the hookscript is for containers only");
    }
    match Place::of(root, vmid)? {
        Place::Here(config) => Ok(config),
        Place::Elsewhere(node) => bail!("it is on node {node}: run this there"),
        Place::Gone => bail!("there is no such guest: `pct list` shows the guests"),
    }
}

fn take(root: &Root, vmid: Vmid, config: &Config, step: &Step, volume: &str) -> Result<()> {
    match step {
        Step::Chain(theirs) => {
            // Stored before it is removed from the configuration: a power cut must not lose it.
            kept::keep(root, vmid, config, theirs)?;
            guest::set_hookscript(root, vmid, Some(volume))
        }
        Step::Set => {
            // It belonged to an earlier guest with this VMID.
            kept::forget(root, vmid)?;
            guest::set_hookscript(root, vmid, Some(volume))
        }
        _ => Ok(()),
    }
}

fn give_up(root: &Root, vmid: Vmid, step: Step) -> Result<String> {
    let told = match step {
        Step::Nothing => return Ok("hookscript not enabled".to_string()),
        Step::PutBack(theirs) => match guest::set_hookscript(root, vmid, Some(&theirs)) {
            Ok(()) => format!("hookscript disabled; it is {theirs} again"),
            Err(error) => {
                // Without a hookscript the guest starts; with one that PVE refuses it does not. It
                // stays stored, because its file may come back.
                guest::set_hookscript(root, vmid, None)?;
                return Ok(format!(
                    "hookscript disabled, but the previous one cannot be put back: {error:#}. \
                     Once that is fixed: pct set {vmid} --hookscript {theirs}"
                ));
            }
        },
        _ => {
            guest::set_hookscript(root, vmid, None)?;
            "hookscript disabled".to_string()
        }
    };
    kept::forget(root, vmid)?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hookscript: Option<&str>) -> Config {
        Config { hookscript: hookscript.map(String::from), ..Config::default() }
    }

    #[test]
    fn a_hookscript_of_somebody_else_is_chained_or_left_alone() {
        let theirs = config(Some("local:snippets/dns.pl"));
        let chain = Step::Chain("local:snippets/dns.pl".to_string());
        assert_eq!(step_to_enable(&theirs, None, true).unwrap(), chain);
        assert!(step_to_enable(&theirs, None, false).is_err());
        assert_eq!(step_to_enable(&config(None), None, false).unwrap(), Step::Set);
        let ours = config(Some("share:snippets/stillpoint"));
        assert_eq!(step_to_enable(&ours, None, true).unwrap(), Step::Nothing);
        let kept = || Some("local:snippets/dns.pl".to_string());
        assert_eq!(step_to_enable(&config(None), kept(), true).unwrap(), chain);
        assert_eq!(step_to_enable(&config(None), kept(), false).unwrap(), Step::Set);
    }

    #[test]
    fn only_our_own_hookscript_is_taken_off() {
        let kept = || Some("local:snippets/dns.pl".to_string());
        let ours = config(Some("local:snippets/stillpoint"));
        assert_eq!(step_to_disable(&ours, None), Step::Unset);
        assert_eq!(step_to_disable(&ours, kept()), Step::PutBack("local:snippets/dns.pl".into()));
        assert_eq!(step_to_disable(&config(Some("local:snippets/dns.pl")), kept()), Step::Nothing);
        assert_eq!(step_to_disable(&config(None), kept()), Step::Nothing);
    }
}
