use std::collections::BTreeSet;

use super::appearance::{Appearance, Rival};
use super::restores::Restored;
use crate::config::Identity;
use crate::pve::Mac;
use crate::vzdump::Vmid;

/// Everything that the decision depends on.
#[derive(Clone, Debug)]
pub struct Case {
    pub vmid: Vmid,
    /// `restore.identity` of this guest.
    pub setting: Identity,
    /// What this guest has.
    pub own: Appearance,
    /// What is recorded of it.
    pub recorded: Recorded,
    /// When it was restored.
    pub restored: Restored,
    /// The guest whose backup it was restored from, if that is known.
    pub origin: Option<Vmid>,
    /// The node is in no cluster: if it knows of no restore of a guest, no other node has restored
    /// it either.
    pub alone: bool,
    /// The guests that have a part of its appearance too.
    pub rivals: Vec<Rival>,
}

/// The ownership record of a guest, as far as a decision needs it.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    pub macs: BTreeSet<Mac>,
    /// When these were first seen, in seconds since 1970; `None` without a record.
    pub since: Option<i64>,
}

/// The decision about a guest's identity at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// In words.
    pub reason: String,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays; `remember`: it may be recorded as the guest's own.
    Keep { remember: bool },
    /// The guest is a copy.
    Change(Due),
    /// Not certain, so nothing is changed.
    InDoubt,
}

/// The parts of a copy's identity that are not its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The guest that it is a copy of, if that is known.
    pub original: Option<Vmid>,
    /// The nets that get a new hardware address.
    pub macs: Vec<u32>,
    /// The nets whose static addresses are not this guest's.
    pub addresses: Vec<u32>,
    pub hostname: bool,
}

/// Decides whose identity a guest has that is about to start.
///
/// A hardware address belongs to the guest that it is recorded for. Without a record, a running
/// guest was there before a guest that was restored here and is about to start, and a guest that
/// was restored here came after one that was not. If the running guest was itself started in doubt,
/// that proves nothing: anybody who may change its configuration can have given it another guest's
/// address. Without a conflict nothing changes: after a disaster the restored guest *is* the
/// original.
pub fn decide(case: &Case) -> Decision {
    let keep = |remember, reason: String| Decision { verdict: Verdict::Keep { remember }, reason };
    let shared = case.shared();
    if case.setting == Identity::Never {
        return keep(shared.is_empty(), "restore.identity is never".to_string());
    }
    if case.setting == Identity::Always
        && let Some(reason) = case.is_new_here()
    {
        return Decision { verdict: Verdict::Change(case.all(&shared)), reason };
    }
    if !shared.is_empty() {
        return of_conflict(case, &shared);
    }
    match of_twin(case) {
        Some(decision) => decision,
        None if case.own.macs().is_empty() => {
            keep(true, "it has no hardware address of its own".to_string())
        }
        None => {
            let reason = "no other guest of the cluster has its hardware address".to_string();
            keep(true, reason + &case.as_a_clone())
        }
    }
}

/// Another guest has one of this guest's hardware addresses.
fn of_conflict(case: &Case, shared: &[&Rival]) -> Decision {
    let claims = |macs: &BTreeSet<Mac>, rival: &Rival| !macs.is_disjoint(&rival.shared);
    let owner = shared.iter().find(|rival| claims(&rival.claims, rival));
    let ours = shared.iter().all(|rival| claims(&case.recorded.macs, rival));
    let later = |rival: &Rival| rival.came_after(case.restored);
    let surely_later =
        |rival: &Rival| later(rival) && (case.alone || matches!(case.restored, Restored::At(_)));
    let restored_here = matches!(case.restored, Restored::At(_));
    let proves = |rival: &&&Rival| rival.running == Some(true) && !later(rival) && !rival.in_doubt;
    let running = shared.iter().find(|rival| restored_here && proves(rival));
    let (verdict, reason) = match (owner, ours) {
        (Some(owner), true) => {
            let owner = owner.name();
            (
                Verdict::InDoubt,
                format!("{} is recorded both for it and for {owner}", case.mac(shared)),
            )
        }
        (Some(owner), false) => {
            let reason = format!("{} belongs to {}", owner.mac(), owner.name());
            (Verdict::Change(case.due(Some(owner.vmid))), reason)
        }
        (None, true) => {
            let (mac, other) = (case.mac(shared), shared[0].name());
            (
                Verdict::Keep { remember: true },
                format!("{mac} is its own, though {other} has it too"),
            )
        }
        (None, false) => match running {
            Some(running) => {
                let reason =
                    format!("{} is in use by {}, which runs", running.mac(), running.name());
                (Verdict::Change(case.due(Some(running.vmid))), reason)
            }
            None if shared.iter().all(|rival| surely_later(rival)) => {
                let (mac, other) = (case.mac(shared), shared[0].name());
                let reason = format!(
                    "{mac} is its own: {other}, which has it too, was restored from a backup later"
                );
                (Verdict::Keep { remember: true }, reason)
            }
            None => {
                let rival = shared.iter().find(|rival| !later(rival)).unwrap_or(&shared[0]);
                let reason = format!(
                    "{} has {} too, {}, and which of the two was first is not recorded",
                    rival.name(),
                    rival.mac(),
                    rival.state()
                );
                (Verdict::InDoubt, reason)
            }
        },
    };
    Decision { verdict, reason }
}

