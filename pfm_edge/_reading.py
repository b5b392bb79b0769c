"""Reading a file that a person names: regular, bounded, and one line if it cannot be.

data = read_whole(Path("issuer.pem"), most=1 << 14, error=KeyFileError)
"""

import os
import stat
from pathlib import Path

from pfm_edge_runtime.errors import PfmEdgeError
from pfm_edge_runtime.store import without_waiting

__all__ = ["read_whole"]


def read_whole(path: Path, *, most: int, error: type[PfmEdgeError]) -> bytes:
    """Read a file of at most `most` bytes.

    Raises:
        PfmEdgeError: as `error`: it is missing, no regular file, too large or unreadable.
    """
    try:
        with open(path, "rb", opener=without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise error(f"{path}: no regular file; name the file itself")
            data = file.read(most + 1)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, ValueError) as failure:  # ValueError: a null byte in the name
        reason = getattr(failure, "strerror", None) or failure
        raise error(f"{path}: cannot be read ({reason})") from failure
    if len(data) > most:
        raise error(f"{path}: larger than {most} bytes; name another file")
    return data
