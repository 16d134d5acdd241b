//! The mounts that a guest's init sees, from `/proc/1/mountinfo` in the guest.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::Guest;

/// Looking up a path in the guest takes microseconds, unless the guest makes it hang. A list of
/// 100,000 mounts, the kernel's limit for a namespace (`fs.mount-max`), takes the kernel a second.
const LIMIT: Duration = Duration::from_secs(5);

/// 100,000 mounts of about 300 bytes each.
const BYTES: u64 = 32 << 20;

/// The kernel's limit of a path.
const LONGEST_PATH: usize = 4096;

/// The mounts of a guest, by mount point. Of several on one path, the last one hides the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    by_path: BTreeMap<String, Mounted>,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mounted {
    /// `MAJOR:MINOR` of the file system.
    pub device: String,
    /// The directory of the file system that is visible.
    pub directory: String,
    /// The type of the file system: `ext4`, `nfs4`, `fuse.sshfs`.
    pub kind: String,
    /// The source: `/dev/loop0`, `192.0.2.10:/media`, or a word that the file system defines.
    pub source: String,
    /// Nothing can be written there.
    pub read_only: bool,
    /// The address of the server named in `source`, if the kernel shows it.
    pub address: Option<String>,
}

/// Where a file system has its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// In memory, or in other directories (overlay): there is nothing to back up.
    Nowhere,
    /// On a disk or a volume, identified by [`Mounted::device`].
    Disk,
    /// On another machine, or provided by a program.
    Elsewhere,
}

impl Mounts {
    /// Reads what the guest's init sees.
    ///
    /// # Errors
    /// If it cannot be read in time, or is longer than the kernel allows.
    pub fn of(guest: &Guest) -> io::Result<Mounts> {
        let read = guest.tree.within(LIMIT).read("/proc/1/mountinfo", BYTES)?;
        Ok(read
            .map_or_else(Mounts::default, |bytes| Mounts::parse(&String::from_utf8_lossy(&bytes))))
    }

    /// Parses a `mountinfo`; invalid lines are skipped.
    pub fn parse(text: &str) -> Mounts {
        Mounts { by_path: text.lines().filter_map(line).collect() }
    }

    /// The innermost mount that contains a path, with its mount point.
    pub fn at(&self, path: &str) -> Option<(&str, &Mounted)> {
        let mut path = path.trim_end_matches('/');
        loop {
            let point = if path.is_empty() { "/" } else { path };
            if let Some((point, mounted)) = self.by_path.get_key_value(point) {
                return Some((point.as_str(), mounted));
            }
            (path, _) = path.rsplit_once('/')?;
        }
    }

    /// The mounts below a path, without one on the path itself.
    pub fn below(&self, path: &str) -> impl Iterator<Item = (&str, &Mounted)> {
        let begin = format!("{}/", path.trim_end_matches('/'));
        self.by_path
            .range(begin.clone()..)
            .take_while(move |(point, _)| point.starts_with(&begin))
            .map(|(point, mounted)| (point.as_str(), mounted))
            .filter(|(point, _)| *point != "/")
    }

    /// The mount points of file systems that lie elsewhere. Looking into one can hang if its server is
    /// off.
    pub fn elsewhere(&self) -> Vec<String> {
        let elsewhere =
            self.by_path.iter().filter(|(_, mounted)| mounted.medium() == Medium::Elsewhere);
        elsewhere.map(|(point, _)| point.clone()).collect()
    }

    /// The mount points of FUSE file systems, except lxcfs, which is the node's own.
    pub fn of_fuse(&self) -> Vec<&str> {
        let fuse = self.by_path.iter().filter(|(_, mounted)| mounted.is_fuse());
        fuse.map(|(point, _)| point.as_str()).collect()
    }

