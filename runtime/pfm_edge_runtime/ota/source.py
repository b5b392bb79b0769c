"""Where an update comes from: a server, a directory, or a forget list alone.

Owns how a source is named::

    source = open_source("https://updates.example/public", options)
    source = open_source("/media/stick", options)            # what a publisher copied there
    source = open_source("/media/stick/forget.json", options)
"""

from dataclasses import dataclass
from pathlib import Path

from pfm_edge_runtime.errors import ConfigError
from pfm_edge_runtime.ota._directory import DirectoryTransport
from pfm_edge_runtime.ota._transport import Meter, Transport
from pfm_edge_runtime.ota.names import METADATA_FOLDER
from pfm_edge_runtime.ota.options import UpdateOptions

__all__ = ["Source", "is_url", "open_source"]

_PUBLIC_FOLDER = "public"


@dataclass(frozen=True, slots=True)
class Source:
    """Where an update comes from; made by :func:`open_source`.

    Attributes:
        url: Of a repository on a server, without a slash at its end.
        directory: Of a repository on a disk.
        forget_list: A file that is a forget list.
    """

    url: str | None = None
    directory: Path | None = None
    forget_list: Path | None = None

    def __str__(self) -> str:
        if self.url is None:
            return str(self.directory or self.forget_list)
        scheme, mark, rest = self.url.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"  # without a password

    def transport(self, options: UpdateOptions, meter: Meter) -> Transport:
        """Return what reads from it, for one update.

        Raises:
            ConfigError: The URL is none that can be used, or there is nothing there.
            UpdateError: The extra ``ota`` is not installed.
        """
        if self.url is not None:
            from pfm_edge_runtime.ota._http import HttpTransport  # noqa: PLC0415 (heavy)

            return HttpTransport(self.url, options, meter)
        if self.directory is None:
            raise ConfigError(f"{self} is a forget list, and no repository")
        return DirectoryTransport(_repository_in(self.directory), meter)


def open_source(place: str | Path, options: UpdateOptions | None = None) -> Source:
    """Name a source; nothing is read yet.

    Args:
        place: URL of a repository's public folder, or a path: of that folder or the one around it,
            or of a file that is a forget list.
        options: How updates from it will be made; checked here as far as they concern it.

    Raises:
        ConfigError: It is neither.
    """
    del options  # so far every option suits every source
    text = str(place)
    if is_url(text):
        return Source(url=text.rstrip("/"))
    if "://" in text:
        raise ConfigError(f"{text} is no http:// or https:// URL, and no path")
    path = Path(place)
    return Source(forget_list=path) if path.is_file() else Source(directory=path)


def is_url(text: str) -> bool:
    """Tell whether a text is meant as the URL of a server."""
    return text.lower().startswith(("http://", "https://"))


def _repository_in(directory: Path) -> Path:
    """Return the folder with the metadata: the one that was named, or ``public`` in it.

    The latter first: a publisher's whole directory has metadata of its own beside it.
    """
    for folder in (directory / _PUBLIC_FOLDER, directory):
        if (folder / METADATA_FOLDER).is_dir():
            return folder
    raise ConfigError(
        f"{directory} holds no repository: name the copy of a publisher's public folder, "
        "the one with metadata/ in it"
    )
