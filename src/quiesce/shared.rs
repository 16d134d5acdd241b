//! What the containers of a copy share with its original: Proxmox VE keeps bind mounts when it
//! restores a guest, so two databases would write to one directory (FACTS-PVE.md, Restore).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use crate::config::{Restore, Settings};
use crate::engine::{Backing, Container, Data, Engine, Error, Volume};
use crate::guest::{
    Guest, Holder, LeftOut, Medium, Mounted, Site, Sites, Volumes, of_mounted, server,
};
use crate::identity::{Copied, copied_from};
use crate::pve::{Config, Member, Place, members};
use crate::sys::Root;
use crate::sys::text::printable;
use crate::sys::tree::Tree;
use crate::vzdump::Vmid;

/// How many shared places of one container are named.
const MOST_NAMED: usize = 5;

/// What a copy shares with others.
#[derive(Clone)]
pub struct Shared {
    vmid: Vmid,
    /// The files of the copy, if it runs: a container's data may be behind links of the guest.
    tree: Option<Tree>,
    /// The guest that was backed up, in words, if it still exists.
    original: Option<String>,
    /// The guests that were there first, in words, with the places that their configurations mount.
    others: Vec<(String, Vec<Site>)>,
    config: Config,
    /// The places of the configuration's mount points, in the same order.
    own: Vec<Site>,
    volumes: Volumes,
    sites: Sites,
    /// What may be shared (`restore.shared`).
    allowed: Vec<Site>,
}

/// A place that another guest has too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimed {
    /// Its path in the copy.
    pub path: String,
    pub site: Site,
    /// Who has it too, in words.
    pub by: String,
    pub writable: bool,
}

/// What to do with a container in a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It shares nothing.
    Free,
    /// It only reads what it shares, which is reported.
    Reads(String),
    /// It is not started, and why.
    Held(String),
}

impl Shared {
    /// What a guest shares with others; `None` if it is no copy. `noted`: who wrote the note in it,
    /// if that is known. If the guests of the cluster cannot be read, a guest with another's note
    /// is assumed to share everything with that one.
    pub fn of(
        root: &Root,
        vmid: Vmid,
        noted: Option<Vmid>,
        guest: Option<&Guest>,
    ) -> Option<Shared> {
        let Ok(Place::Here(config)) = Place::of(root, vmid) else { return None };
        let (others, copied) = match look(root, vmid, &config, noted) {
            Ok((_, None)) => return None,
            Ok((guests, Some(copied))) => (guests, Some(copied)),
            Err(_) if noted.is_none_or(|noted| noted == vmid) => return None,
            Err(_) => (Vec::new(), None),
        };
        let sites = Sites::of(root);
        let restore = Settings::load(root).restore_of(vmid.0);
        let volumes = match guest {
            Some(guest) => Volumes::of(Some(config.clone()), guest).0,
            None => Volumes::new(Some(config.clone()), Default::default()),
        };
        let allowed = allowed(&restore, &sites);
        let own = config.mounts.iter().map(|mount| sites.of_source(&mount.source, None)).collect();
        let mut shared = Shared {
            vmid,
            tree: guest.map(|guest| guest.tree.clone()),
            original: None,
            others: Vec::new(),
            config,
            own,
            volumes,
            sites,
            allowed,
        };
        match copied {
            Some(copied) => shared.claims(&others, &copied),
            None => {
                let name = format!("guest {} (cannot read /etc/pve)", noted.unwrap_or(vmid));
                shared.others.push((name.clone(), shared.own.clone()));
                shared.original = Some(name);
            }
        }
        Some(shared)
    }

    /// Adds the places of the guests that came before this copy.
    fn claims(&mut self, guests: &[(Member, Config)], copied: &Copied) {
        for (member, config) in guests {
            if member.vmid == self.vmid || copied.later.contains(&member.vmid) {
                continue;
            }
            let name = name(member, config);
            if copied.original == Some(member.vmid) {
                self.original = Some(name.clone());
            }
            let node = member.node.as_deref();
            let site = |source: &str| self.sites.of_source(source, node);
            let sites = config.mounts.iter().map(|mount| site(&mount.source)).collect();
            self.others.push((name, sites));
        }
    }