    /// The servers that are mounted by a name, with the address that each of them has.
    pub fn servers(&self) -> impl Iterator<Item = (&str, &str)> {
        let named = self.by_path.values().filter(|mounted| mounted.medium() == Medium::Elsewhere);
        named.filter_map(|mounted| Some((mounted.source.as_str(), mounted.address.as_deref()?)))
    }

    /// The mount on exactly that path.
    pub fn on(&self, path: &str) -> Option<&Mounted> {
        self.by_path.get(path)
    }
}

impl Mounted {
    /// Where its data lies.
    pub fn medium(&self) -> Medium {
        match self.kind.as_str() {
            "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "ceph" | "glusterfs" | "9p" | "virtiofs"
            | "afs" | "lustre" | "beegfs" | "orangefs" | "ncpfs" | "davfs" | "gfs2" | "ocfs2"
            // It mounts something from elsewhere on access.
            | "autofs" => Medium::Elsewhere,
            // Its upper directory is on another file system of the guest.
            "fuse.fuse-overlayfs" => Medium::Nowhere,
            _ if self.is_fuse() => Medium::Elsewhere,
            "zfs" | "btrfs" | "bcachefs" => Medium::Disk,
            _ if self.source.starts_with("/dev/") => Medium::Disk,
            _ => Medium::Nowhere,
        }
    }

    fn is_fuse(&self) -> bool {
        let kind = self.kind.as_str();
        matches!(kind, "fuse" | "fuseblk") || kind.starts_with("fuse.") && kind != "fuse.lxcfs"
    }
}

/// `36 35 98:0 /directory /point rw,noatime master:1 - ext4 /dev/sda1 rw`
fn line(line: &str) -> Option<(String, Mounted)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (device, directory, point) = (mount.next()?, mount.next()?, mount.next()?);
    let of_mount = mount.next().unwrap_or_default();
    let mut file_system = file_system.split(' ');
    let (kind, source) = (file_system.next()?, file_system.next().unwrap_or_default());
    let of_file_system = file_system.next().unwrap_or_default();
    let mut options = of_mount.split(',').chain(of_file_system.split(','));
    let address = of_file_system.split(',').find_map(|option| option.strip_prefix("addr="));
    let point = unescaped(point);
    let mounted = Mounted {
        device: device.chars().take(40).collect(),
        directory: unescaped(directory),
        kind: kind.chars().take(60).collect(),
        source: unescaped(source),
        read_only: options.any(|option| option == "ro"),
        address: address.map(|address| address.chars().take(60).collect()),
    };
    let sound = point.starts_with('/') && point.len() <= LONGEST_PATH;
    sound.then_some((point, mounted))
}

