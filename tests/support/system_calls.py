"""What a process really asks of the system, as strace sees it: nothing can go past that.

A trace becomes the words of :mod:`tests.support.recorded_disk`, so that the two can be compared::

    command = [*STRACE, "-o", str(trace), sys.executable, "-m", …]
    changes_in(trace.read_text(), root, existing={"data"})    # [("open", ".data.….tmp"), …]
"""

import re
from pathlib import Path

_CHANGING = """
    open openat openat2 creat write pwrite64 writev pwritev pwritev2 sendfile copy_file_range splice
    tee vmsplice fallocate ftruncate truncate fsync fdatasync sync syncfs sync_file_range msync mmap
    link linkat symlink symlinkat rename renameat renameat2 unlink unlinkat rmdir mkdir mkdirat
    mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes
    utimensat futimesat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr io_submit
    io_uring_setup
"""
_TRACED = ",".join(f"?{call}" for call in _CHANGING.split())  # "?": what this kernel does not know
STRACE = ("strace", "-f", "-y", "-s", "0", "-e", f"trace={_TRACED}")

_SAME = {
    "creat": "open",
    "fchmod": "chmod",
    "fchmodat": "chmod",
    "fdatasync": "fsync",
    "linkat": "link",
    "mkdirat": "mkdir",
    "openat": "open",
    "pwrite64": "pwrite",
    "renameat": "rename",
    "renameat2": "rename",
    "rmdir": "unlink",
    "truncate": "ftruncate",
    "unlinkat": "unlink",
}
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_OF_DESCRIPTOR = re.compile(r"\d+<([^<>]*)>(?:\(deleted\))?")
_QUOTED = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^<>]*)>, )?"([^"]*)"')


def changes_in(trace: str, root: Path, existing: set[str]) -> list[tuple[str, str]]:
    """Return each successful call that changed something below ``root``, and the path it changed.

    Args:
        trace: What strace wrote; a process of one thread, so that no call is split in two lines.
        root: A real path.
        existing: The paths that were there before, relative to ``root``: opening one of these
            with O_CREAT changes nothing.
    """
    existing = set(existing)
    found = []
    for line in trace.splitlines():
        assert "<unfinished" not in line, "two threads: the order of their calls is not known"
        match = _CALL.match(line)
        if match is None or match[3] == "-1" or _harmless(match[1], match[2]):
            continue
        call = _SAME.get(match[1], match[1])
        paths = [_relative(path, root) for path in _paths(call, match[2])]
        inside = [path for path in paths if path is not None]
        if not inside or (call == "open" and inside[-1] in existing and "O_TRUNC" not in match[2]):
            continue
        if call in {"rename", "unlink"}:
            existing.discard(inside[0])
        if call in {"link", "mkdir", "open", "rename"}:
            existing.add(inside[-1])
        found.append((call, inside[-1]))
    return found


def _harmless(call: str, arguments: str) -> bool:
    if call in {"open", "openat", "openat2"}:
        return "O_CREAT" not in arguments and "O_TRUNC" not in arguments
    return call == "mmap" and not ("MAP_SHARED" in arguments and "PROT_WRITE" in arguments)


def _paths(call: str, arguments: str) -> list[str]:
    """Return the paths that a call names, whole; those of its descriptors if it names none."""
    named = [f"{folder}/{name}" if name[:1] != "/" else name for folder, name in _quoted(arguments)]
    if named and call not in {"write", "pwrite", "writev"}:
        return named
    return [match[1].removesuffix(" (deleted)") for match in _OF_DESCRIPTOR.finditer(arguments)]


def _quoted(arguments: str) -> list[tuple[str, str]]:
    return [(match[1] or "", match[2]) for match in _QUOTED.finditer(arguments)]


def _relative(path: str, root: Path) -> str | None:
    here = str(root)
    if path == here:
        return "."
    return path.removeprefix(f"{here}/") if path.startswith(f"{here}/") else None