/// A copy that was restored with new hardware addresses (`--unique 1`) still has the hostname and
/// static addresses of its original. A clone has them too, and is not changed: only a guest that
/// was restored here counts, and one that was restored under its own VMID is no copy.
///
/// An address of a stopped guest conflicts with nobody, and that guest may be a spare: unless
/// something shows that it is the original, nothing is changed.
fn of_twin(case: &Case) -> Option<Decision> {
    if !case.may_be_a_copy() {
        return None;
    }
    let is_original = |rival: &&Rival| match case.origin {
        Some(origin) => origin == rival.vmid,
        None => rival.is_alike,
    };
    let twins = || case.rivals.iter().filter(|rival| !rival.came_after(case.restored));
    let with_address = || twins().filter(|rival| !rival.addresses.is_empty());
    let twin = twins()
        .find(is_original)
        .or_else(|| with_address().find(|rival| rival.running == Some(true)));
    if let Some(twin) = twin {
        let reason = match twin.addresses.first() {
            Some((_, address)) => format!(
                "it was restored from a backup, and {} has its address {address}",
                twin.name()
            ),
            None if case.origin.is_some() => {
                format!("it was restored from a backup of {}", twin.name())
            }
            None => format!("it was restored from a backup of a guest like {}", twin.name()),
        };
        let due = Due {
            original: Some(twin.vmid),
            macs: Vec::new(),
            addresses: twin.addresses.iter().map(|(net, _)| *net).collect(),
            hostname: twin.same_hostname,
        };
        return Some(Decision { verdict: Verdict::Change(due), reason });
    }
    let spare = with_address().next()?;
    let address = spare.addresses.first().map_or("", |(_, address)| address);
    let reason = format!(
        "{} has its address {address} too, {}, and which of the two was first is not recorded",
        spare.name(),
        spare.state()
    );
    Some(Decision { verdict: Verdict::InDoubt, reason })
}

impl Case {
    /// Whether values inside the guest may be replaced: only if a task of this node has restored
    /// it, or an admin has set that each restored guest is a copy.
    pub fn may_be_renewed(&self) -> bool {
        matches!(self.restored, Restored::At(_)) || self.setting == Identity::Always
    }

    /// The guests with one of this guest's hardware addresses.
    pub fn shared(&self) -> Vec<&Rival> {
        self.rivals.iter().filter(|rival| !rival.shared.is_empty()).collect()
    }

    /// It was restored here from another guest's backup, as far as is recorded, and not started
    /// since.
    fn may_be_a_copy(&self) -> bool {
        let Restored::At(at) = self.restored else { return false };
        let handled = self.is_recorded() || self.recorded.since.is_some_and(|since| since >= at);
        !handled && self.origin != Some(self.vmid)
    }

    /// The guest whose machine-id and host keys it may have, although nothing visible from outside
    /// is shared. Only comparing both inside can show it, because its backup may come from another
    /// cluster that uses the same VMID.
    pub fn may_share_inside_with(&self) -> Option<Vmid> {
        self.origin.filter(|_| self.setting != Identity::Never && self.may_be_a_copy())
    }