    /// The mount points of the copy that another guest has too.
    pub fn mount_points(&self) -> Vec<Claimed> {
        let mounts = self.config.mounts.iter();
        mounts
            .filter_map(|mount| self.of_mount(&mount.path, &mount.path, !mount.read_only))
            .collect()
    }

    /// Who else has the place of `path`, which is on the mount point `point` of the configuration.
    fn of_mount(&self, point: &str, path: &str, writable: bool) -> Option<Claimed> {
        let mounts = self.config.mounts.iter().zip(&self.own);
        let (mount, own) = mounts.rev().find(|(mount, _)| mount.path == point)?;
        let rest = Path::new(path).strip_prefix(point).unwrap_or(Path::new(""));
        let site = own.below(rest);
        let has = |(_, sites): &&(String, Vec<Site>)| sites.iter().any(|its| its.overlaps(&site));
        let (by, _) = self.others.iter().find(has).filter(|_| !self.is_allowed(&site))?;
        let sees = self.volumes.mounts().on(point);
        let read_only = mount.read_only || sees.is_some_and(|mounted| mounted.read_only);
        let writable = writable && !read_only;
        Some(Claimed { path: path.to_string(), site, by: by.clone(), writable })
    }

    /// The original has the same in its fstab or as a volume of its engine, because the copy was
    /// made from it.
    fn of_server(&self, path: &str, site: Site, writable: bool) -> Option<Claimed> {
        let by = self.original.clone().filter(|_| !self.is_allowed(&site))?;
        Some(Claimed { path: path.to_string(), site, by, writable })
    }

    fn is_allowed(&self, site: &Site) -> bool {
        self.allowed.iter().any(|allowed| site.is_in(allowed))
    }

    /// Who else has the place of `path` in the copy.
    fn at(&self, path: &str, writable: bool) -> Option<Claimed> {
        match self.volumes.left_out(path) {
            Some(LeftOut::Mounted(point, mounted)) if mounted.medium() == Medium::Elsewhere => {
                let rest = Path::new(path).strip_prefix(point).unwrap_or(Path::new(""));
                let site = self.sites.known(on_server(point, mounted).below(rest));
                self.of_server(path, site, writable && !mounted.read_only)
            }
            Some(LeftOut::Mounted(..)) => None,
            Some(LeftOut::MountPoint(point)) => self.of_mount(point, path, writable),
            None => self.of_mount(&self.config.mount_of(path)?.path, path, writable),
        }
    }

    /// What a container has that another guest has too.
    ///
    /// # Errors
    /// If the links in the copy's file system cannot be followed.
    fn of_data(&self, data: &Data, volume: &Volume) -> Result<Vec<Claimed>, Error> {
        let writable = data.writable && !volume.read_only;
        let path = match &volume.backing {
            Backing::Itself => data.path.as_str(),
            Backing::Directory(path) => path.as_str(),
            Backing::Elsewhere(source) => {
                let (holder, path) = server(source).unwrap_or((source.clone(), "/".to_string()));
                let site = self.sites.known(Site { holder: Holder::Server(holder), path });
                return Ok(self.of_server(&data.path, site, writable).into_iter().collect());
            }
        };
        let path = match &self.tree {
            Some(tree) => {
                &tree.followed(path, &self.volumes.mounts().elsewhere()).map_err(|error| {
                    Error::Failed(format!(
                        "cannot determine where {} leads: {error}",
                        printable(path, 200)
                    ))
                })?
            }
            None => path,
        };
        let mut claimed: Vec<Claimed> = self.at(path, writable).into_iter().collect();
        let writable = writable && path != "/";
        let set = self.config.mounts.iter().map(|mount| mount.path.as_str());
        let mounted = self.volumes.mounts().below(path).map(|(point, _)| point);
        let below = |point: &&str| *point != path && Path::new(point).starts_with(path);
        let points: BTreeSet<&str> = set.chain(mounted).filter(below).collect();
        claimed.extend(points.into_iter().filter_map(|point| self.at(point, writable)));
        Ok(claimed)
    }

