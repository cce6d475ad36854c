"""System calls by number, and what a sandboxed program may do with each.

Numbers: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h
(aarch64). A number never changes its meaning; calls that are not listed are answered ENOSYS, so
that a kernel's next call is denied until somebody has looked at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Architecture:
    """One machine architecture, as seccomp names it."""

    name: str
    audit: int
    """AUDIT_ARCH_* of linux/audit.h, which a filter compares first."""
    numbers: Mapping[str, int]
    x32: bool
    """Whether numbers from 0x40000000 on are a second ABI of this architecture."""


ALLOWED: Final = frozenset(
    """
read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction
rt_sigprocmask rt_sigreturn pread64 pwrite64 readv writev access pipe select sched_yield mremap
msync mincore madvise dup dup2 pause nanosleep getitimer alarm setitimer getpid sendfile exit
wait4 kill uname fcntl flock fsync fdatasync truncate ftruncate getdents getcwd chdir fchdir
rename mkdir rmdir creat link unlink symlink readlink chmod fchmod chown fchown lchown umask
gettimeofday getrlimit getrusage sysinfo times getuid getgid geteuid getegid setpgid getppid
getpgrp setsid setreuid setregid getgroups getresuid getresgid getpgid getsid capget
rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime statfs fstatfs
getpriority setpriority sched_setparam sched_getparam sched_getscheduler sched_get_priority_max
sched_get_priority_min sched_rr_get_interval mlock munlock mlockall munlockall arch_prctl
setrlimit sync gettid readahead getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
tkill time futex sched_setaffinity sched_getaffinity epoll_create getdents64 set_tid_address
restart_syscall fadvise64 timer_create timer_settime timer_gettime timer_getoverrun timer_delete
clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl tgkill utimes waitid
inotify_init inotify_add_watch inotify_rm_watch openat mkdirat fchownat newfstatat unlinkat
renameat linkat symlinkat readlinkat fchmodat faccessat pselect6 ppoll set_robust_list
get_robust_list splice tee sync_file_range vmsplice utimensat epoll_pwait signalfd
timerfd_create eventfd fallocate timerfd_settime timerfd_gettime signalfd4 eventfd2
epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev rt_tgsigqueueinfo prlimit64 syncfs getcpu
sched_getattr renameat2 getrandom memfd_create execve execveat mknod mknodat membarrier mlock2
copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx rseq pidfd_send_signal
pidfd_open close_range openat2 faccessat2 epoll_pwait2 fchmodat2 landlock_create_ruleset
landlock_add_rule landlock_restrict_self futex_waitv prctl ioctl personality recvfrom recvmsg
sendto sendmsg shutdown getsockname getpeername getsockopt setsockopt recvmmsg sendmmsg
""".split()
)
"""Calls that act on the program itself, on open descriptors, or on files that mounts and Landlock
bound. Some of these are looked at closer by `seccomp.RULES`."""

KILLED: Final = frozenset(
    """
