//! Which paths of a guest vzdump copies: those on the guest's own volumes that are in the backup,
//! except for what is mounted over them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Guest;
use super::mounts::{Medium, Mounted, Mounts};
use crate::engine::Data;
use crate::pve::Config;
use crate::sys::text::{excerpt, printable};

/// How many paths of one container's mount are named; nobody reads more at once.
const MOST_BELOW: usize = 16;

/// For how many places of data links are followed; each takes a fraction of a millisecond.
const MOST_FOLLOWED: usize = 2000;

/// The volumes of a guest, from its configuration and its own list of mounts.
#[derive(Clone, Default)]
pub struct Volumes {
    config: Option<Config>,
    mounts: Mounts,
    /// Where paths lead that have links of the guest in them.
    links: BTreeMap<String, String>,
}

/// Why a path is not in the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut<'a> {
    /// It is on this mount point of the guest's configuration.
    MountPoint(&'a str),
    /// It is on something else that is mounted there.
    Mounted(&'a str, &'a Mounted),
}

impl LeftOut<'_> {
    /// The mount point.
    pub fn point(&self) -> &str {
        match self {
            LeftOut::MountPoint(point) | LeftOut::Mounted(point, _) => point,
        }
    }
}

impl Volumes {
    /// For a guest with this configuration and these mounts.
    pub fn new(config: Option<Config>, mounts: Mounts) -> Volumes {
        Volumes { config, mounts, links: BTreeMap::new() }
    }

    /// For a running guest, with a note for the admin if its mounts cannot be determined.
    pub fn of(config: Option<Config>, guest: &Guest) -> (Volumes, Option<String>) {
        match Mounts::of(guest) {
            Ok(mounts) => (Volumes::new(config, mounts), None),
            Err(error) => {
                let note = format!(
                    "cannot determine what the guest itself has mounted (/proc/1/mountinfo: {}): such data is not \
                     in the backup and is not named",
                    excerpt(&error, 200)
                );
                (Volumes::new(config, Mounts::default()), Some(note))
            }
        }
    }

    /// Follows the links of these paths in the guest; returns a note for the admin if that fails.
    pub fn follow<'a>(
        &mut self,
        guest: &Guest,
        paths: impl Iterator<Item = &'a str>,
    ) -> Option<String> {
        let unique: BTreeSet<&str> = paths.take(MOST_FOLLOWED).collect();
        // Looking into a file system whose server is off would hang.
        let around = self.mounts.elsewhere();
        for path in unique {
            match guest.tree.followed(path, &around) {
                Ok(real) if real != path => drop(self.links.insert(path.to_string(), real)),
                Ok(_) => {}
                Err(error) => {
                    return Some(format!(
                        "cannot determine where {} leads ({}): data behind links of the guest that is not in the \
                         backup is not named",
                        printable(path, 200),
                        excerpt(&error, 200)
                    ));
                }
            }
        }
        None
    }

    /// Where a path leads, if its links were followed.
    pub fn real<'a>(&'a self, path: &'a str) -> &'a str {
        self.links.get(path).map_or(path, String::as_str)
    }

    /// The mounts that its init sees.
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Why a path is not in the backup; `None` if it is, or if there is nothing to copy (tmpfs).
    pub fn left_out(&self, path: &str) -> Option<LeftOut<'_>> {
        let set = self.config.as_ref().and_then(|config| config.mount_of(path));
        let by_setting =
            || set.filter(|mount| !mount.in_backup).map(|mount| LeftOut::MountPoint(&mount.path));
        let Some((point, mounted)) = self.mounts.at(path) else { return by_setting() };
        // A mount point that was added and is not mounted yet.
        if set.is_some_and(|set| Path::new(&set.path).starts_with(point) && set.path != point) {
            return by_setting();
        }
        match mounted.medium() {
            Medium::Elsewhere if set.is_some_and(|set| set.path == point && !set.in_backup) => {
                by_setting()
            }
            Medium::Elsewhere => Some(LeftOut::Mounted(point, mounted)),
            Medium::Nowhere => None,
            Medium::Disk if point == "/" || set.is_some_and(|set| set.path == point) => {
                by_setting()
            }
            Medium::Disk => self.of_device(point, mounted),
        }
    }

    /// A mount that is not in the configuration: a directory of a volume of the guest, or a disk of
    /// its own.
    fn of_device<'a>(&'a self, point: &'a str, mounted: &'a Mounted) -> Option<LeftOut<'a>> {
        let root = self.mounts.on("/")?;
        let set = self.config.iter().flat_map(|config| &config.mounts);
        let mut same = set
            .filter(|set| self.mounts.on(&set.path).is_some_and(|on| on.device == mounted.device));
        if root.device == mounted.device || same.clone().any(|set| set.in_backup) {
            return None;
        }
        Some(match same.next() {
            Some(set) => LeftOut::MountPoint(&set.path),
            None => LeftOut::Mounted(point, mounted),
        })
    }

    /// Paths of a container's data that are not in the backup: the path of its mount, else what is
    /// mounted below it, if the container may write there.
    pub fn left_out_of(&self, data: &Data) -> Vec<String> {
        let path = self.real(&data.path);
        if self.left_out(path).is_some() {
            return vec![data.path.clone()];
        }
        // A container that mounts the whole guest only monitors it, and has its own data elsewhere.
        if !data.writable || path == "/" {
            return Vec::new();
        }
        let set = self.config.iter().flat_map(|config| &config.mounts).map(|set| set.path.as_str());
        let set = set.filter(|point| is_below(point, path));
        let mounted = self.mounts.below(path).map(|(point, _)| point);
        let mut below: Vec<String> = set
            .chain(mounted)
            .filter(|point| self.left_out(point).is_some())
            .take(MOST_BELOW)
            .map(String::from)
            .collect();
        below.sort();
        below.dedup();
        below
    }
}

