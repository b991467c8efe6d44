"""What the kernel can deny a process: Landlock, seccomp, namespaces, limits. Plain ctypes, x86-64 and aarch64.

Nothing here decides what is enough: level.py does. Every function says whether the kernel did as told.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 4, 22, 38, 47
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture


def prctl(option: int, value: int = 0) -> bool:
    """Whether the kernel took the option."""
    unsigned = ctypes.c_ulong
    return libc.prctl(ctypes.c_int(option), unsigned(value), unsigned(0), unsigned(0), unsigned(0)) == 0


# ---- seccomp: an allow-list ------------------------------------------------------------------------------------------


class Architecture(NamedTuple):
    """What differs between processors."""

    column: int  # in SYSCALLS
    audit: int  # AUDIT_ARCH_*
    pivot_root: int


ARCHITECTURES = {
    "x86_64": Architecture(0, 0xC000003E, 155),
    "aarch64": Architecture(1, 0xC00000B7, 41),
}
CLONE, CLONE3, PRLIMIT, IOCTL, FCNTL = (56, 220), (435, 435), (302, 261), (16, 29), (72, 25)
CLONE_THREAD = 0x10000
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX: what open() asks
FCNTLS = (0, 1, 2, 3, 4, 1030)  # dup and flags; not F_SETOWN, which would have the kernel send somebody a signal

# Everything a single-process Python program needs; None: the architecture does not have it. What is not here fails with
# EPERM: sockets, new processes and programs, signals, ptrace, mounts, namespaces, keys, bpf, io_uring, shared memory,
# priorities, attributes and owners of files, links, prctl, further locks.
SYSCALLS: dict[str, tuple[int, int | None]] = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "access": (21, None), "pipe": (22, None), "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216),
    "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None), "nanosleep": (35, 101), "getpid": (39, 172),
    "exit": (60, 93), "uname": (63, 160), "fsync": (74, 82), "ftruncate": (77, 46),
    "getdents": (78, None), "getcwd": (79, 17), "chdir": (80, 49), "rename": (82, None), "mkdir": (83, None),
    "rmdir": (84, None), "unlink": (87, None), "readlink": (89, None), "gettimeofday": (96, 169),
    "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174),
    "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173),
    "sigaltstack": (131, 132), "gettid": (186, 178), "time": (201, None), "futex": (202, 98),
    "sched_getaffinity": (204, 123), "epoll_create": (213, None), "getdents64": (217, 61),
    "set_tid_address": (218, 96), "restart_syscall": (219, 128), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit_group": (231, 94), "epoll_wait": (232, None),
    "epoll_ctl": (233, 21), "openat": (257, 56), "mkdirat": (258, 34), "newfstatat": (262, 79),
    "unlinkat": (263, 35), "renameat": (264, 38), "readlinkat": (267, 78), "faccessat": (269, 48),
    "pselect6": (270, 72), "ppoll": (271, 73), "set_robust_list": (273, 99), "epoll_pwait": (281, 22),
    "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59), "renameat2": (316, 276),
    "getrandom": (318, 278), "membarrier": (324, 283), "statx": (332, 291), "rseq": (334, 293),
    "faccessat2": (439, 439),
}  # fmt: skip

LOAD, EQUAL, ABOVE, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument's low half comes first


def seccomp_program(machine: str) -> bytes:
    """The filter as BPF instructions: what is not allowed fails with EPERM, a foreign architecture is killed."""
    column, audit, _ = ARCHITECTURES[machine]
    program: list[bytes] = []

    def add(code: int, if_true: int, if_false: int, value: int) -> None:
        program.append(struct.pack("HBBI", code, if_true, if_false, value))

    add(LOAD, 0, 0, ARCH)
    add(EQUAL, 1, 0, audit)
    add(RETURN, 0, 0, KILL)
    add(LOAD, 0, 0, NUMBER)
    add(AT_LEAST, 0, 1, 0x40000000)  # the x32 calls of x86-64: other numbers for the same doors
    add(RETURN, 0, 0, UNKNOWN)
    add(EQUAL, 0, 1, CLONE3[column])  # its flags are behind a pointer; glibc falls back to clone
    add(RETURN, 0, 0, UNKNOWN)
    add(EQUAL, 0, 4, CLONE[column])  # threads, no processes
    add(LOAD, 0, 0, ARGUMENTS)
    add(ANY_BIT, 0, 1, CLONE_THREAD)
    add(RETURN, 0, 0, ALLOW)
    add(RETURN, 0, 0, REFUSE)
    add(EQUAL, 0, 6, PRLIMIT[column])  # reading a limit, not setting one: the pointer to the new one must be null
    add(LOAD, 0, 0, ARGUMENTS + 2 * 8)
    add(EQUAL, 0, 3, 0)
    add(LOAD, 0, 0, ARGUMENTS + 2 * 8 + 4)
    add(EQUAL, 0, 1, 0)
    add(RETURN, 0, 0, ALLOW)
    add(RETURN, 0, 0, REFUSE)
    for call, requests in ((IOCTL, IOCTLS), (FCNTL, FCNTLS)):
        add(EQUAL, 0, 2 + 2 * len(requests), call[column])
        add(LOAD, 0, 0, ARGUMENTS + 8)
        for request in requests:
            add(EQUAL, 0, 1, request)
            add(RETURN, 0, 0, ALLOW)
        add(RETURN, 0, 0, REFUSE)
    allowed = sorted(number for numbers in SYSCALLS.values() if (number := numbers[column]) is not None)
    for instruction in _search(_ranges(allowed)):
        add(*instruction)
    return b"".join(program)


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The numbers as first and last of each run without a gap."""
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    return list(zip(starts, ends, strict=True))


