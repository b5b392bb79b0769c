"""What is wrong with a repository's metadata, in a line: what TUF's client raises, made ours.

Owns which findings may pass by themselves. Between a device and its publisher there are caches, and
one that is behind looks like an attack for a while::

    with explained(name, online=True, expired=expired):
        client.refresh()
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pfm_edge_runtime.errors import FetchError, RepositoryError, StorageError

__all__ = ["StaleError", "explained", "old_copy"]

_UNDER_ROOT = ("timestamp", "snapshot", "targets")


class StaleError(RepositoryError, FetchError):
    """The repository is not as it must be, as a cache that is behind shows it; that may pass."""


@contextmanager
def explained(
    name: str, *, online: bool, expired: Callable[[str], RepositoryError]
) -> Iterator[None]:
    """Turn what TUF's client raises into one line of ours.

    Args:
        name: The repository, as messages name it.
        online: Whether it is on a server, with caches in between.
        expired: Says what to do about something that has expired.

    Raises:
        RepositoryError: The metadata cannot be trusted.
        FetchError: It cannot be had; with RepositoryError, as StaleError: a later try may succeed.
        StorageError: What is temporary cannot be written.
    """
    from tuf.api import exceptions

    try:
        yield
    except exceptions.ExpiredMetadataError as error:
        raise expired(str(error)) from error
    except exceptions.DownloadError as error:
        found = error.__cause__
        raise (
            found if isinstance(found, FetchError) else FetchError(f"{name}: {error}")
        ) from error
    except (exceptions.RepositoryError, KeyError, TypeError, ValueError) as error:
        raise _finding(name, error, online=online) from error
    except OSError as error:
        raise StorageError(
            f"what is temporary of an update cannot be written: {error.strerror or error}; "
            "nothing changed"
        ) from error


def old_copy(name: str, finding: str, *, online: bool) -> RepositoryError:
    """Return what to raise where a repository is older than what this device has seen.

    Args:
        name: The repository, as messages name it.
        finding: What is older.
        online: As for :func:`explained`.
    """
    kind, way_out = (
        (StaleError, "a server or cache in between is behind; try again later")
        if online
        else (RepositoryError, "use one that is up to date")
    )
    return kind(f"{name}: {finding}: it is an old copy; {way_out}")


def _finding(name: str, error: Exception, *, online: bool) -> RepositoryError:
    from tuf.api import exceptions

    reason = " ".join(f"{error}".split()) or type(error).__name__
    text = f"{name}: its metadata cannot be trusted: {reason}"
    match error:
        case exceptions.BadVersionNumberError() if _goes_back(reason):
            found = f"this device has seen newer metadata ({reason})"
            return old_copy(name, found, online=online)
        case exceptions.UnsignedMetadataError() if online and reason.startswith(_UNDER_ROOT):
            return StaleError(
                f"{text}; where the publisher has new keys, a cache in between may hold back the "
                "newer root: try again later"
            )
        case exceptions.LengthOrHashMismatchError():
            return RepositoryError(
                f"{text}: a cache in between keeps another file under that name, or the publisher "
                "used a version twice, and must publish again"
            )
    return RepositoryError(text)


def _goes_back(reason: str) -> bool:
    """Tell whether TUF's client found a version that is lower than one that it has."""
    return reason.startswith("New ") or (reason.startswith("Expected ") and ".json " in reason)
