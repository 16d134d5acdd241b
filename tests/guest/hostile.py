#!/usr/bin/env python3
"""What a hostile guest, or a hostile user of the node, has running. Each ends when it is killed.

fuse PID HANG       as the root of the guest with that init: a FUSE file system on /mnt/fuse and an overlay over it on /mnt/overlay.
                    It answers until the file HANG is there, and then takes every request and answers none.
memory PID FILE     as the root of the guest with that init, in a pid namespace of its own: a process whose memory stays locked, so that
                    whoever reads its command line waits. Its pid on the node goes into FILE.
rob PID SOCKET FILE as the root of the guest with that init: a listener that takes what it can get of whoever connects, and adds to
                    FILE what it got.
listen SOCKET FILE  a listener that adds a line to FILE for each connection.
squat VMID          answers at LXC's command socket of that guest, in the place of its monitor, and names itself as its init.
"""

import ctypes
import mmap
import os
import signal
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUSER, NEWPID = 0x20000, 0x10000000, 0x20000000


def check(result):
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def mount(source, target, kind, options):
    check(libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode()))


def become_root_of(pid):
    """Returns an open /dev/fuse, which guests with the feature have."""
    users, mounts = (os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in ("user", "mnt"))
    check(libc.setns(users, NEWUSER))
    device = os.open("/dev/fuse", os.O_RDWR)
    check(libc.setns(mounts, NEWNS))
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return device


def fuse(pid, hang):
    node = os.open("/", os.O_PATH)
    device = become_root_of(pid)
    for name in ("fuse", "empty", "overlay"):
        os.makedirs(f"/mnt/{name}", exist_ok=True)
    mount("hung", "/mnt/fuse", "fuse", f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other")
    # The overlay looks into it while it is mounted.
    if os.fork():
        serve(device, lambda: exists(node, hang))
    os.close(device)
    mount("overlay", "/mnt/overlay", "overlay", "lowerdir=/mnt/fuse:/mnt/empty")
    os._exit(0)


def exists(node, path):
    try:
        os.stat(path.lstrip("/"), dir_fd=node)
        return True
    except FileNotFoundError:
        return False


def serve(device, hangs):
    attributes = struct.pack("<QIIQQQQQQIIIIIIIIII", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
    answers = {
        26: struct.pack("<IIII", 7, 31, 65536, 0) + struct.pack("<HHII", 12, 9, 4096, 1) + bytes(36),  # INIT
        3: attributes,  # GETATTR
        17: bytes(40) + struct.pack("<IIII", 4096, 255, 4096, 0) + bytes(24),  # STATFS
        27: bytes(16),  # OPENDIR
        28: b"",  # READDIR
        29: b"",  # RELEASEDIR
        34: b"",  # ACCESS
    }
    errors = {1: 2, 22: 61}  # LOOKUP: there is nothing, GETXATTR: nor that
    silent = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
    while True:
        request = os.read(device, 1 << 20)
        _, operation, number = struct.unpack_from("<IIQ", request)
        if hangs() or operation in silent:
            continue
        answer = answers.get(operation)
        error = 0 if answer is not None else errors.get(operation, 38)
        answer = answer or b""
        os.write(device, struct.pack("<IiQ", 16 + len(answer), -error, number) + answer)


def memory(pid, file):
    """One process reads a page that is never answered for, and so keeps it locked. Another maps the file in a way that throws out what is
    cached of it, and waits for that page with its own memory locked."""
    # Until it is over, no `ps` on this machine comes back.
    signal.alarm(240)
    with open(file, "w") as told:
        device = become_root_of(pid)
        os.makedirs("/mnt/memory", exist_ok=True)
        mount("memory", "/mnt/memory", "fuse", f"fd={device},rootmode=40000,user_id=0,group_id=0")
        check(libc.unshare(NEWPID))
        path, opened, mapping = "/mnt/memory/file", 0, False
        if os.fork() == 0:
            os.close(device)
            try:
                os.read(os.open(path, os.O_RDONLY), 1)
            finally:
                os._exit(0)
        while True:
            request = os.read(device, 1 << 20)
            _, operation, number, node = struct.unpack_from("<IIQQ", request)
            error, answer = 0, b""
            if operation == 26:  # INIT
                answer = struct.pack("<IIII", 7, 31, 65536, 0) + struct.pack("<HHII", 12, 9, 4096, 1) + bytes(36)
            elif operation == 3:  # GETATTR
                answer = struct.pack("<QII", 0, 0, 0) + attributes_of(node)
            elif operation == 1:  # LOOKUP
                answer = struct.pack("<QQQQII", 2, 0, 100, 100, 0, 0) + attributes_of(2)
            elif operation == 14:  # OPEN; from the second on with FOPEN_DIRECT_IO and FOPEN_KEEP_CACHE
                opened += 1
                answer = struct.pack("<QII", opened, 3 if opened > 1 else 0, 0)
            elif operation == 15 and not mapping:  # READ
                mapping = True
                if (child := os.fork()) == 0:
                    os.close(device)
                    mmap.mmap(os.open(path, os.O_RDONLY), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
                    os._exit(0)
                told.write(f"{child}\n")
                told.flush()
                continue
            elif operation in (2, 15, 36, 42):  # FORGET, READ, INTERRUPT, BATCH_FORGET
                continue
            else:
                error = 38
            os.write(device, struct.pack("<IiQ", 16 + len(answer), -error, number) + answer)


def attributes_of(node):
    size, mode = (4096, 0o100644) if node == 2 else (0, 0o40755)
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def rob(pid, path, file):
    numbers = {"get a descriptor": (438, 0, 0), "kill": (424, signal.SIGKILL, None, 0)}
    with open(file, "a") as told, socket.socket(socket.AF_UNIX) as listener:
        pids = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
        users, mounts = (os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in ("user", "mnt"))
        check(libc.setns(users, NEWUSER))
        check(libc.setns(pids, NEWPID))
        check(libc.setns(mounts, NEWNS))
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        if os.fork():
            os.wait()
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        listener.bind(path)
        listener.listen()
        told.write("listens\n")
        while True:
            told.flush()
            connection, _ = listener.accept()
            peer = connection.getsockopt(socket.SOL_SOCKET, 77)  # SO_PEERPIDFD
            for name, (call, *arguments) in numbers.items():
                got = libc.syscall(call, peer, *arguments)
                told.write(f"{name}: {'no' if got < 0 else 'yes'}\n")
            connection.close()


def listen(path, file):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o660)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with open(file, "a") as lines:
                lines.write("connected\n")
            connection.close()


def squat(vmid):
    """A request is a command, a length, and that many bytes; an answer a result, a length and a value. Of the commands only two
    matter: the state (3), which is running (2), and the pid of the init (4)."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0/var/lib/lxc/{vmid}/command")
        listener.listen()
        # A guest does not see the node's root directory.
        os.chroot("/usr")
        while True:
            connection, _ = listener.accept()
            with connection:
                while request := connection.recv(4096):
                    (command,) = struct.unpack_from("<i", request)
                    value = {3: 2, 4: os.getpid()}.get(command, 0)
                    connection.sendall(struct.pack("<iiQ", 0, 0, value))


if __name__ == "__main__":
    {"fuse": fuse, "memory": memory, "rob": rob, "listen": listen, "squat": squat}[sys.argv[1]](*sys.argv[2:])
