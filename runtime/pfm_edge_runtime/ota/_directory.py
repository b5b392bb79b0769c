"""A repository that lies in a directory: a stick, a share, a copy.

Owns reading from it. A pipe or a device in the place of a file is refused, never waited for::

    DirectoryTransport(Path("/media/stick/public"), Meter()).read("forget.json", most=2**20)
"""

import os
import stat
from pathlib import Path

from pfm_edge_runtime.errors import FetchError
from pfm_edge_runtime.ota._transport import Meter, MissingFileError, Transport
from pfm_edge_runtime.store import without_waiting

__all__ = ["DirectoryTransport", "read_whole"]


class DirectoryTransport(Transport):
    """Reads a repository from a directory."""

    def __init__(self, directory: Path, meter: Meter) -> None:
        self.name = str(directory)
        self.is_fresh = False
        self.meter = meter
        self._directory = directory

    def _read(self, name: str, most: int, attempts: int | None) -> bytes:  # noqa: ARG002 (one try is enough)
        data = read_whole(self._directory.joinpath(*name.split("/")), most)
        self.meter.requests += 1
        self.meter.received += len(data)
        return data


def read_whole(path: Path, most: int) -> bytes:
    """Read a file of at most so many bytes.

    Raises:
        MissingFileError: There is none.
        FetchError: It cannot be read, is no file, or is longer.
    """
    try:
        with open(path, "rb", opener=without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FetchError(f"{path} is no regular file")
            data = file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"{path} is missing: copy the whole public folder") from error
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > most:
        raise FetchError(f"{path} is longer than the {most} bytes that it may have")
    return data
