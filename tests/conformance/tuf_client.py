"""The device's TUF client as plain commands, in the shape that the public tuf-conformance calls.

    tuf_client.py --metadata-dir DIR init TRUSTED_ROOT
    tuf_client.py --metadata-dir DIR --metadata-url URL refresh
    tuf_client.py --metadata-dir DIR --metadata-url URL --target-name NAME \
        --target-base-url URL --target-dir DIR download

It ends with 0, or with 1 and one line. What it drives is what `pfm-device update` drives: TUF's
client behind the device's own fetcher, with its limits. For
the public suite, in a checkout of it:

    pytest tuf_conformance --entrypoint "python …/tests/conformance/tuf_client.py"
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient import Updater

from pfm_edge_runtime.errors import PfmEdgeError
from pfm_edge_runtime.ota._client import fetcher, limits
from pfm_edge_runtime.ota._http import HttpTransport
from pfm_edge_runtime.ota._transport import Meter
from pfm_edge_runtime.ota.options import UpdateOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    found = _parser().parse_args(arguments)
    try:
        _COMMANDS[found.command](found)
    except (DownloadError, RepositoryError, PfmEdgeError, OSError, ValueError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def _init(found: argparse.Namespace) -> None:
    (found.metadata_dir / "root.json").write_bytes(found.trusted_root.read_bytes())


def _refresh(found: argparse.Namespace) -> None:
    with _updater(found) as updater:
        updater.refresh()


def _download(found: argparse.Namespace) -> None:
    with _updater(found) as updater:
        target = updater.get_targetinfo(found.target_name)
        if target is None:
            raise ValueError(f"no target {found.target_name}")
        if updater.find_cached_target(target) is None:
            updater.download_target(target)


@contextmanager
def _updater(found: argparse.Namespace) -> Iterator[Updater]:
    # The device's transport reads below one URL; the suite gives two on one server.
    parts = urlsplit(found.metadata_url)
    server = f"{parts.scheme}://{parts.netloc}"
    targets = None
    if found.target_base_url is not None:
        targets = found.target_base_url.removeprefix(server).strip("/") + "/"
    with HttpTransport(server, UpdateOptions(attempts=1), Meter()) as transport:
        yield Updater(
            str(found.metadata_dir),
            parts.path.strip("/") + "/",
            None if found.target_dir is None else str(found.target_dir),
            targets,
            fetcher=fetcher(transport),
            config=limits(),
            bootstrap=(found.metadata_dir / "root.json").read_bytes(),
        )


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "init": _init,
    "refresh": _refresh,
    "download": _download,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="a TUF client for conformance tests")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name")
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