/// Decodes a field of `mountinfo`, in which the kernel writes blanks and backslashes as three octal
/// digits: `\040`.
fn unescaped(field: &str) -> String {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| {
            byte == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        });
        let value = digits.map(|digits| {
            digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'))
        });
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(value) => {
                text.push(value);
                rest = &after[3..];
            }
            None => {
                text.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "100 99 252:1 / / rw - ext4 /dev/mapper/pve-vm--9001--disk--0 rw\n\
        101 100 0:50 / /proc/cpuinfo rw,nosuid - fuse.lxcfs lxcfs rw\n\
        102 100 0:51 / /mnt/the\\040far\\134one rw,nosuid shared:1 - fuse.sshfs host: rw\n\
        103 100 0:52 / /sys/fs/fuse/connections rw - fusectl none rw\n\
        104 100 0:53 / /mnt/usb rw - fuseblk /dev/sda1 rw\n\
        105 100 0:54 / /mnt/usb/nas rw - nfs4 192.0.2.10:/m rw\n\
        106 100 0:55 / /mnt/usb/nas rw - tmpfs tmpfs rw\nodd\n\n1 2 3 - x\n";

    #[test]
    fn the_innermost_and_last_mount_holds_a_path() {
        let mounts = Mounts::parse(TEXT);
        let at = |path: &'static str| mounts.at(path).map(|(point, _)| point.to_string());
        assert_eq!(at("/var/lib/docker").as_deref(), Some("/"));
        assert_eq!(at("/").as_deref(), Some("/"));
        assert_eq!(at("/mnt/usb/").as_deref(), Some("/mnt/usb"));
        assert_eq!(at("/mnt/usbstick").as_deref(), Some("/"));
        assert_eq!(at("/mnt/the far\\one/x").as_deref(), Some("/mnt/the far\\one"));
        let hidden = mounts.at("/mnt/usb/nas/films").unwrap();
        assert_eq!((hidden.0, hidden.1.kind.as_str()), ("/mnt/usb/nas", "tmpfs"));
        assert_eq!(Mounts::parse("").at("/srv"), None);
    }

    #[test]
    fn what_lies_below_a_path_is_found() {
        let mounts = Mounts::parse(TEXT);
        let below = |path: &str| mounts.below(path).map(|(point, _)| point).collect::<Vec<_>>();
        assert_eq!(below("/mnt/usb"), ["/mnt/usb/nas"]);
        assert_eq!(below("/mnt/us"), Vec::<&str>::new());
        assert_eq!(below("/").len(), 5);
    }

    #[test]
    fn what_only_can_be_read_is_told_by_either_list_of_options() {
        for (text, read_only) in [
            ("1 2 0:9 / /srv rw,relatime - nfs4 nas:/m rw,vers=4.2,addr=192.0.2.10 rw", false),
            ("1 2 0:9 / /srv ro,relatime shared:1 - nfs4 nas:/m rw,addr=192.0.2.10", true),
            ("1 2 0:9 / /srv rw - nfs4 nas:/m ro,addr=192.0.2.10", true),
            ("1 2 0:9 / /srv rw,errors=remount-ro - ext4 /dev/x rw,errors=remount-ro", false),
        ] {
            assert_eq!(Mounts::parse(text).on("/srv").unwrap().read_only, read_only, "{text}");
        }
        let mounts = Mounts::parse("1 2 0:9 / /srv rw - nfs4 nas:/m rw,addr=192.0.2.10\n");
        assert_eq!(mounts.servers().collect::<Vec<_>>(), [("nas:/m", "192.0.2.10")]);
    }

    #[test]
    fn fuse_of_the_node_does_not_count() {
        assert_eq!(Mounts::parse(TEXT).of_fuse(), ["/mnt/the far\\one", "/mnt/usb"]);
    }

    #[test]
    fn where_the_data_of_a_file_system_lies() {
        for (kind, source, medium) in [
            ("ext4", "/dev/loop3", Medium::Disk),
            ("zfs", "rpool/data/subvol-9001-disk-0", Medium::Disk),
            ("nfs", "192.0.2.10:/m", Medium::Elsewhere),
            ("cifs", "//192.0.2.10/p", Medium::Elsewhere),
            ("fuse.mergerfs", "a:b", Medium::Elsewhere),
            ("fuse.fuse-overlayfs", "fuse-overlayfs", Medium::Nowhere),
            ("fuse.lxcfs", "lxcfs", Medium::Nowhere),
            ("9p", "share", Medium::Elsewhere),
            ("tmpfs", "tmpfs", Medium::Nowhere),
            ("overlay", "overlay", Medium::Nowhere),
            ("proc", "proc", Medium::Nowhere),
            ("cgroup2", "none", Medium::Nowhere),
        ] {
            let text = format!("1 2 0:9 / /srv rw - {kind} {source} rw\n");
            assert_eq!(Mounts::parse(&text).on("/srv").unwrap().medium(), medium, "{kind}");
        }
    }

    #[test]
    fn an_escape_that_is_none_stays() {
        for (field, text) in [
            ("a\\04", "a\\04"),
            ("\\777", "\\777"),
            ("\\", "\\"),
            ("\\0400", " 0"),
            ("\\x40", "\\x40"),
        ] {
            assert_eq!(unescaped(field), text, "{field}");
        }
    }
}
