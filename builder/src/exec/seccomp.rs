//! The system call filter of a step: what the default profiles of Docker and podman deny to a
//! container without extra capabilities (moby, profiles/seccomp/default.json).
//!
//! ```text
//! load arch -> native numbers | 32-bit numbers | kill
//! numbers newer than this table -> ENOSYS     denied numbers -> EPERM     clone3 -> ENOSYS
//! clone with a namespace flag -> EPERM        else allow
//! ```
//! The program is written here: the libraries for it know one architecture a program, and neither
//! 32-bit programs on a 64-bit kernel nor x32 numbers.

use nix::errno::Errno;
use nix::libc::{self, sock_filter};

// BPF instruction codes (linux/bpf_common.h).
const LOAD_WORD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

// Offsets in struct seccomp_data (linux/seccomp.h); the low half of the first argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

// What a filter returns (linux/seccomp.h).
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

/// CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;

/// Values of personality(2) that are allowed: PER_LINUX, PER_LINUX32, UNAME26 with each, query.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The newest system call that was looked at for the tables (file_setattr, Linux 6.17). Later
/// ones do not exist for a step; neither do the x32 numbers, which start at 2^30.
const NEWEST: u32 = 469;

/// clone3 has its flags in memory, out of reach of a filter; libc then falls back to clone.
const CLONE3: u32 = 435;

/// Denied on every architecture, where numbers are shared (424 and later).
const DENIED_SHARED: [u32; 15] = [
    425, 426, 427, // io_uring_setup, _enter, _register
    428, 429, 430, 431, 432, 433, // open_tree, move_mount, fsopen, fsconfig, fsmount, fspick
    438, 440, 442, 443, // pidfd_getfd, process_madvise, mount_setattr, quotactl_fd
    450, 467, // set_mempolicy_home_node, open_tree_attr
];

/// One way to number system calls.
struct Numbers {
    /// AUDIT_ARCH_* (linux/audit.h).
    arch: u32,
    clone: u32,
    personality: u32,
    denied: &'static [u32],
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [Numbers; 2] = [
    Numbers {
        arch: 0xc000_003e,
        clone: number(libc::SYS_clone),
        personality: number(libc::SYS_personality),
        denied: &X86_64,
    },
    Numbers { arch: 0x4000_0003, clone: 120, personality: 136, denied: &I386 },
];

#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [Numbers; 1] = [Numbers {
    arch: 0xc000_00b7,
    clone: number(libc::SYS_clone),
    personality: number(libc::SYS_personality),
    denied: &COMMON,
}];

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked below")]
const fn number(call: libc::c_long) -> u32 {
    assert!(call >= 0 && call <= NEWEST as libc::c_long);
    call as u32
}

/// Denied on all 64-bit architectures.
const COMMON: [u32; 37] = [
    number(libc::SYS_acct),
    number(libc::SYS_add_key),
    number(libc::SYS_bpf),
    number(libc::SYS_clock_settime),
    number(libc::SYS_delete_module),
    number(libc::SYS_fanotify_init),
    number(libc::SYS_finit_module),
    number(libc::SYS_get_mempolicy),
    number(libc::SYS_init_module),
    number(libc::SYS_kcmp),
    number(libc::SYS_kexec_file_load),
    number(libc::SYS_kexec_load),
    number(libc::SYS_keyctl),
    number(libc::SYS_mbind),
    number(libc::SYS_migrate_pages),
    number(libc::SYS_mount),
    number(libc::SYS_move_pages),
    number(libc::SYS_nfsservctl),
    number(libc::SYS_open_by_handle_at),
    number(libc::SYS_perf_event_open),
    number(libc::SYS_pivot_root),
    number(libc::SYS_quotactl),
    number(libc::SYS_reboot),
    number(libc::SYS_request_key),
    number(libc::SYS_set_mempolicy),
    number(libc::SYS_setdomainname),
    number(libc::SYS_sethostname),
    number(libc::SYS_setns),
    number(libc::SYS_settimeofday),
    number(libc::SYS_swapoff),
    number(libc::SYS_swapon),
    number(libc::SYS_syslog),
    number(libc::SYS_umount2),
    number(libc::SYS_unshare),
    number(libc::SYS_userfaultfd),
    number(libc::SYS_vhangup),
    number(libc::SYS_vmsplice),
];

