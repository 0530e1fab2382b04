"""Runs a program as a container runtime would: jail.py ROOT UID CAPABILITIES PROGRAM [ARGUMENT...]

CAPABILITIES are numbers with commas between them: all that the program and its children can ever have. A program that can be
made to write to its root directory would be no proof of anything, so that is tried first.
"""

import ctypes
import errno
import os
import sys

PR_CAPBSET_DROP = 24


def main(root, uid, capabilities, program, *arguments):
    keep = {int(number) for number in capabilities.split(",") if number}
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    os.chroot(root)
    os.chdir("/")
    try:
        os.close(os.open("/written", os.O_CREAT | os.O_WRONLY))
        sys.exit("jail: the root file system can be written to")
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    for number in range(last + 1):
        if number not in keep and libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"drop capability {number}")
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
    # An exec by root gives what is left of the bounding set, and by anybody else nothing.
    os.execve(program, [program, *arguments], {"PATH": "/usr/sbin:/usr/bin", "LD_BIND_NOW": "1"})


if __name__ == "__main__":
    main(*sys.argv[1:])
