//! The rights of the guest's own root, and no more.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

/// With these, root in a guest can read and search all files. In a namespace they count only for
/// files of users that the namespace knows. No look needs more, because an engine's socket does not
/// check who connects.
const KEPT: [u32; 2] = [CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH];

/// `linux/capability.h`
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// vzdump has a private mount namespace, in which the snapshot is mounted. A hanging process must
/// not keep that alive. If it cannot be left, it stays alive as long as the look takes.
pub fn leave_mounts_of_the_caller() {
    let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    if link("1") != link("self")
        && let Ok(node) = std::fs::File::open("/proc/1/ns/mnt")
    {
        let _ = setns(node, CloneFlags::CLONE_NEWNS);
    }
}

/// Enters the mount namespace of a guest's init, and its user namespace if it has its own, and
/// becomes root there with two capabilities. The process has one thread. It does not enter the
/// guest's pid namespace, so nothing in the guest sees it.
pub fn of_guest(init: BorrowedFd<'_>, own_users: bool) -> io::Result<()> {
    let mut namespaces = CloneFlags::CLONE_NEWNS;
    namespaces.set(CloneFlags::CLONE_NEWUSER, own_users);
    setns(init, namespaces)?;
    become_user(Uid::from_raw(0), Gid::from_raw(0))?;
    keep_only(&KEPT)?;
    Ok(())
}

/// Becomes the owner of the directory that stands in for a guest's root. Without root (tests on a
/// simulated node), or if it is the owner already, the user stays the same.
pub fn of_owner(uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if geteuid().is_root() && uid != geteuid() {
        become_user(uid, gid)?;
        keep_only(&[])?;
    }
    Ok(())
}

fn become_user(uid: Uid, gid: Gid) -> io::Result<()> {
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Preparations before the rights of a guest are taken.
///
/// The guest's root may trace processes of its own user namespace, and it can find this one through
/// a connection that this one makes (`SO_PEERPIDFD`). So from the first moment there, this process
/// can neither be traced nor have its descriptors taken.
///
/// Descriptors that are being sent between processes count for their user, who is the same in most
/// guests of a node, and beyond the limit of open files none can be sent. With the highest possible
/// limit, no guest can keep a socket of another one from being sent. Without the right to raise it
/// (CAP_SYS_RESOURCE), the limit is the caller's.
pub fn prepare() -> io::Result<()> {
    set_dumpable(false)?;
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open")?;
    let most = most.trim().parse().map_err(io::Error::other)?;
    let mut limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: these read and write the structure, which outlives them.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
            Errno::result(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
            limit.rlim_cur = limit.rlim_max;
            Errno::result(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        }
    }
    Ok(())
}

/// Gives up every other capability, also for programs that it might run.
fn keep_only(kept: &[u32]) -> io::Result<()> {
    set_no_new_privs()?;
    set_dumpable(false)?;
    for capability in 0..64 {
        // SAFETY: prctl with numbers only.
        let dropped = !kept.contains(&capability)
            && unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0;
        // EPERM: without the right to drop it, we do not have it either. EINVAL: beyond the last
        // capability.
        if dropped {
            break;
        }
    }
    let bits = kept.iter().fold(0, |bits, capability| bits | 1 << capability);
    let header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let sets = [Sets { effective: bits, permitted: bits, inheritable: 0 }, Sets::default()];
    // SAFETY: the structures are laid out as capset(2) reads them, and outlive the call.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// Two of them: one for the capabilities below 32, one for the rest.
#[derive(Default)]
#[repr(C)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