    /// A guest that was restored on another node and moved here before its first start looks like a
    /// clone.
    fn as_a_clone(&self) -> String {
        let twin = self.rivals.iter().find(|rival| rival.is_alike || !rival.addresses.is_empty());
        match (twin, self.restored, self.is_recorded()) {
            (Some(twin), Restored::NotHere | Restored::Unknown, false) => format!(
                "; it is like {}, but no restore of it is known on this node, and a clone is left as it is",
                twin.name()
            ),
            _ => String::new(),
        }
    }

    /// Everything that it has is recorded as its own.
    fn is_recorded(&self) -> bool {
        self.recorded.since.is_some() && self.own.macs().is_subset(&self.recorded.macs)
    }

    /// Why a guest counts as restored and not started since, if it does.
    fn is_new_here(&self) -> Option<String> {
        if self.is_recorded() {
            return None;
        }
        match self.restored {
            Restored::At(at) if self.recorded.since.is_none_or(|since| since < at) => {
                Some("it was restored from a backup, and restore.identity is always".to_string())
            }
            Restored::Unknown => Some(
                "nothing is recorded of it under this identity, and restore.identity is always"
                    .to_string(),
            ),
            Restored::At(_) | Restored::NotHere => None,
        }
    }

    fn due(&self, original: Option<Vmid>) -> Due {
        let shared: BTreeSet<Mac> =
            self.rivals.iter().flat_map(|rival| &rival.shared).copied().collect();
        let clashes = |net: &u32| {
            self.rivals.iter().any(|rival| rival.addresses.iter().any(|(at, _)| at == net))
        };
        let has_shared = |net: &u32| self.own.mac_of(*net).is_some_and(|mac| shared.contains(&mac));
        let of = |meant: &dyn Fn(&u32) -> bool| -> Vec<u32> {
            self.own.nets.iter().map(|(net, _)| *net).filter(|net| meant(net)).collect()
        };
        Due {
            original,
            macs: of(&has_shared),
            addresses: of(&|net| self.own.has_address(*net) && (has_shared(net) || clashes(net))),
            hostname: self.rivals.iter().any(|rival| rival.same_hostname),
        }
    }

    /// Everything, because the original is not visible from here.
    fn all(&self, shared: &[&Rival]) -> Due {
        let nets = || self.own.nets.iter().map(|(net, _)| *net);
        Due {
            original: shared.first().map(|rival| rival.vmid),
            macs: nets().filter(|net| self.own.mac_of(*net).is_some()).collect(),
            addresses: nets().filter(|net| self.own.has_address(*net)).collect(),
            hostname: self.own.hostname.is_some(),
        }
    }