def _search(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Instructions that allow a number within a range, found by halving.

    The kernel walks through a filter once for every call there is, whenever a child puts it on: a list from top to
    bottom cost each child a third of a millisecond.
    """
    if len(ranges) == 1:
        first, last = ranges[0]
        return [(AT_LEAST, 0, 2, first), (ABOVE, 1, 0, last), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    middle = len(ranges) // 2
    below = _search(ranges[:middle])
    return [(AT_LEAST, len(below), 0, ranges[middle][0]), *below, *_search(ranges[middle:])]


def make_seccomp() -> bytes | None:
    """The filter for this processor, None where the kernel knows no filters or the table does not know it."""
    if platform.machine() not in ARCHITECTURES or struct.calcsize("P") != 8:
        return None
    # With a null pointer the kernel answers EFAULT where it knows filters, EINVAL where it does not.
    libc.prctl(
        ctypes.c_int(PR_SET_SECCOMP), ctypes.c_ulong(2), ctypes.c_void_p(0), ctypes.c_ulong(0), ctypes.c_ulong(0)
    )
    return seccomp_program(platform.machine()) if ctypes.get_errno() == errno.EFAULT else None


def restrict_syscalls(program: bytes) -> bool:
    """Whether this process is from now on held to the filter."""
    instructions = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions)))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    done = libc.prctl(
        ctypes.c_int(PR_SET_SECCOMP),
        ctypes.c_ulong(2),
        ctypes.c_void_p(ctypes.addressof(header)),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    return done == 0


# ---- Landlock --------------------------------------------------------------------------------------------------------

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
MAKE_DIR, MAKE_REG, REFER, TRUNCATE = 1 << 7, 1 << 8, 1 << 13, 1 << 14
READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE


def landlock_abi() -> int:
    """The Landlock version of this kernel, 0 without it."""
    return max(0, libc.syscall(ctypes.c_long(LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def make_ruleset(rights: Mapping[str, int]) -> int:
    """A descriptor of rules that grant these rights below these paths and nothing else; -1 without Landlock."""
    abi = landlock_abi()
    if abi < 1:
        return -1
    handled = (1 << 13) - 1
    handled |= (1 << 13 if abi >= 2 else 0) | (1 << 14 if abi >= 3 else 0) | (1 << 15 if abi >= 5 else 0)
    network = 3 if abi >= 4 else 0  # bind and connect
    scoped = 3 if abi >= 6 else 0  # abstract sockets and signals of other processes
    attributes = struct.pack("QQQ", handled, network, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = libc.syscall(
        ctypes.c_long(LANDLOCK_CREATE), attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)
    )
    if ruleset < 0:
        return -1
    for path, wanted in rights.items():
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # what does not exist, or cannot be reached, needs no right
        access = wanted & handled & (-1 if Path(path).is_dir() else OF_A_FILE)
        rule = struct.pack("=Qi", access, place)
        failed = libc.syscall(
            ctypes.c_long(LANDLOCK_ADD), ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0)
        )
        os.close(place)
        if failed:
            os.close(ruleset)
            return -1
    return ruleset


def restrict_files(ruleset: int) -> bool:
    """Whether this process is from now on held to the rules."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    return libc.syscall(ctypes.c_long(LANDLOCK_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0


# ---- namespaces ------------------------------------------------------------------------------------------------------

NEW_MOUNTS, NEW_HOSTNAME, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = (
    0x20000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
EVERY_NAMESPACE = NEW_USER | NEW_MOUNTS | NEW_PIDS | NEW_NETWORK | NEW_IPC | NEW_HOSTNAME
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_NOATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = (
    1, 2, 4, 8, 32, 1024, 4096, 16384, 1 << 18, 1 << 21,
)  # fmt: skip
MNT_DETACH = 2


def unshare() -> int:
    """0 where this process now has namespaces of its own (its children: a process tree too), else the errno."""
    return 0 if libc.unshare(ctypes.c_int(EVERY_NAMESPACE)) == 0 else ctypes.get_errno()


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mounts, or raises OSError."""
    given = [text.encode() if text is not None else None for text in (source, target, kind, options)]
    if libc.mount(given[0], given[1], given[2], ctypes.c_ulong(flags), given[3]):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def private_root(folders: Sequence[str], become: tuple[int, int]) -> None:
    """Leaves this process in a tree that holds `folders` (read only, at their own paths) and three devices.

    The process becomes the user `become` of its namespace on the way: the folders are opened before, because they may
    lie in a home that only the present user can enter, and the tree is made after, because it must belong to the user.
    """
    opened = {folder: os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in _outermost(folders)}
    links = {name: str(Path(name).readlink()) for name in ("/lib", "/lib64", "/bin") if Path(name).is_symlink()}
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    with contextlib.suppress(OSError):  # a plain user keeps its groups: no path is left that they could open
        os.setgroups([])
    os.setresgid(become[1], become[1], become[1])
    os.setresuid(become[0], become[0], become[0])
    root = "/tmp"  # any folder that every system has: what it holds is covered, for this process alone
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for folder, descriptor in opened.items():
        target = root + folder
        Path(target).mkdir(parents=True)
        os.fchdir(descriptor)
        mount(".", target, None, MS_BIND | MS_REC)
        os.close(descriptor)
        _make_read_only(target)
        packages = Path(target) / "site-packages"
        if packages.is_dir():  # a solution has the standard library
            mount("tmpfs", str(packages), "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY, "size=4k,mode=755")
    Path(root, "dev").mkdir()
    for device in ("null", "zero", "urandom"):
        (Path(root) / "dev" / device).touch()
        mount(f"/dev/{device}", f"{root}/dev/{device}", None, MS_BIND)
    for name, target in links.items():
        with contextlib.suppress(FileExistsError):
            Path(root + name).symlink_to(target)
    Path(root, "tmp").mkdir()
    os.chdir(root)
    pivot = ARCHITECTURES[platform.machine()].pivot_root
    if libc.syscall(ctypes.c_long(pivot), b".", b".") or libc.umount2(b".", ctypes.c_int(MNT_DETACH)):
        raise OSError(ctypes.get_errno(), "the old root cannot be left")
    os.chdir("/")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    libc.sethostname(b"sandbox", ctypes.c_size_t(7))


def _outermost(folders: Iterable[str]) -> list[str]:
    """The folders that lie in no other one of them."""
    real = sorted({os.path.realpath(folder) for folder in folders if Path(folder).is_dir()})
    return [folder for folder in real if not any(folder.startswith(other + "/") for other in real)]


def _make_read_only(target: str) -> None:
    # Flags that came with the mount may not be dropped in a user namespace: they are said again.
    has = os.statvfs(target).f_flag
    keep = has & (MS_NODEV | MS_NOEXEC | MS_NOATIME) | (MS_RELATIME if has & 4096 else 0)
    mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | keep)


def fresh_tmp(num_bytes: int) -> None:
    """An empty /tmp of that size, in memory."""
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"size={num_bytes},nr_inodes=256,mode=700")


def drop_capabilities() -> bool:
    """Whether this process has no power over its namespace any more."""
    prctl(PR_CAP_AMBIENT, 4)
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    return libc.capset(header, nothing) == 0


# ---- limits ----------------------------------------------------------------------------------------------------------


def limit_resources(limits: Mapping[str, int]) -> None:
    """Sets each limit, soft and hard."""
    for name, value in limits.items():
        kind: int = getattr(resource, f"RLIMIT_{name.upper()}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
