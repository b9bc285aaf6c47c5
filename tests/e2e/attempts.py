#!/usr/bin/env python3
"""What a hostile step tries, by name: attempts.py NAME [ARGUMENT]...; escape.sh runs it in steps.

Prints one line for each try, "refused: WHAT (ERROR)" or "GOT IN: WHAT". A try whose error is not one
of a refusal (a bad argument, say) is no proof and counts as GOT IN.
"""
import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
REFUSALS = (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS)
# Without a wrapper in the C library: x86_64, aarch64.
NUMBERS = {'bpf': (321, 280), 'perf_event_open': (298, 241), 'keyctl': (250, 219),
           'add_key': (248, 217), 'request_key': (249, 218), 'userfaultfd': (323, 282),
           'io_uring_setup': (425, 425), 'clone3': (435, 435), 'open_tree': (428, 428),
           'fsopen': (430, 430), 'pidfd_open': (434, 434), 'kexec_load': (246, 104),
           'quotactl': (179, 60), 'finit_module': (313, 273), 'pivot_root': (155, 41)}
COLUMN = {'x86_64': 0, 'aarch64': 1}.get(platform.machine())


def report(what, error, allowed=REFUSALS):
    if error in allowed:
        print(f'refused: {what} ({errno.errorcode[error]})')
    else:
        print(f'GOT IN: {what} ({errno.errorcode.get(error, error)})')


def call(what, function, *args, allowed=REFUSALS):
    ctypes.set_errno(0)
    result = function(*args)
    report(what, ctypes.get_errno() if result == -1 else 0, allowed)


def syscall(name, *args, what=None, allowed=REFUSALS):
    number = ctypes.c_long(NUMBERS[name][COLUMN])
    call(what or name, LIBC.syscall, number, *args, allowed=allowed)


def attempt(what, function, *args, allowed=REFUSALS):
    """For Python's own calls, which raise."""
    try:
        function(*args)
        error = 0
    except OSError as exc:
        error = exc.errno
    report(what, error, allowed)


def try_processes(pid):
    """A process outside, by the number that it has there."""
    pid, gone = int(pid), (errno.ESRCH, )
    attempt('kill', os.kill, pid, 9, allowed=gone)
    call('ptrace attach', LIBC.ptrace, 16, pid, 0, 0, allowed=gone)
    call('ptrace seize', LIBC.ptrace, 0x4206, pid, 0, 0, allowed=gone)
    syscall('pidfd_open', pid, 0, allowed=gone)
    attempt('setpriority', os.setpriority, os.PRIO_PROCESS, pid, 5, allowed=gone)
    attempt('sched_setaffinity', os.sched_setaffinity, pid, {0}, allowed=gone)
    attempt('its /proc', os.listdir, f'/proc/{pid}', allowed=(errno.ENOENT, ))
    attempt('nice', os.setpriority, os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1)


def try_shared_inodes():
    """Files that the step has in common with the host: their modes, owners, times and contents."""
    paths = ['/proc/1/exe', '/proc/cpuinfo', '/proc/meminfo', '/proc/sys/kernel/core_pattern',
             '/dev/null', '/dev/zero', '/dev/full', '/dev/random', '/dev/urandom', '/dev/tty',
             '/proc/self/fd/0', '/etc/hosts', '/etc/resolv.conf', '/sys/kernel', '/proc']
    for path in paths:
        mode = os.stat(path).st_mode & 0o7777
        attempt(f'chmod {path}', os.chmod, path, mode)
        attempt(f'chown {path}', os.chown, path, 0, 0)
        attempt(f'utime {path}', os.utime, path)
        attempt(f'setxattr {path}', os.setxattr, path, 'trusted.hm', b'x',
                allowed=REFUSALS + (errno.ENOTSUP, ))
    attempt('fchmod of stdin', os.fchmod, 0, 0o666)
    attempt('write /proc/1/exe', os.open, '/proc/1/exe', os.O_WRONLY,
            allowed=REFUSALS + (errno.ETXTBSY, ))
    attempt('truncate /proc/1/exe', os.truncate, '/proc/1/exe', 0,
            allowed=REFUSALS + (errno.ETXTBSY, ))
    for name in os.listdir('/proc/1/map_files')[:4]:
        attempt('chmod of a mapped file', os.chmod, f'/proc/1/map_files/{name}', 0o755)


