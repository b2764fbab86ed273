"""Which kind of file system holds a path."""

from __future__ import annotations

import re

_NETWORK = """
    9p afs ceph cifs davfs fuse.davfs2 fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs lustre ncpfs nfs nfs4
    prl_fs smb2 smb3 smbfs vboxsf virtiofs
"""
NETWORK_FILE_SYSTEMS = frozenset(_NETWORK.split())
"""Kinds of file system, in the kernel's words, where inotify does not tell what other hosts do."""


def file_system(real: str, mounts: str) -> str:
    """Return the kind of file system that holds `real`, by the text of /proc/self/mounts.

    `real` is an absolute path without symbolic links. "" where no line of `mounts` holds it.
    """
    found, longest = "", -1
    for line in filter(None, mounts.split("\n")):
        _, point, kind, *_ = line.split(" ")
        # The kernel writes space, tab, newline and backslash as three octal digits.
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point).rstrip("/")
        # Of two mounts on one point the later one is seen.
        if (real + "/").startswith(point + "/") and len(point) >= longest:
            found, longest = kind, len(point)
    return found
