"""What updates cost on the wire: counted at a server on loopback, headers and both directions.

Class tensors are those of a ViT-S, 100 classes. There is no graph: the health check is left out,
which asks for nothing over the wire.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from benchmarks._vit_s_package import write_package
from pfm_edge.ota import (
    InitRequest,
    PublisherRepository,
    forget,
    init_repository,
    new_keys,
    publish,
)
from pfm_edge.registry import KnownClass, Registry
from pfm_edge_runtime.bundle import Bundle, new_class_id
from pfm_edge_runtime.forgetting import forget_classes
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.ota.source import open_source
from pfm_edge_runtime.ota.update import update_model
from pfm_edge_runtime.state import DeviceState, RepositoryTrust
from tests.support.ota_server import FileServer

__all__ = ["run"]

_CLASSES = 100
_BACKBONE = "vit_small_patch16_224"


def run() -> str:
    """Measure; returns a section of Markdown."""
    backbone = _backbone_bytes()
    columns = {attention: _measured(attention) for attention in ("joint", "prefix")}
    rows = [
        f"| {what} | "
        + " | ".join(
            f"{columns[each][what][0]} | {columns[each][what][1]:,} "
            f"| {100 * columns[each][what][1] / backbone:.3f} %"
            for each in columns
        )
        + " |"
        for what in columns["joint"]
    ]
    return (
        "## Updates on the wire (`python -m benchmarks ota_wire`)\n\n"
        "Requests and bytes, headers and both directions, counted at the server. ViT-S class "
        f"tensors, {_CLASSES} classes; the share is of the backbone's {backbone:,} bytes "
        f"(float32 weights of `{_BACKBONE}`), which a re-export would send.\n\n"
        "| what a device asks for | requests, joint | bytes | share | requests, prefix | bytes "
        "| share |\n|---|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _measured(attention: str) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch("pfm_edge_runtime.ota.update.check_health"),
    ):
        root = Path(name)
        write_package(root / "model", attention, classes=_CLASSES, key=SigningKey.generate())
        bundle = Bundle.from_bytes((root / "model" / "bundle.safetensors").read_bytes())
        known = tuple(
            KnownClass(*each) for each in zip(bundle.class_ids, bundle.labels, strict=True)
        )
        (root / "classes.json").write_bytes(Registry(classes=known).to_bytes())
        request = InitRequest(root / "classes.json", new_keys(root / "keys"))
        repository, _ = init_repository(root / "repo", request)
        publish(repository, bundle)
        device = DeviceState.create(root / "state", trust=None, bind=False)
        public = root / "repo" / "public"
        device.know_repository(RepositoryTrust(root=(public / "root.json").read_bytes()))
        with FileServer(public) as server:

            def ask(what: str) -> None:
                server.forget_requests()
                report = update_model(root / "model", open_source(server.url), state=root / "state")
                if report.error is not None:
                    raise report.error
                found[what] = len(server.requests), server.sent + server.received

            _ask_for_everything(ask, lambda rows: _order(repository, rows))
            forget_classes(root / "model", [bundle.class_ids[0]], state=root / "state")
            ask("a steady poll, after a forget on the device itself")
            forget(repository, [bundle.class_ids[1]])
            ask("one class of the bundle forgotten: order, list of 1,001 rows, re-issued bundle")
    return found


def _ask_for_everything(ask: Callable[[str], None], order: Callable[[int], object]) -> None:
    ask(f"everything, by a new device: a bundle of {_CLASSES} classes")
    ask("a steady poll")
    for rows, total in ((1, 1), (99, 100), (900, 1000)):
        order(rows)
        ask(f"a poll that brings a forget list of {total:,} rows")


def _order(repository: PublisherRepository, rows: int) -> None:
    forget(repository, [new_class_id() for _ in range(rows)], unknown=True)


def _backbone_bytes() -> int:
    import timm  # noqa: PLC0415 (torch: slow to import)

    model = timm.create_model(_BACKBONE, num_classes=0)
    return 4 * sum(each.numel() for each in model.parameters())