def try_devices():
    import stat
    for kind, name in ((stat.S_IFBLK, 'block'), (stat.S_IFCHR, 'char')):
        for device in (os.makedev(254, 0), os.makedev(8, 0), os.makedev(1, 1), os.makedev(10, 229)):
            for place in ('/dev/hm-node', '/tmp/hm-node', 'hm-node'):
                attempt(f'mknod {name} {place}', os.mknod, place, kind | 0o600, device)
    for path in ('/dev/mem', '/dev/kmem', '/dev/port', '/dev/kmsg', '/dev/fuse', '/dev/kvm',
                 '/dev/vda', '/dev/sda', '/dev/nvme0n1', '/dev/loop-control', '/dev/mapper/control',
                 '/dev/net/tun', '/dev/console', '/dev/tty0', '/dev/ttyS0', '/dev/uinput'):
        attempt(f'open {path}', os.open, path, os.O_RDONLY, allowed=REFUSALS + (errno.ENOENT, ))


def try_mounts():
    mount, text = LIBC.mount, ctypes.c_char_p
    os.makedirs('/tmp/m', exist_ok=True)
    for kind in (b'tmpfs', b'proc', b'sysfs', b'devpts', b'cgroup', b'cgroup2', b'overlay', b'fuse',
                 b'debugfs', b'mqueue', b'ext4'):
        call(f'mount {kind.decode()}', mount, text(b'none'), text(b'/tmp/m'), text(kind), 0, None)
    bind, remount, private = 4096, 32, 1 << 18
    call('bind', mount, text(b'/'), text(b'/tmp/m'), None, bind, None)
    for path in (b'/', b'/proc', b'/proc/sys', b'/sys', b'/dev/null', b'/etc/hosts'):
        name = path.decode()
        call(f'remount {name}', mount, text(b'none'), text(path), None, remount | bind, None)
        call(f'umount {name}', LIBC.umount2, text(path), 2)
    call('make private', mount, text(b'none'), text(b'/'), None, private, None)
    syscall('pivot_root', text(b'/tmp/m'), text(b'/tmp/m'))
    syscall('open_tree', -100, text(b'/'), 1, what='open_tree clone')
    syscall('fsopen', text(b'tmpfs'), 0)


def try_namespaces():
    flags = {'mount': 0x20000, 'cgroup': 0x2000000, 'uts': 0x4000000, 'ipc': 0x8000000,
             'user': 0x10000000, 'pid': 0x20000000, 'net': 0x40000000}
    for name, flag in flags.items():
        call(f'unshare {name}', LIBC.unshare, flag)
        call(f'unshare {name} and user', LIBC.unshare, flag | flags['user'])
    syscall('clone3', ctypes.create_string_buffer(struct.pack('=11Q', flags['user'], *[0] * 10)), 88)
    for name in ('mnt', 'pid', 'user', 'net', 'cgroup'):
        fd = os.open(f'/proc/1/ns/{name}', os.O_RDONLY)
        # Joining the user namespace one is in is EINVAL for everybody.
        call(f'setns {name}', LIBC.setns, fd, 0,
             allowed=REFUSALS + ((errno.EINVAL, ) if name == 'user' else ()))


def try_settings():
    """Every file of /proc and /sys that stands for the kernel is closed to writing: nothing is
    written, opening is the try."""
    count = tried = 0
    for top in ['/sys'] + [f'/proc/{name}' for name in os.listdir('/proc')]:
        if top[6:].isdigit() or os.path.islink(top):
            continue
        walk = os.walk(top) if os.path.isdir(top) else [(os.path.dirname(top), [], [top])]
        for folder, _, names in walk:
            for name in names:
                path = os.path.join(folder, name)
                if os.path.islink(path):
                    continue
                tried += 1
                try:
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                    print(f'GOT IN: {path} opens for writing')
                except OSError as exc:
                    count += exc.errno in REFUSALS
    print(f'refused: {count} of {tried} files')
    if count < tried - 10 or tried < 100:
        print('GOT IN: there is another reason than a refusal')
    for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/sys/kernel/uevent_helper',
                 '/sys/fs/cgroup/release_agent', '/sys/fs/cgroup/cgroup.procs',
                 '/sys/fs/cgroup/memory/release_agent', '/proc/self/oom_score_adj',
                 '/proc/sys/kernel/modprobe', '/proc/sys/vm/drop_caches', '/proc/self/uid_map'):
        attempt(path, os.open, path, os.O_WRONLY, allowed=REFUSALS + (errno.ENOENT, ))
    for folder in ('/sys/fs/cgroup', '/sys/fs/cgroup/memory', '/sys/kernel/config'):
        attempt(f'mkdir in {folder}', os.mkdir, f'{folder}/hm-escape',
                allowed=REFUSALS + (errno.ENOENT, ))