    /// What to do with a container of this engine.
    ///
    /// # Errors
    /// If the engine does not say what is behind a volume, or if links in the guest's file system
    /// cannot be followed.
    pub fn verdict(
        &self,
        container: &Container,
        engine: &Engine,
        deadline: Instant,
    ) -> Result<Verdict, Error> {
        let mut claimed = BTreeSet::new();
        for data in &container.data {
            let volume = match &data.volume {
                Some(volume) => engine.volume(volume, deadline)?,
                None => Volume { backing: Backing::Itself, read_only: false },
            };
            claimed.extend(self.of_data(data, &volume)?);
        }
        let sentence = |writable: bool| {
            let of = claimed.iter().filter(|it| it.writable == writable).take(MOST_NAMED);
            let words: Vec<String> = of.map(Claimed::to_string).collect();
            (!words.is_empty()).then(|| words.join(", "))
        };
        let addresses = match &self.original {
            Some(original) => {
                let fixed = engine.fixed_on_lan(&container.id, deadline)?;
                let fixed: Vec<String> =
                    fixed.iter().take(MOST_NAMED).map(|address| printable(address, 300)).collect();
                let words = format!("it has {}, as in {original}", fixed.join(", "));
                (!fixed.is_empty()).then_some(words)
            }
            None => None,
        };
        let writes = sentence(true).map(|writes| format!("it writes to {writes}"));
        let held: Vec<String> = writes.into_iter().chain(addresses).collect();
        Ok(match (held.is_empty(), sentence(false)) {
            (false, _) => Verdict::Held(held.join(", and ")),
            (true, Some(reads)) => {
                let name = printable(&container.name, 80);
                Verdict::Reads(format!("{name} reads {reads}"))
            }
            (true, None) => Verdict::Free,
        })
    }

    /// The command that starts a container that was held back, for an admin.
    pub fn way_to_start(&self, container: &Container, engine: &Engine) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let is_word = !container.name.is_empty()
            && !container.name.starts_with('-')
            && container.name.bytes().all(plain);
        let word = if is_word { &container.name } else { &container.id };
        format!("pct exec {} -- {} start {word}", self.vmid, engine.client_command())
    }
}

impl std::fmt::Display for Claimed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let site = printable(&self.site.to_string(), 200);
        write!(f, "{site} ({} in the guest), which {} has too", printable(&self.path, 200), self.by)
    }
}

/// The guests of the cluster with their configurations.
type Guests = Vec<(Member, Config)>;

/// All guests of the cluster, and whether this one is a copy.
fn look(
    root: &Root,
    vmid: Vmid,
    config: &Config,
    noted: Option<Vmid>,
) -> anyhow::Result<(Guests, Option<Copied>)> {
    let mut guests = Vec::new();
    for member in members(root)? {
        // A guest whose configuration cannot be read still exists.
        if let Some(config) = member.config().unwrap_or_else(|_| Some(Config::default())) {
            guests.push((member, config));
        }
    }
    let copied = copied_from(root, vmid, config, noted, &guests)?;
    Ok((guests, copied))
}

fn name(member: &Member, config: &Config) -> String {
    match &config.hostname {
        Some(hostname) => format!("guest {} ({})", member.vmid, printable(hostname, 63)),
        None => format!("guest {}", member.vmid),
    }
}

fn allowed(restore: &Restore, sites: &Sites) -> Vec<Site> {
    let site = |text: &String| match server(text).filter(|_| !is_path(text)) {
        Some((holder, path)) => sites.known(Site { holder: Holder::Server(holder), path }),
        None => sites.of_source(text, None),
    };
    restore.shared.iter().map(site).collect()
}

/// `/tank/media`, and not `//nas/media`.
fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.starts_with("//")
}

/// The server behind a mount in the guest; a FUSE file system is identified by its own source name.
fn on_server(point: &str, mounted: &Mounted) -> Site {
    of_mounted(mounted).unwrap_or_else(|| Site {
        holder: Holder::Server(format!("{} {}", mounted.kind, mounted.source)),
        path: point.to_string(),
    })
}