fn is_below(path: &str, other: &str) -> bool {
    path != other && Path::new(path).starts_with(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "mp0: local:a,mp=/srv,backup=1\nmp1: local:b,mp=/bulk\nmp2: /tank/pg,mp=/pg,backup=1\n\
        mp3: local:c,mp=/new\nlxc.mount.entry: /tank/media mnt/media none bind,create=dir 0 0\n";

    const MOUNTS: &str = "1 0 7:0 / / rw - ext4 /dev/loop0 rw\n2 1 7:1 / /srv rw - ext4 /dev/loop1 rw\n\
        3 1 7:2 / /bulk rw - ext4 /dev/loop2 rw\n4 1 0:30 /pg /pg rw - zfs tank rw\n\
        5 1 0:30 /media /mnt/media rw - zfs tank rw\n6 1 7:1 /www /opt/www rw - ext4 /dev/loop1 rw\n\
        7 1 7:2 /old /opt/old rw - ext4 /dev/loop2 rw\n8 1 7:0 /etc /opt/etc rw - ext4 /dev/loop0 rw\n\
        9 1 7:9 / /opt/image rw - ext4 /dev/loop9 rw\n10 2 0:40 / /srv/nas rw - cifs //192.0.2.10/p rw\n\
        11 1 0:41 / /run rw - tmpfs tmpfs rw\n12 1 0:42 / /bulk/cache rw - tmpfs tmpfs rw\n\
        13 1 0:43 / /var/lib/docker/volumes/media/_data rw - nfs4 192.0.2.10:/m rw\n";

    fn volumes() -> Volumes {
        Volumes::new(Some(Config::parse(CONFIG)), Mounts::parse(MOUNTS))
    }

    #[test]
    fn only_the_guests_own_volumes_with_backup_are_in_the_backup() {
        let volumes = volumes();
        for (path, point) in [
            ("/var/lib/docker/volumes/db/_data", None),
            ("/srv/www", None),
            ("/opt/www", None),
            ("/opt/etc/x", None),
            ("/bulk/pg", Some("/bulk")),
            ("/bulk/cache/x", None),
            ("/opt/old", Some("/bulk")),
            ("/pg/data", Some("/pg")),
            ("/mnt/media/films", Some("/mnt/media")),
            ("/opt/image", Some("/opt/image")),
            ("/srv/nas/photos", Some("/srv/nas")),
            ("/run/x", None),
            ("/new/x", Some("/new")),
            ("/var/lib/docker/volumes/media/_data", Some("/var/lib/docker/volumes/media/_data")),
        ] {
            let found = volumes.left_out(path);
            assert_eq!(found.as_ref().map(LeftOut::point), point, "{path}");
        }
    }

    #[test]
    fn without_a_list_of_mounts_the_configuration_decides() {
        let volumes = Volumes::new(Some(Config::parse(CONFIG)), Mounts::default());
        assert_eq!(volumes.left_out("/bulk/x").unwrap().point(), "/bulk");
        assert_eq!(volumes.left_out("/srv/nas"), None);
        let unknown = Volumes::new(None, Mounts::parse("9 1 7:9 / /a rw - ext4 /dev/loop9 rw\n"));
        assert_eq!(unknown.left_out("/a"), None, "whose the disk is cannot be determined");
    }

    #[test]
    fn what_lies_behind_a_link_is_found_and_named_as_it_is_mounted() {
        let mut volumes = volumes();
        volumes.links.insert("/data/pg".into(), "/bulk/pg".into());
        volumes.links.insert("/data/www".into(), "/srv".into());
        let of = |path: &str| {
            volumes.left_out_of(&Data { path: path.to_string(), writable: true, volume: None })
        };
        assert_eq!(of("/data/pg"), ["/data/pg"]);
        assert_eq!(of("/data/www"), ["/srv/nas"]);
        assert_eq!(of("/data/other"), Vec::<String>::new());
    }

    #[test]
    fn what_is_mounted_below_a_directory_of_a_container_is_named() {
        let of = |path: &str, writable| {
            volumes().left_out_of(&Data { path: path.to_string(), writable, volume: None })
        };
        assert_eq!(of("/srv", true), ["/srv/nas"]);
        assert_eq!(of("/srv", false), Vec::<String>::new());
        assert_eq!(of("/", true), Vec::<String>::new());
        assert_eq!(of("/srv/nas/photos", false), ["/srv/nas/photos"]);
        assert_eq!(of("/mnt", true), ["/mnt/media"]);
    }
}