def try_kernel():
    text = ctypes.c_char_p
    call('init_module', LIBC.init_module, None, 0, text(b''))
    call('delete_module', LIBC.delete_module, text(b'hm_none'), 0)
    syscall('finit_module', 0, text(b''), 0)
    syscall('kexec_load', 0, 0, None, 0)
    call('reboot', LIBC.syscall, ctypes.c_long((169, 142)[COLUMN]), 0, 0, 0, None)
    call('swapon', LIBC.swapon, text(b'/tmp/none'), 0)
    call('acct', LIBC.acct, text(b'/tmp/none'))
    call('sethostname', LIBC.sethostname, text(b'x'), 1)
    call('settimeofday', LIBC.settimeofday, struct.pack('=qq', 1, 0), None)
    call('klogctl', LIBC.klogctl, 3, ctypes.create_string_buffer(64), 64)
    if hasattr(LIBC, 'iopl'):
        call('iopl', LIBC.iopl, 3)
        call('ioperm', LIBC.ioperm, 0, 8, 1)
    syscall('bpf', 0, ctypes.create_string_buffer(128), 128)
    syscall('perf_event_open', ctypes.create_string_buffer(struct.pack('=II', 1, 128), 128), 0, -1, -1,
            0)
    syscall('userfaultfd', 0)
    syscall('io_uring_setup', 1, ctypes.create_string_buffer(128))
    call('open_by_handle_at', LIBC.open_by_handle_at, -100,
         struct.pack('=Ii', 8, 1) + bytes(8), 0)
    header, full = struct.pack('=Ii', 0x20080522, 0), struct.pack('=6I', *[0xffffffff] * 3 * 2)
    call('capset', LIBC.capset, header, full)
    import resource
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
        print('GOT IN: a raised limit')
    except (OSError, ValueError):
        print('refused: raise a limit')


def try_keyrings():
    text, session, user = ctypes.c_char_p, -3, -4
    for name, ring in (('session', session), ('user', user)):
        syscall('keyctl', 0, ring, 0, what=f'keyctl get {name}')
        syscall('keyctl', 10, ring, text(b'user'), text(b'hm-escape'), 0, what=f'keyctl search {name}')
        syscall('add_key', text(b'user'), text(b'hm'), text(b'x'), 1, ring, what=f'add_key {name}')
    syscall('keyctl', 1, None, what='keyctl join')
    syscall('request_key', text(b'user'), text(b'hm-escape'), None, session)
    print('GOT IN: /proc/keys' if os.path.exists('/proc/keys') and open('/proc/keys').read()
          else 'refused: /proc/keys (empty)')


def try_terminal():
    attempt('open /dev/tty', os.open, '/dev/tty', os.O_RDWR, allowed=(errno.ENXIO, ))
    for fd in (0, 1, 2):
        attempt(f'TIOCSTI on {fd}', fcntl.ioctl, fd, 0x5412, b'x', allowed=(errno.ENOTTY, ))


def try_network(abstract, port):
    """A socket of the host by its abstract name, and one by its port."""
    refused = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EPERM)
    attempt('abstract socket', socket.socket(socket.AF_UNIX).connect, '\0' + abstract,
            allowed=refused)
    attempt('loopback', socket.create_connection, ('127.0.0.1', int(port)), 5, allowed=refused)


def try_ipc(key, queue):
    gone = (errno.ENOENT, )
    call('shmget', LIBC.shmget, int(key), 0, 0, allowed=gone)
    call('msgget', LIBC.msgget, int(key), 0, allowed=gone)
    call('semget', LIBC.semget, int(key), 0, 0, allowed=gone)
    call('mq_open', LIBC.mq_open, ctypes.c_char_p(queue.encode()), 0, allowed=gone)


def try_outside(*names):
    """Paths of the host that must not be there, also from above every root and directory."""
    for start in ('/', '/proc/1/root', '/proc/1/cwd', '/proc/self/root', '/proc/self/cwd', '.'):
        for path in names:
            attempt(f'{path} from {start}', os.stat, start + '/' + '../' * 20 + path.lstrip('/'),
                    allowed=REFUSALS + (errno.ENOENT, ))
    os.makedirs('/tmp/cage', exist_ok=True)
    above = os.open('/', os.O_RDONLY)
    os.chroot('/tmp/cage')
    os.fchdir(above)
    for _ in range(40):
        os.chdir('..')
    for path in names:
        attempt(f'{path} by chroot', os.stat, path.lstrip('/'), allowed=(errno.ENOENT, ))


if __name__ == '__main__':
    if COLUMN is None:
        sys.exit('no system call numbers for this machine')
    globals()['try_' + sys.argv[1]](*sys.argv[2:])
    print('end of the attempts', flush=True)
