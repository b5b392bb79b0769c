"""What the fuzzer starts from: good bundles, and the devices that they are good for.

Every seed is accepted as it is; what may become of it follows from how it is protected.
"""

from dataclasses import dataclass, replace

from pfm_edge_runtime.bundle import Bundle, Expectation, Place, VerifiedBundle
from pfm_edge_runtime.keys import SigningKey
from tests.hostile.defects.device import MANAGED, TWO_OF_TWO
from tests.hostile.defects.table import FIRST_USE, GOOD
from tests.support.forge import ISSUER, SECOND, raw_pem
from tests.support.tiny_package import build_bundle

_ISSUER, _SECOND = (SigningKey.from_pem(raw_pem(each)) for each in (ISSUER, SECOND))


@dataclass(frozen=True)
class Seed:
    """A good bundle and a device that takes it.

    Attributes:
        name: What it is.
        data: Its bytes.
        device: What the device knows.
        signed: Whether the device trusts keys; otherwise anyone may make a statement.
        installed: Whether the device had this statement, so that no class may be dropped either.
    """

    name: str
    data: bytes
    device: Expectation
    signed: bool
    installed: bool


def seeds() -> list[Seed]:
    """Return the seeds, each of them accepted."""
    unsigned = Bundle.from_bytes(GOOD)
    signed = unsigned.signed_by(_ISSUER)
    ids, digests = signed.class_ids, signed.entry_digests
    place = Place(1, 1, signed.statement_digest)
    had = replace(MANAGED, floor=place, absences={place.statement: frozenset()})
    forgot = replace(had, tombstones={ids[1]}, absences={place.statement: frozenset(digests[1:2])})
    labels = ('say "hi"', "naïve café", "back\\slash", "дом 👩‍🚀")
    spoken = build_bundle(b"{}", labels).signed_by(_ISSUER)
    found = [
        Seed("unsigned", GOOD, FIRST_USE, signed=False, installed=False),
        Seed("signed", signed.to_bytes(), MANAGED, signed=True, installed=False),
        Seed("installed", signed.to_bytes(), had, signed=True, installed=True),
        Seed("two", signed.signed_by(_SECOND).to_bytes(), TWO_OF_TWO, signed=True, installed=False),
        Seed("labels", spoken.to_bytes(), MANAGED, signed=True, installed=False),
        Seed("redacted", signed.without([ids[1]]).to_bytes(), forgot, signed=True, installed=True),
        Seed(
            "forgotten",
            signed.to_bytes(),
            replace(MANAGED, tombstones={ids[2]}),
            signed=True,
            installed=False,
        ),
        Seed("empty", signed.without(ids).to_bytes(), MANAGED, signed=True, installed=False),
    ]
    for each in found:
        VerifiedBundle.from_bytes(each.data, each.device)
    return found