#[cfg(target_arch = "x86_64")]
const X86_64: [u32; COMMON.len() + 11] = {
    let old = [
        number(libc::SYS__sysctl),
        number(libc::SYS_ioperm),
        number(libc::SYS_iopl),
        // create_module, get_kernel_syms, query_module, lookup_dcookie: gone from the kernel, and
        // from the list of libc
        174,
        177,
        178,
        212,
        number(libc::SYS_sysfs),
        number(libc::SYS_uselib),
        number(libc::SYS_ustat),
        number(libc::SYS_vserver),
    ];
    let mut all = [0; COMMON.len() + 11];
    let mut at = 0;
    while at < all.len() {
        all[at] = if at < COMMON.len() { COMMON[at] } else { old[at - COMMON.len()] };
        at += 1;
    }
    all
};

/// As above for 32-bit programs, numbers of asm/unistd_32.h.
#[cfg(target_arch = "x86_64")]
const I386: [u32; 53] = [
    21, 22, 25, 51, 52, 62, // mount, umount, stime, acct, umount2, ustat
    74, 79, 86, 87, 88, // sethostname, settimeofday, uselib, swapon, reboot
    101, 103, 110, 111, 113, 115, // ioperm, syslog, iopl, vhangup, vm86old, swapoff
    121, 127, 128, 129, 130, 131, // setdomainname, module calls, quotactl
    134, 135, 149, 166, 167, 169, // bdflush, sysfs, _sysctl, vm86, query_module, nfsservctl
    217, 253, 264, 273, // pivot_root, lookup_dcookie, clock_settime, vserver
    274, 275, 276, // mbind, get_mempolicy, set_mempolicy
    283, 286, 287, 288, // kexec_load, add_key, request_key, keyctl
    294, 310, 316, 317, // migrate_pages, unshare, vmsplice, move_pages
    336, 338, 342, 346, // perf_event_open, fanotify_init, open_by_handle_at, setns
    349, 350, 357, 374, // kcmp, finit_module, bpf, userfaultfd
    404, // clock_settime64
];

/// The program.
pub(super) fn filter() -> Vec<sock_filter> {
    let mut program = vec![load(ARCH)];
    for numbers in &ARCHITECTURES {
        let section = section(numbers);
        program.push(jump_if(JUMP_EQUAL, numbers.arch, 1, 0));
        program.push(jump(section.len()));
        program.extend(section);
    }
    program.push(give(KILL_PROCESS));
    program
}

/// The rules for one way to number; every path through it returns.
fn section(numbers: &Numbers) -> Vec<sock_filter> {
    let deny = give(ERRNO | Errno::EPERM as u32);
    let absent = give(ERRNO | Errno::ENOSYS as u32);
    let mut rules = vec![load(NUMBER), jump_if(JUMP_AT_LEAST, NEWEST + 1, 0, 1), absent];
    for call in numbers.denied.iter().chain(&DENIED_SHARED) {
        rules.extend([jump_if(JUMP_EQUAL, *call, 0, 1), deny]);
    }
    rules.extend([jump_if(JUMP_EQUAL, CLONE3, 0, 1), absent]);
    rules.extend([
        jump_if(JUMP_EQUAL, numbers.clone, 0, 4),
        load(FIRST_ARGUMENT),
        jump_if(JUMP_ANY_BIT, NAMESPACE_FLAGS, 0, 1),
        deny,
        give(ALLOW),
    ]);
    rules.extend([jump_if(JUMP_EQUAL, numbers.personality, 1, 0), give(ALLOW)]);
    rules.push(load(FIRST_ARGUMENT));
    for value in PERSONALITIES {
        rules.extend([jump_if(JUMP_EQUAL, value, 0, 1), give(ALLOW)]);
    }
    rules.push(deny);
    rules
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: offset }
}