ptrace process_vm_readv process_vm_writev mount umount2 pivot_root chroot setns unshare swapon
swapoff reboot kexec_load kexec_file_load init_module finit_module delete_module bpf keyctl
add_key request_key open_by_handle_at move_mount open_tree fsopen fsmount fsconfig fspick
mount_setattr pidfd_getfd process_madvise acct settimeofday clock_settime clock_adjtime adjtimex
sethostname setdomainname iopl ioperm quotactl syslog lookup_dcookie kcmp vhangup nfsservctl
""".split()
)
"""Calls that no ordinary program makes and many attacks do: they end the program at once."""


def _numbers(text: str) -> Mapping[str, int]:
    pairs = (word.split("=") for word in text.split())
    return MappingProxyType({name: int(number) for name, number in pairs})


_X86_64: Final = """
read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11
brk=12 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 ioctl=16 pread64=17 pwrite64=18
readv=19 writev=20 access=21 pipe=22 select=23 sched_yield=24 mremap=25 msync=26 mincore=27
madvise=28 dup=32 dup2=33 pause=34 nanosleep=35 getitimer=36 alarm=37 setitimer=38 getpid=39
sendfile=40 socket=41 connect=42 accept=43 sendto=44 recvfrom=45 sendmsg=46 recvmsg=47
shutdown=48 bind=49 listen=50 getsockname=51 getpeername=52 socketpair=53 setsockopt=54
getsockopt=55 clone=56 fork=57 vfork=58 execve=59 exit=60 wait4=61 kill=62 uname=63 fcntl=72
flock=73 fsync=74 fdatasync=75 truncate=76 ftruncate=77 getdents=78 getcwd=79 chdir=80 fchdir=81
rename=82 mkdir=83 rmdir=84 creat=85 link=86 unlink=87 symlink=88 readlink=89 chmod=90 fchmod=91
chown=92 fchown=93 lchown=94 umask=95 gettimeofday=96 getrlimit=97 getrusage=98 sysinfo=99
times=100 ptrace=101 getuid=102 syslog=103 getgid=104 geteuid=107 getegid=108 setpgid=109
getppid=110 getpgrp=111 setsid=112 setreuid=113 setregid=114 getgroups=115 getresuid=118
getresgid=120 getpgid=121 getsid=124 capget=125 rt_sigpending=127 rt_sigtimedwait=128
rt_sigqueueinfo=129 rt_sigsuspend=130 sigaltstack=131 utime=132 mknod=133 personality=135
statfs=137 fstatfs=138 getpriority=140 setpriority=141 sched_setparam=142 sched_getparam=143
sched_getscheduler=145 sched_get_priority_max=146 sched_get_priority_min=147
sched_rr_get_interval=148 mlock=149 munlock=150 mlockall=151 munlockall=152 vhangup=153
pivot_root=155 prctl=157 arch_prctl=158 adjtimex=159 setrlimit=160 chroot=161 sync=162 acct=163
settimeofday=164 mount=165 umount2=166 swapon=167 swapoff=168 reboot=169 sethostname=170
setdomainname=171 iopl=172 ioperm=173 init_module=175 delete_module=176 quotactl=179
nfsservctl=180 gettid=186 readahead=187 getxattr=191 lgetxattr=192 fgetxattr=193 listxattr=194
llistxattr=195 flistxattr=196 tkill=200 time=201 futex=202 sched_setaffinity=203
sched_getaffinity=204 lookup_dcookie=212 epoll_create=213 getdents64=217 set_tid_address=218
restart_syscall=219 fadvise64=221 timer_create=222 timer_settime=223 timer_gettime=224
timer_getoverrun=225 timer_delete=226 clock_settime=227 clock_gettime=228 clock_getres=229
clock_nanosleep=230 exit_group=231 epoll_wait=232 epoll_ctl=233 tgkill=234 utimes=235
kexec_load=246 waitid=247 add_key=248 request_key=249 keyctl=250 inotify_init=253
inotify_add_watch=254 inotify_rm_watch=255 openat=257 mkdirat=258 mknodat=259 fchownat=260
newfstatat=262 unlinkat=263 renameat=264 linkat=265 symlinkat=266 readlinkat=267 fchmodat=268
faccessat=269 pselect6=270 ppoll=271 unshare=272 set_robust_list=273 get_robust_list=274
splice=275 tee=276 sync_file_range=277 vmsplice=278 utimensat=280 epoll_pwait=281 signalfd=282
timerfd_create=283 eventfd=284 fallocate=285 timerfd_settime=286 timerfd_gettime=287 accept4=288
signalfd4=289 eventfd2=290 epoll_create1=291 dup3=292 pipe2=293 inotify_init1=294 preadv=295
pwritev=296 rt_tgsigqueueinfo=297 recvmmsg=299 prlimit64=302 open_by_handle_at=304
clock_adjtime=305 syncfs=306 sendmmsg=307 setns=308 getcpu=309 process_vm_readv=310
process_vm_writev=311 kcmp=312 finit_module=313 sched_getattr=315 renameat2=316 getrandom=318
memfd_create=319 kexec_file_load=320 bpf=321 execveat=322 membarrier=324 mlock2=325
copy_file_range=326 preadv2=327 pwritev2=328 pkey_mprotect=329 pkey_alloc=330 pkey_free=331
statx=332 rseq=334 pidfd_send_signal=424 open_tree=428 move_mount=429 fsopen=430 fsconfig=431
fsmount=432 fspick=433 pidfd_open=434 clone3=435 close_range=436 openat2=437 pidfd_getfd=438
faccessat2=439 process_madvise=440 epoll_pwait2=441 mount_setattr=442
landlock_create_ruleset=444 landlock_add_rule=445 landlock_restrict_self=446 futex_waitv=449
"""
_AARCH64: Final = """
getxattr=8 lgetxattr=9 fgetxattr=10 listxattr=11 llistxattr=12 flistxattr=13 getcwd=17
lookup_dcookie=18 eventfd2=19 epoll_create1=20 epoll_ctl=21 epoll_pwait=22 dup=23 dup3=24
fcntl=25 inotify_init1=26 inotify_add_watch=27 inotify_rm_watch=28 ioctl=29 flock=32 mknodat=33
mkdirat=34 unlinkat=35 symlinkat=36 linkat=37 renameat=38 umount2=39 mount=40 pivot_root=41
nfsservctl=42 statfs=43 fstatfs=44 truncate=45 ftruncate=46 fallocate=47 faccessat=48 chdir=49
fchdir=50 chroot=51 fchmod=52 fchmodat=53 fchownat=54 fchown=55 openat=56 close=57 vhangup=58
pipe2=59 quotactl=60 getdents64=61 lseek=62 read=63 write=64 readv=65 writev=66 pread64=67
pwrite64=68 preadv=69 pwritev=70 sendfile=71 pselect6=72 ppoll=73 signalfd4=74 vmsplice=75
splice=76 tee=77 readlinkat=78 newfstatat=79 fstat=80 sync=81 fsync=82 fdatasync=83
sync_file_range=84 timerfd_create=85 timerfd_settime=86 timerfd_gettime=87 utimensat=88 acct=89
capget=90 personality=92 exit=93 exit_group=94 waitid=95 set_tid_address=96 unshare=97 futex=98
set_robust_list=99 get_robust_list=100 nanosleep=101 getitimer=102 setitimer=103 kexec_load=104
init_module=105 delete_module=106 timer_create=107 timer_gettime=108 timer_getoverrun=109
timer_settime=110 timer_delete=111 clock_settime=112 clock_gettime=113 clock_getres=114
clock_nanosleep=115 syslog=116 ptrace=117 sched_setparam=118 sched_getscheduler=120
sched_getparam=121 sched_setaffinity=122 sched_getaffinity=123 sched_yield=124
sched_get_priority_max=125 sched_get_priority_min=126 sched_rr_get_interval=127
restart_syscall=128 kill=129 tkill=130 tgkill=131 sigaltstack=132 rt_sigsuspend=133
rt_sigaction=134 rt_sigprocmask=135 rt_sigpending=136 rt_sigtimedwait=137 rt_sigqueueinfo=138
rt_sigreturn=139 setpriority=140 getpriority=141 reboot=142 setregid=143 setreuid=145
getresuid=148 getresgid=150 times=153 setpgid=154 getpgid=155 getsid=156 setsid=157
getgroups=158 uname=160 sethostname=161 setdomainname=162 getrlimit=163 setrlimit=164
getrusage=165 umask=166 prctl=167 getcpu=168 gettimeofday=169 settimeofday=170 adjtimex=171
getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178 sysinfo=179
socket=198 socketpair=199 bind=200 listen=201 accept=202 connect=203 getsockname=204
getpeername=205 sendto=206 recvfrom=207 setsockopt=208 getsockopt=209 shutdown=210 sendmsg=211
recvmsg=212 readahead=213 brk=214 munmap=215 mremap=216 add_key=217 request_key=218 keyctl=219
clone=220 execve=221 mmap=222 fadvise64=223 swapon=224 swapoff=225 mprotect=226 msync=227
mlock=228 munlock=229 mlockall=230 munlockall=231 mincore=232 madvise=233 rt_tgsigqueueinfo=240
accept4=242 recvmmsg=243 wait4=260 prlimit64=261 open_by_handle_at=265 clock_adjtime=266
syncfs=267 setns=268 sendmmsg=269 process_vm_readv=270 process_vm_writev=271 kcmp=272
finit_module=273 sched_getattr=275 renameat2=276 getrandom=278 memfd_create=279 bpf=280
execveat=281 membarrier=283 mlock2=284 copy_file_range=285 preadv2=286 pwritev2=287
pkey_mprotect=288 pkey_alloc=289 pkey_free=290 statx=291 rseq=293 kexec_file_load=294
pidfd_send_signal=424 open_tree=428 move_mount=429 fsopen=430 fsconfig=431 fsmount=432
fspick=433 pidfd_open=434 clone3=435 close_range=436 openat2=437 pidfd_getfd=438 faccessat2=439
process_madvise=440 epoll_pwait2=441 mount_setattr=442 landlock_create_ruleset=444
landlock_add_rule=445 landlock_restrict_self=446 futex_waitv=449
"""

ARCHITECTURES: Final[Mapping[str, Architecture]] = MappingProxyType(
    {
        "x86_64": Architecture("x86_64", 0xC000003E, _numbers(_X86_64), x32=True),
        "aarch64": Architecture("aarch64", 0xC00000B7, _numbers(_AARCH64), x32=False),
    }
)
"""By `platform.machine()`."""