    fn mac(&self, shared: &[&Rival]) -> String {
        shared.first().map_or_else(String::new, |rival| rival.mac())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pve::Net;
    use crate::vzdump::GuestType;

    const MAC: &str = "BC:24:11:00:00:01";

    fn mac() -> Mac {
        MAC.parse().unwrap()
    }

    fn own() -> Appearance {
        let net = |number: u32, text: String| (number, Net::parse(&text));
        let nets = vec![
            net(0, format!("name=eth0,bridge=vmbr0,hwaddr={MAC},ip=192.0.2.7/24")),
            net(1, "name=eth1,bridge=vmbr1,hwaddr=BC:24:11:00:00:02,ip=198.51.100.7/24".into()),
            net(2, "name=eth2,bridge=vmbr1,ip=dhcp".into()),
        ];
        Appearance { hostname: Some("web".to_string()), nets }
    }

    /// Has the first hardware address, the hostname and the first static address, and is stopped
    /// here.
    fn original() -> Rival {
        Rival {
            vmid: Vmid(9001),
            guest_type: GuestType::Lxc,
            node: None,
            hostname: Some("web".to_string()),
            shared: BTreeSet::from([mac()]),
            addresses: vec![(0, "192.0.2.7".to_string())],
            same_hostname: true,
            is_alike: true,
            in_doubt: false,
            running: Some(false),
            claims: BTreeSet::new(),
            restored: Restored::NotHere,
        }
    }

    fn case(rivals: Vec<Rival>) -> Case {
        Case {
            vmid: Vmid(9002),
            origin: None,
            setting: Identity::IfConflict,
            own: own(),
            recorded: Recorded::default(),
            restored: Restored::At(100),
            alone: true,
            rivals,
        }
    }

    fn recorded(macs: &[Mac], since: i64) -> Recorded {
        Recorded { macs: macs.iter().copied().collect(), since: Some(since) }
    }

    /// `keep`, `keep*` if it is to be remembered, `change` or `doubt`; and the reason.
    fn verdict(case: &Case) -> (&'static str, String) {
        let Decision { verdict, reason } = decide(case);
        let word = match verdict {
            Verdict::Keep { remember: true } => "keep*",
            Verdict::Keep { remember: false } => "keep",
            Verdict::Change(_) => "change",
            Verdict::InDoubt => "doubt",
        };
        assert!(!reason.is_empty());
        (word, reason)
    }

    #[test]
    fn who_owns_a_hardware_address() {
        let none = BTreeSet::new();
        let its = BTreeSet::from([mac()]);
        let here = |running| (None, running);
        let elsewhere = || (Some("two".to_string()), None);
        let reported = |running| (Some("two".to_string()), Some(running));
        // recorded for the other, for this one, where the other is, when each was restored
        let table = [
            (&its, false, here(Some(false)), Restored::NotHere, Restored::At(100), "change"),
            (&its, false, here(Some(true)), Restored::NotHere, Restored::Unknown, "change"),
            (&its, false, elsewhere(), Restored::Unknown, Restored::NotHere, "change"),
            (&its, true, here(Some(true)), Restored::NotHere, Restored::At(100), "doubt"),
            (&none, true, here(Some(true)), Restored::NotHere, Restored::NotHere, "keep*"),
            (&none, true, elsewhere(), Restored::Unknown, Restored::NotHere, "keep*"),
            (&none, false, here(Some(true)), Restored::NotHere, Restored::At(100), "change"),
            (&none, false, here(Some(true)), Restored::Unknown, Restored::Unknown, "doubt"),
            (&none, false, here(Some(true)), Restored::NotHere, Restored::NotHere, "doubt"),
            (&none, false, here(Some(true)), Restored::At(100), Restored::NotHere, "keep*"),
            (&none, false, here(Some(false)), Restored::NotHere, Restored::At(100), "doubt"),
            (&none, false, here(Some(false)), Restored::At(50), Restored::At(100), "doubt"),
            (&none, false, here(Some(false)), Restored::At(200), Restored::At(100), "keep*"),
            (&none, false, here(None), Restored::NotHere, Restored::At(100), "doubt"),
            (&none, false, elsewhere(), Restored::Unknown, Restored::At(100), "doubt"),
            (&none, false, reported(true), Restored::Unknown, Restored::At(100), "change"),
            (&none, false, reported(false), Restored::Unknown, Restored::At(100), "doubt"),
        ];
        for (row, (claims, ours, (node, running), its, restored, expected)) in
            table.into_iter().enumerate()
        {
            let rival =
                Rival { claims: claims.clone(), node, running, restored: its, ..original() };
            let mut case = Case { restored, ..case(vec![rival]) };
            if ours {
                case.recorded = recorded(&[mac()], 50);
            }
            let (verdict, reason) = verdict(&case);
            assert_eq!(verdict, expected, "row {row}: {reason}");
            assert!(reason.contains(MAC) && reason.contains("guest 9001 (web)"), "{reason}");
        }
    }

    #[test]
    fn a_guest_that_was_started_in_doubt_proves_nothing_by_running() {
        for (in_doubt, restored, expected) in [
            (true, Restored::At(100), "doubt"),
            (true, Restored::NotHere, "doubt"),
            (false, Restored::NotHere, "doubt"),
            (false, Restored::At(100), "change"),
        ] {
            let rival = Rival { running: Some(true), in_doubt, ..original() };
            let case = Case { restored, ..case(vec![rival]) };
            assert_eq!(verdict(&case).0, expected, "{in_doubt} {restored:?}");
        }
        let owner = Rival { claims: BTreeSet::from([mac()]), ..original() };
        let case = Case { restored: Restored::NotHere, ..case(vec![owner]) };
        assert!(
            verdict(&case).0 == "change" && !case.may_be_renewed(),
            "no restore of it is known"
        );
    }

    #[test]
    fn a_guest_of_a_cluster_may_have_been_restored_on_another_node() {
        for (running, alone, restored, expected) in [
            (true, true, Restored::NotHere, "keep*"),
            (true, false, Restored::NotHere, "doubt"),
            (false, false, Restored::NotHere, "doubt"),
            (true, false, Restored::At(50), "keep*"),
            (true, false, Restored::At(150), "change"),
        ] {
            let its = Restored::At(100);
            let rival = Rival { running: Some(running), restored: its, ..original() };
            let case = Case { alone, restored, ..case(vec![rival]) };
            let (verdict, reason) = verdict(&case);
            assert_eq!(verdict, expected, "{running} {alone} {restored:?}: {reason}");
        }
    }

    #[test]
    fn only_what_the_other_has_is_changed() {
        let running = Rival { running: Some(true), ..original() };
        let Verdict::Change(due) = decide(&case(vec![running.clone()])).verdict else { panic!() };
        let expected =
            Due { original: Some(Vmid(9001)), macs: vec![0], addresses: vec![0], hostname: true };
        assert_eq!(due, expected);
        let renamed = Rival { same_hostname: false, is_alike: false, ..running };
        let Verdict::Change(due) = decide(&case(vec![renamed])).verdict else { panic!() };
        assert!(!due.hostname, "the restore gave it another one");
    }

    #[test]
    fn without_a_conflict_the_restored_guest_is_the_original() {
        for restored in [Restored::At(100), Restored::NotHere, Restored::Unknown] {
            assert_eq!(verdict(&Case { restored, ..case(vec![]) }).0, "keep*");
        }
    }

    #[test]
    fn one_owner_among_several_is_enough() {
        let owner = Rival { claims: BTreeSet::from([mac()]), vmid: Vmid(9003), ..original() };
        let case = case(vec![original(), owner]);
        let Verdict::Change(due) = decide(&case).verdict else { panic!() };
        assert_eq!(due.original, Some(Vmid(9003)));
    }

    /// As after a restore with `--unique 1`, or a clone.
    fn twin() -> Rival {
        Rival { shared: BTreeSet::new(), running: None, ..original() }
    }

    #[test]
    fn a_copy_with_new_hardware_addresses_keeps_them() {
        let Verdict::Change(due) = decide(&case(vec![twin()])).verdict else { panic!() };
        let expected =
            Due { original: Some(Vmid(9001)), macs: vec![], addresses: vec![0], hostname: true };
        assert_eq!(due, expected);
        let by_dhcp = Rival { addresses: Vec::new(), ..twin() };
        assert_eq!(verdict(&case(vec![by_dhcp.clone()])).0, "change");
        let only_a_namesake = Rival { is_alike: false, ..by_dhcp };
        assert_eq!(verdict(&case(vec![only_a_namesake])).0, "keep*");
        let copied_later = Rival { restored: Restored::At(200), ..twin() };
        assert_eq!(verdict(&case(vec![copied_later])).0, "keep*");
    }

    #[test]
    fn the_backup_that_it_was_restored_from_tells_a_copy_from_an_original_with_a_spare() {
        let spare = || Rival { vmid: Vmid(9005), is_alike: false, same_hostname: false, ..twin() };
        let alike = || Rival { vmid: Vmid(9005), ..twin() };
        let by_dhcp = |rival: Rival| Rival { addresses: Vec::new(), ..rival };
        let renamed = || Rival { is_alike: false, same_hostname: false, ..twin() };
        let runs = |rival: Rival| Rival { running: Some(true), ..rival };
        let stopped = |rival: Rival| Rival { running: Some(false), ..rival };
        let table = [
            // restored under its own VMID, whatever runs
            (Some(9002), runs(spare()), "keep*"),
            (Some(9002), runs(alike()), "keep*"),
            // the guest that was backed up exists
            (Some(9001), stopped(twin()), "change"),
            (Some(9001), stopped(renamed()), "change"),
            (Some(9001), by_dhcp(twin()), "change"),
            // it is gone, or the rival is another guest
            (Some(9001), runs(spare()), "change"),
            (Some(9001), stopped(spare()), "doubt"),
            (Some(9001), stopped(alike()), "doubt"),
            (Some(9001), by_dhcp(alike()), "keep*"),
            // not known
            (None, runs(spare()), "change"),
            (None, stopped(spare()), "doubt"),
            (None, Rival { running: None, ..spare() }, "doubt"),
            (None, stopped(alike()), "change"),
        ];
        for (row, (origin, rival, expected)) in table.into_iter().enumerate() {
            let case = Case { origin: origin.map(Vmid), ..case(vec![rival]) };
            let (verdict, reason) = verdict(&case);
            assert_eq!(verdict, expected, "row {row}: {reason}");
        }
        let both = Case { origin: Some(Vmid(9001)), ..case(vec![runs(spare()), stopped(twin())]) };
        let Verdict::Change(due) = decide(&both).verdict else { panic!() };
        assert_eq!(due.original, Some(Vmid(9001)));
    }

    #[test]
    fn what_is_inside_is_compared_once_after_a_restore() {
        let restored = || Case { origin: Some(Vmid(9001)), ..case(vec![]) };
        assert_eq!(restored().may_share_inside_with(), Some(Vmid(9001)));
        let all: Vec<Mac> = own().macs().into_iter().collect();
        for other in [
            Case { origin: Some(Vmid(9002)), ..restored() },
            Case { origin: None, ..restored() },
            Case { restored: Restored::NotHere, ..restored() },
            Case { setting: Identity::Never, ..restored() },
            Case { recorded: recorded(&all, 150), ..restored() },
        ] {
            assert_eq!(other.may_share_inside_with(), None, "{other:?}");
        }
    }

    #[test]
    fn a_clone_and_a_guest_that_was_started_before_are_left_alone() {
        for restored in [Restored::NotHere, Restored::Unknown] {
            let (verdict, reason) = verdict(&Case { restored, ..case(vec![twin()]) });
            assert_eq!(verdict, "keep*");
            assert!(reason.contains("like guest 9001 (web), but no restore of it"), "{reason}");
        }
        let all: Vec<Mac> = own().macs().into_iter().collect();
        // Restored over itself, started since, or given another hardware address since.
        for recorded in [recorded(&all, 50), recorded(&all, 150), recorded(&[], 150)] {
            assert_eq!(verdict(&Case { recorded, ..case(vec![twin()]) }).0, "keep*");
        }
        let recorded = recorded(&[], 50);
        assert_eq!(verdict(&Case { recorded, ..case(vec![twin()]) }).0, "change");
    }

    #[test]
    fn always_means_once_after_each_restore() {
        let always = |recorded, restored, rivals| Case {
            setting: Identity::Always,
            recorded,
            restored,
            ..case(rivals)
        };
        let all: Vec<Mac> = own().macs().into_iter().collect();
        let none = Recorded::default;
        for (recorded, restored, expected) in [
            (none(), Restored::At(100), "change"),
            (none(), Restored::Unknown, "change"),
            (none(), Restored::NotHere, "keep*"),
            (recorded(&all, 50), Restored::At(100), "keep*"),
            (recorded(&all, 150), Restored::At(100), "keep*"),
            (recorded(&[], 50), Restored::At(100), "change"),
            (recorded(&[], 150), Restored::At(100), "keep*"),
            (recorded(&[], 150), Restored::Unknown, "change"),
        ] {
            let case = always(recorded, restored, vec![]);
            let (verdict, reason) = verdict(&case);
            assert_eq!(verdict, expected, "{:?} {restored:?}: {reason}", case.recorded);
        }
        let case = always(none(), Restored::At(100), vec![original()]);
        let Verdict::Change(due) = decide(&case).verdict else { panic!() };
        assert_eq!((due.macs, due.addresses, due.hostname), (vec![0, 1], vec![0, 1], true));
    }

    #[test]
    fn never_means_never() {
        let owner = Rival { claims: BTreeSet::from([mac()]), ..original() };
        for rivals in [vec![owner], vec![twin()]] {
            let case = Case { setting: Identity::Never, ..case(rivals) };
            let remember = case.shared().is_empty();
            assert_eq!(verdict(&case).0, if remember { "keep*" } else { "keep" });
        }
    }
}