fn jump_if(code: u16, value: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter { code, jt: then, jf: otherwise, k: value }
}

fn jump(over: usize) -> sock_filter {
    let over = u32::try_from(over).expect("a program has some hundred instructions");
    sock_filter { code: JUMP, jt: 0, jf: 0, k: over }
}

fn give(value: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn verdict(arch: u32, number: u32, argument: u32) -> u32 {
        let program = filter();
        let (mut at, mut word) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let taken = match code {
                LOAD_WORD => {
                    word = match k {
                        NUMBER => number,
                        ARCH => arch,
                        FIRST_ARGUMENT => argument,
                        other => panic!("load from {other}"),
                    };
                    continue;
                }
                RETURN => return k,
                JUMP => {
                    at += k as usize;
                    continue;
                }
                JUMP_EQUAL => word == k,
                JUMP_AT_LEAST => word >= k,
                JUMP_ANY_BIT => word & k != 0,
                other => panic!("code {other}"),
            };
            at += usize::from(if taken { jt } else { jf });
        }
    }

    const EPERM: u32 = ERRNO | 1;
    const ENOSYS: u32 = ERRNO | 38;

    #[test]
    fn the_kernel_accepts_the_length() {
        assert!(filter().len() < 4096, "BPF_MAXINSNS");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn denied_calls_are_denied_in_every_numbering() {
        const NATIVE: u32 = 0xc000_003e;
        const I386_ARCH: u32 = 0x4000_0003;
        assert_eq!(verdict(NATIVE, 165, 0), EPERM, "mount");
        assert_eq!(verdict(I386_ARCH, 21, 0), EPERM, "mount");
        assert_eq!(verdict(NATIVE, 165 | 0x4000_0000, 0), ENOSYS, "x32 mount");
        assert_eq!(verdict(NATIVE, 435, 0), ENOSYS, "clone3");
        assert_eq!(verdict(I386_ARCH, 435, 0), ENOSYS, "clone3");
        assert_eq!(verdict(I386_ARCH, 404, 0), EPERM, "clock_settime64");
        assert_eq!(verdict(NATIVE, 404, 0), ALLOW, "unassigned here");
        for call in DENIED_SHARED {
            assert_eq!(verdict(NATIVE, call, 0), EPERM);
            assert_eq!(verdict(I386_ARCH, call, 0), EPERM);
        }
        assert_eq!(verdict(NATIVE, 1000, 0), ENOSYS, "a call of the future");
        assert_eq!(verdict(0x28, 1, 0), KILL_PROCESS, "another architecture");
        for call in [0, 1, 59, 57, 101, 310] {
            assert_eq!(verdict(NATIVE, call, 0), ALLOW, "read write execve fork ptrace vm_readv");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn clone_and_personality_go_by_their_argument() {
        for (arch, clone, personality) in [(0xc000_003e, 56, 135), (0x4000_0003, 120, 136)] {
            assert_eq!(verdict(arch, clone, 0x0120_0011), ALLOW, "fork of libc");
            assert_eq!(verdict(arch, clone, 0x003d_0f00), ALLOW, "a thread");
            assert_eq!(verdict(arch, clone, 0x1000_0011), EPERM, "CLONE_NEWUSER");
            assert_eq!(verdict(arch, clone, 0x0002_0000), EPERM, "CLONE_NEWNS");
            assert_eq!(verdict(arch, personality, 0xffff_ffff), ALLOW);
            assert_eq!(verdict(arch, personality, 0x8), ALLOW);
            assert_eq!(verdict(arch, personality, 0x004_0000), EPERM, "ADDR_NO_RANDOMIZE");
        }
    }
}
