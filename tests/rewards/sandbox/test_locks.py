"""The filter of system calls, run instruction by instruction for both processors: what it lets through and what not."""

from __future__ import annotations

import errno
import struct

import pytest

from oxrl_core.rewards.sandbox import locks

ALLOWED, REFUSED, UNKNOWN, KILLED = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# From the kernel's tables: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
DANGEROUS = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130),
    "tgkill": (234, 131), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "bpf": (321, 280), "io_uring_setup": (425, 425), "perf_event_open": (298, 241),
    "keyctl": (250, 219), "add_key": (248, 217), "userfaultfd": (323, 282), "shmget": (29, 194), "shmat": (30, 196),
    "msgget": (68, 186), "semget": (64, 190), "setpriority": (141, 140), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "ioprio_set": (251, 30), "prctl": (157, 167), "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444), "setuid": (105, 146), "setgid": (106, 144), "setresuid": (117, 147),
    "capset": (126, 91), "personality": (135, 92), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161), "syslog": (103, 116),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "memfd_create": (319, 279), "setrlimit": (160, 164),
    "linkat": (265, 37), "symlinkat": (266, 36), "fchmodat": (268, 53), "fchownat": (260, 54), "mknodat": (259, 33),
    "setxattr": (188, 5), "quotactl": (179, 60), "fanotify_init": (300, 262), "inotify_init1": (294, 26),
    "mq_open": (240, 180), "timer_create": (222, 107), "setsid": (112, 157), "setpgid": (109, 154),
    "open_tree": (428, 428),
    "fsopen": (430, 430), "move_mount": (429, 429), "vhangup": (153, 58), "acct": (163, 89), "kcmp": (312, 272),
    "modify_ldt": (154, None), "fork": (57, None), "vfork": (58, None), "ioperm": (173, None), "iopl": (172, None),
    "openat2": (437, 437), "mount_setattr": (442, 442), "memfd_secret": (447, 447), "process_madvise": (440, 440),
}  # fmt: skip
NEEDED = {"read": (0, 63), "write": (1, 64), "openat": (257, 56), "mmap": (9, 222), "futex": (202, 98),
          "exit_group": (231, 94), "rt_sigreturn": (15, 139), "brk": (12, 214), "getrandom": (318, 278),
          "clock_nanosleep": (230, 115), "newfstatat": (262, 79), "getdents64": (217, 61)}  # fmt: skip
SINGLE = {"clone": (56, 220), "clone3": (435, 435), "prlimit64": (302, 261), "ioctl": (16, 29), "fcntl": (72, 25)}
MACHINES = ["x86_64", "aarch64"]


def verdict(machine: str, number: int, arguments: tuple[int, ...] = (), audit: int | None = None) -> int:
    """What the filter returns for a call: classic BPF, by its manual."""
    data = struct.pack(
        "<iIQ6Q", number, AUDIT[machine] if audit is None else audit, 0, *arguments, *[0] * (6 - len(arguments))
    )
    program = locks.seccomp_program(machine)
    code = [struct.unpack_from("HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator = at = 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
            continue
        holds = {
            0x15: accumulator == value,
            0x25: accumulator > value,
            0x35: accumulator >= value,
            0x45: bool(accumulator & value),
        }[operation]
        at += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_dangerous_is_refused(machine):
    column = MACHINES.index(machine)
    let_through = [name for name, numbers in DANGEROUS.items() if numbers[column] is not None
                   and verdict(machine, numbers[column], (2**64 - 1,) * 6) != REFUSED]  # fmt: skip
    assert let_through == []


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_program_needs_is_allowed(machine):
    assert {
        name for name, numbers in NEEDED.items() if verdict(machine, numbers[MACHINES.index(machine)]) != ALLOWED
    } == set()


@pytest.mark.parametrize("machine", MACHINES)
def test_only_the_named_calls_are_allowed(machine):
    column = MACHINES.index(machine)
    named = {numbers[column] for numbers in locks.SYSCALLS.values()} - {None}
    special = {SINGLE[name][column] for name in SINGLE}
    for number in range(600):
        if number not in special:
            assert verdict(machine, number, (2**64 - 1,) * 6) == (ALLOWED if number in named else REFUSED), number


@pytest.mark.parametrize("machine", MACHINES)
def test_threads_yes_processes_no(machine):
    column = MACHINES.index(machine)
    clone, clone3 = SINGLE["clone"][column], SINGLE["clone3"][column]
    assert verdict(machine, clone, (0x3D0F00,)) == ALLOWED  # what pthread_create asks for
    assert verdict(machine, clone, (17,)) == REFUSED  # fork: SIGCHLD alone
    assert verdict(machine, clone, (0x10000000 | 17,)) == REFUSED  # a user namespace
    assert verdict(machine, clone, (0x10000 << 32,)) == REFUSED  # the flag's bit, but in the high half
    assert verdict(machine, clone3) == UNKNOWN


@pytest.mark.parametrize("machine", MACHINES)
def test_a_limit_can_be_read_and_not_set(machine):
    number = SINGLE["prlimit64"][MACHINES.index(machine)]
    assert verdict(machine, number, (0, 7, 0, 1)) == ALLOWED
    assert verdict(machine, number, (0, 7, 1, 0)) == REFUSED
    assert verdict(machine, number, (0, 7, 1 << 32, 0)) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
def test_only_harmless_controls_of_files(machine):
    number = SINGLE["ioctl"][MACHINES.index(machine)]
    assert verdict(machine, number, (0, 0x5401)) == ALLOWED
    for request in (0x5412, 0x541C, 0x540E, 0x8912, 0x5421):  # TIOCSTI, TIOCLINUX, TIOCSCTTY, SIOCGIFCONF, FIONBIO
        assert verdict(machine, number, (0, request)) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
def test_no_file_can_be_made_to_signal_somebody(machine):
    number = SINGLE["fcntl"][MACHINES.index(machine)]
    assert verdict(machine, number, (0, 3)) == ALLOWED
    for command in (8, 10, 15, 1024, 1026, 1031):  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ
        assert verdict(machine, number, (0, command)) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
def test_a_foreign_architecture_is_killed(machine):
    assert verdict(machine, 1, audit=0x40000003) == KILLED  # i386, by int 0x80
    assert verdict(machine, 0x40000000 + 41) == UNKNOWN  # x32
