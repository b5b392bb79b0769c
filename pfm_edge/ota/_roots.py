"""The chain of roots: every one is kept, because a device that was off for years walks through all.

Owns where roots come from that this copy of the repository lacks. A root is authenticated by
signatures alone, its own and those of the root before it, so it may be read from anywhere, from
what is served too::

    keep_roots(layout)                      # one that was made before roots were kept has them now
    newer_roots(layout, root)               # of what is served, those that follow one's own
"""

from pathlib import Path
from typing import TypeGuard

from pfm_edge._reading import read_whole
from pfm_edge.ota._files import put
from pfm_edge.ota._layout import Layout
from pfm_edge.ota._metadata import AnyMetadata, Authority, missing_signatures, parse_metadata
from pfm_edge.ota._roles import Role
from pfm_edge_runtime.errors import RepositoryError

__all__ = ["keep_roots", "newer_roots"]

_MAX_ROOT = 1 << 22


def keep_roots(layout: Layout, *, verify: bool = False) -> None:
    """Keep every root that is served and leads to the one in force, where one is not kept yet.

    Args:
        layout: The repository.
        verify: Whether those that are kept are looked at, too; a damaged one is replaced.

    Raises:
        StorageError: The disk refused.
    """
    path = layout.metadata(Role.ROOT)
    after = _read(path) if path.exists() else None
    if after is None:
        return
    versions = range(after.signed.version, 0, -1)
    if not verify and all(layout.kept_root(each).exists() for each in versions):
        return
    put(layout, layout.kept_root(versions[0]), after.to_bytes())
    for version in versions[1:]:
        kept, served = layout.kept_root(version), layout.public_metadata(Role.ROOT, version)
        before = next((each for each in map(_read, (kept, served)) if _follows(each, after)), None)
        if before is None:
            return
        put(layout, kept, before.to_bytes())
        after = before


def newer_roots(layout: Layout, root: AnyMetadata) -> list[AnyMetadata]:
    """Return the roots that are served and follow this one, each signed as a device wants it."""
    chain = [root]
    while found := _read(layout.public_metadata(Role.ROOT, chain[-1].signed.version + 1)):
        if not _follows(chain[-1], found):
            break
        chain.append(found)
    return chain[1:]


def _follows(before: AnyMetadata | None, after: AnyMetadata) -> TypeGuard[AnyMetadata]:
    """Tell whether a device that trusts the first root comes to the other."""
    if before is None:
        return False
    try:
        return (
            after.signed.version == before.signed.version + 1
            and not missing_signatures(Role.ROOT, before, Authority(before, before))
            and not missing_signatures(Role.ROOT, after, Authority(after, after, before))
        )
    except RepositoryError:
        return False


def _read(path: Path) -> AnyMetadata | None:
    try:
        data = read_whole(path, most=_MAX_ROOT, error=RepositoryError)
        return parse_metadata(Role.ROOT, data, str(path))
    except RepositoryError:
        return None
