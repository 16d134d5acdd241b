//! Whether a guest is the one that was backed up, or a copy of it.

use anyhow::Result;

use super::appearance::Appearance;
use super::owner::Records;
use super::restores::{Restored, Restores};
use crate::pve::{Config, Member};
use crate::sys::Root;
use crate::vzdump::Vmid;

/// The origin of a guest, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    pub vmid: Vmid,
    /// The guest that wrote the note inside it: the content is that guest's.
    pub noted: Option<Vmid>,
    /// The guest whose backup it was restored from, or that it is recorded as a copy of.
    pub origin: Option<Vmid>,
    pub restored: Restored,
    /// An admin, or the record of hardware addresses, says that it is the original now.
    pub is_original: bool,
}

/// Another guest of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub vmid: Vmid,
    pub origin: Option<Vmid>,
    pub restored: Restored,
}

/// What a guest is a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The guest that was backed up, if it still exists.
    pub original: Option<Vmid>,
    /// Other copies that came later than this one, which yield to it.
    pub later: Vec<Vmid>,
}

/// Decides whether a guest is a copy: of a guest that still exists, or of the same guest as an
/// earlier copy.
///
/// `None` for the guest that was backed up, whatever copies exist; for one that was restored over
/// itself; and for one whose original is gone.
pub fn copied(own: &Provenance, others: &[Neighbour]) -> Option<Copied> {
    let sources: Vec<Vmid> =
        own.noted.into_iter().chain(own.origin).filter(|source| *source != own.vmid).collect();
    if own.is_original || sources.is_empty() {
        return None;
    }
    let original = others.iter().find(|other| sources.contains(&other.vmid));
    let (later, earlier): (Vec<&Neighbour>, Vec<&Neighbour>) = others
        .iter()
        .filter(|other| other.origin.is_some_and(|origin| sources.contains(&origin)))
        .filter(|other| !sources.contains(&other.vmid))
        .partition(|other| came_after(other.restored, own.restored));
    (original.is_some() || !earlier.is_empty()).then(|| Copied {
        original: original.map(|original| original.vmid),
        later: later.into_iter().map(|other| other.vmid).collect(),
    })
}

fn came_after(its: Restored, ours: Restored) -> bool {
    match (its, ours) {
        (Restored::At(its), Restored::At(ours)) => its > ours,
        (Restored::At(_), Restored::NotHere) => true,
        _ => false,
    }
}

/// Gathers the input of [`copied`] and decides. `noted`: who wrote the note in the guest, if that
/// is known.
///
/// # Errors
/// If the node's tasks or the records cannot be read.
pub fn copied_from(
    root: &Root,
    vmid: Vmid,
    config: &Config,
    noted: Option<Vmid>,
    guests: &[(Member, Config)],
) -> Result<Option<Copied>> {
    let restores = Restores::read(root)?;
    let records = Records::of(root);
    let record = records.read(vmid)?;
    let recorded =
        record.as_ref().and_then(|record| record.changed.as_ref()).and_then(|it| it.original);
    let origin = restores.origin(root, vmid);
    let own = Provenance {
        vmid,
        noted,
        // The note inside the guest is from its last restore; the record may be from an earlier
        // one.
        origin: if noted.is_some() { origin } else { origin.or(recorded) },
        restored: restores.of(vmid),
        is_original: match &record {
            Some(record) if record.changed.is_none() => {
                let claims = Appearance::of(config).macs();
                let of_others = |(member, other): &(Member, Config)| {
                    let theirs = Appearance::of(other).macs();
                    member.vmid != vmid
                        && theirs
                            .iter()
                            .any(|mac| claims.contains(mac) && record.macs.contains(mac))
                        && matches!(records.read(member.vmid), Ok(None))
                };
                guests.iter().any(of_others)
            }
            _ => false,
        },
    };
    let neighbour = |(member, _): &(Member, Config)| Neighbour {
        vmid: member.vmid,
        origin: restores.origin(root, member.vmid),
        restored: restores.of(member.vmid),
    };
    let others: Vec<Neighbour> =
        guests.iter().map(neighbour).filter(|other| other.vmid != vmid).collect();
    Ok(copied(&own, &others))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(noted: Option<u32>, origin: Option<u32>, restored: Restored) -> Provenance {
        Provenance {
            vmid: Vmid(9002),
            noted: noted.map(Vmid),
            origin: origin.map(Vmid),
            restored,
            is_original: false,
        }
    }

    fn other(vmid: u32, origin: Option<u32>, restored: Restored) -> Neighbour {
        Neighbour { vmid: Vmid(vmid), origin: origin.map(Vmid), restored }
    }

    #[test]
    fn the_table_of_who_is_a_copy() {
        use Restored::{At, NotHere, Unknown};
        let is_copy = |own: &Provenance, others: &[Neighbour]| copied(own, others).is_some();
        let original = other(9001, None, NotHere);
        for (own, others, expected, why) in [
            (own(Some(9001), None, Unknown), vec![original], true, "its note is another's"),
            (own(None, Some(9001), At(5)), vec![original], true, "restored from another's backup"),
            (own(Some(9002), None, NotHere), vec![original], false, "itself after a power cut"),
            (own(Some(9002), Some(9002), At(5)), vec![original], false, "restored over itself"),
            (own(Some(9002), Some(9001), At(5)), vec![original], true, "in doubt a copy"),
            (own(None, None, Unknown), vec![original], false, "nothing says that it is one"),
            (own(Some(9001), None, At(5)), vec![], false, "its original is gone"),
            (own(Some(9001), None, At(5)), vec![other(9005, None, NotHere)], false, "gone"),
            (
                own(Some(9001), Some(9001), At(5)),
                vec![other(9003, Some(9001), At(3))],
                true,
                "another copy was there before",
            ),
            (
                own(Some(9001), Some(9001), At(5)),
                vec![other(9003, Some(9001), At(7))],
                false,
                "another copy came later",
            ),
            (
                own(Some(9001), None, Unknown),
                vec![other(9003, Some(9001), At(7))],
                true,
                "which copy came first cannot be determined",
            ),
        ] {
            assert_eq!(is_copy(&own, &others), expected, "{why}: {own:?} {others:?}");
            let adopted = Provenance { is_original: true, ..own };
            assert!(!is_copy(&adopted, &others), "{why}: it was adopted");
        }
    }

    #[test]
    fn later_copies_yield() {
        let own = own(Some(9001), Some(9001), Restored::At(5));
        let others = [
            other(9001, None, Restored::NotHere),
            other(9003, Some(9001), Restored::At(7)),
            other(9004, Some(9001), Restored::At(3)),
        ];
        let copied = copied(&own, &others).unwrap();
        assert_eq!((copied.original, copied.later), (Some(Vmid(9001)), vec![Vmid(9003)]));
    }
}
