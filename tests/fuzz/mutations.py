"""Mutations of a bundle, from blind ones to those that know the format and mend what they broke.

A mutant is a function of a seed and of a random source, so that a number is enough to make it
again. The blind ones test the outer steps; the knowing ones get past them: they set lengths,
paddings, digests and even signatures right, as a malicious publisher can.
"""

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.fuzz.corpus import Seed
from tests.support.containers import compact, container, split
from tests.support.forge import ISSUER, SECOND, STRANGER, Forge, base64url

_BYTES = b'\x00\x01\x7f\x80\xff"\\[]{},: \n0123456789-.eE+/=_AZaz'
_INTEGERS = [
    -(2**63), -1, 0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 - 1,
    2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30,
]  # fmt: skip
_VALUES: list[Any] = [
    *_INTEGERS, None, True, False, 1.5, float("nan"), "", "F32", "F64", "0" * 64, "A" * 64, [], {},
    [[]], [0], [0, 0], [2**63], [-1], "sha256:" + "0" * 64, "1", "\ud800", "\x00", "é", "e\u0301",
]  # fmt: skip
_FLOATS = [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x80000000, 0x00000001]


@dataclass(frozen=True)
class Mutant:
    """Mutated bytes.

    Attributes:
        data: The bytes.
        restated: Whether the statement was set right by somebody who may: the issuer signed it
            again, or nobody is trusted. Then it is another bundle, and good if it is well formed.
    """

    data: bytes
    restated: bool = False


def mutate(seeds: list[Seed], rng: random.Random) -> tuple[Seed, Mutant]:
    """Draw a seed and a mutant of it."""
    seed = rng.choice(seeds)
    return seed, rng.choice(_KINDS)(seed, seeds, rng)


def _spoil(data: bytes, rng: random.Random) -> bytes:
    """Change a few bytes blindly."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        begin = rng.randrange(len(changed) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 16, 64)), len(changed) - begin)
        piece = changed[begin : begin + length]
        other = rng.randrange(len(changed) + 1)
        operation = rng.randrange(8)
        if operation == 0 and piece:
            changed[begin] ^= 1 << rng.randrange(8)
        elif operation == 1 and piece:
            changed[begin] = rng.choice(_BYTES)
        elif operation == 2:
            del changed[begin : begin + length]
        elif operation == 3:
            changed[begin:begin] = rng.randbytes(length)
        elif operation == 4:
            changed[other:other] = piece
        elif operation == 5:
            changed[other : other + length] = piece
        elif operation == 6:
            del changed[begin:]
        else:
            changed += bytes(rng.choice((1, 7, 8, 4096)))
    return bytes(changed)


def _respell(text: bytes, rng: random.Random) -> bytes:
    """Replace a token of a JSON text: a number, a string, a separator, a literal."""
    tokens = [b"1", b"0", b":", b",", b"[", b"]", b'"', b"F32", b'"shape"', b'"payload"', b"\\"]
    token = rng.choice(tokens)
    places = text.count(token)
    if not places:
        return _spoil(text, rng)
    head, tail = [], text
    for _ in range(rng.randrange(places)):
        before, _, tail = tail.partition(token)
        head += [before, token]
    before, _, tail = tail.partition(token)
    number = str(rng.choice(_INTEGERS)).encode()
    new = rng.choice([b"", token * 2, b" " + token, token + b"\n", b"\\u0031", number, b"1e3"])
    return b"".join([*head, before, new, tail])


# --- kinds of mutants


def _blind(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    return Mutant(_spoil(seed.data, rng))


def _length(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    length = int.from_bytes(seed.data[:8], "little")
    number = rng.choice([length + rng.randint(-16, 16), *_INTEGERS]) % 2**64
    return Mutant(number.to_bytes(8, "little") + seed.data[8:])


def _header_text(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    length = int.from_bytes(seed.data[:8], "little")
    text = seed.data[8 : 8 + length].rstrip(b" ")
    text = rng.choice([_spoil, _respell])(text, rng)
    text += rng.choice([b"", b"", b"", b" ", b" " * 8, b"\n", b"\0"])
    return Mutant(container(text, seed.data[8 + length :], pad=rng.random() < 0.9))


def _header_value(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    header, data = split(seed.data)
    at: Any = header
    while isinstance(at, (dict, list)) and at:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = rng.choice(keys)
        if not isinstance(at[key], (dict, list)) or rng.random() < 0.2:
            at[key] = rng.choice(_VALUES)
            break
        at = at[key]
    return Mutant(container(header, data))


def _metadata(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    forge = Forge(seed.data)
    key = rng.choice(["pfm_bundle", "statement", "entries", "entries", "statement"])
    text = forge.metadata[key].encode()
    text = rng.choice([_spoil, _respell])(text, rng)
    return Mutant(forge.spell_metadata(**{key: text.decode("utf-8", "surrogateescape")}))


def _payload(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    """Spoil the payload's bytes inside a good envelope; sometimes the issuer signs that."""
    forge = Forge(seed.data)
    payload = base64.b64decode(forge.envelope["payload"])
    payload = rng.choice([_spoil, _respell])(payload, rng)
    signs = seed.signed and rng.random() < 0.6
    if signs:
        forge.sign_bytes(payload, ISSUER, SECOND)
    forge.envelope["payload"] = base64.b64encode(payload).decode()
    spelt = forge.spell_metadata(statement=compact(forge.envelope).decode())
    return Mutant(spelt, restated=signs or not seed.signed)


def _statement(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    forge = Forge(seed.data)
    key = rng.choice(list(forge.payload))
    value = forge.payload[key]
    if isinstance(value, list) and value and rng.random() < 0.7:
        value[rng.randrange(len(value))] = rng.choice([*_VALUES, *value])
    else:
        forge.payload[key] = rng.choice(_VALUES)
    return _restated(forge, seed, rng)


def _entry(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    """Spoil an entry; sometimes the statement lists it, and sometimes the issuer signs that."""
    forge = Forge(seed.data)
    texts = forge.texts()
    if not texts:
        return _blind(seed, seeds, rng)
    row = rng.randrange(len(texts))
    if rng.random() < 0.5:
        forge.entries[row][rng.randrange(4)] = rng.choice([*_VALUES, *forge.entries[-1]])
        texts = forge.texts()
    else:
        stored = base64.urlsafe_b64decode(texts[row] + "=" * (-len(texts[row]) % 4))
        texts[row] = rng.choice([base64url(_spoil(stored, rng)), _text_of(texts[row], rng)])
    listed = rng.random() < 0.6
    if listed:
        forge.relist(texts)
    mutant = _restated(forge, seed, rng)
    return Mutant(
        forge.spell_metadata(entries=compact(texts).decode("utf-8", "surrogatepass")),
        restated=mutant.restated and listed,
    )


def _text_of(text: str, rng: random.Random) -> str:
    return _spoil(text.encode(), rng).decode("latin-1")


def _rows(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    """Spoil values or shapes; sometimes the digests are made right."""
    forge = Forge(seed.data)
    name = rng.choice(list(forge.tensors))
    tensor = forge.tensors[name]
    flat = tensor.reshape(-1).view(np.uint32)
    if len(flat) and rng.random() < 0.7:
        at = rng.randrange(len(flat))
        flat[at] = rng.choice([int(flat[at]) ^ 1 << rng.randrange(32), *_FLOATS])
    elif rng.random() < 0.5:
        forge.tensors[name] = tensor[: len(tensor) - 1]
    else:
        forge.tensors[name] = np.concatenate([tensor, tensor[:1]])
    try:
        sealed = rng.random() < 0.5 and not forge.seal()
    except IndexError:  # there are fewer rows than entries
        sealed = False
    mutant = _restated(forge, seed, rng)
    return Mutant(mutant.data, mutant.restated and sealed)


def _order(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    """Drop, double, swap or move classes, or entries without rows, or rows without entries."""
    forge = Forge(seed.data)
    rows = list(range(len(forge.entries)))
    for _ in range(rng.choice((1, 1, 2))):
        operation = rng.randrange(4)
        at = rng.randrange(len(rows) + 1)
        if operation == 0:
            del rows[at : at + 1]
        elif operation == 1:
            rows[at:at] = rows[-1:]
        elif operation == 2:
            rows.reverse()
        else:
            rng.shuffle(rows)
    which = rng.choice(["both", "both", "entries", "tensors", "one"])
    if which in {"both", "entries"}:
        forge.entries = [forge.entries[row] for row in rows]
    if which in {"both", "tensors"}:
        forge.tensors = {name: each[rows] for name, each in forge.tensors.items()}
    if which == "one":
        name = rng.choice(list(forge.tensors))
        forge.tensors[name] = forge.tensors[name][rows]
    return Mutant(forge.spell())


def _signatures(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    """Add, drop, double, move and spoil signatures over the statement as it is."""
    forge = Forge(seed.data)
    signers = [each for each in (ISSUER, SECOND, STRANGER) if rng.random() < 0.6]
    forge.sign(*signers)
    listed = forge.envelope["signatures"]
    operation = rng.randrange(6)
    if operation == 0:
        listed.reverse()
    elif operation == 1:
        listed += listed[:1]
    elif operation == 2 and listed:
        each = rng.choice(listed)
        each[rng.choice(list(each))] = rng.choice([*_VALUES, *listed[0].values()])
    elif operation == 3 and listed:
        value = bytearray(base64.b64decode(listed[0]["sig"]))
        value[rng.randrange(64)] ^= 1 << rng.randrange(8)
        listed[0]["sig"] = base64.b64encode(value).decode()
    forge.state()
    return Mutant(
        forge.spell_metadata(statement=compact(forge.envelope).decode("utf-8", "surrogatepass"))
    )


def _splice(seed: Seed, seeds: list[Seed], rng: random.Random) -> Mutant:
    """Put parts of two good bundles together."""
    other = rng.choice(seeds)
    ours, theirs = Forge(seed.data), Forge(other.data)
    part = rng.randrange(4)
    if part == 0:
        cut = rng.randrange(len(seed.data))
        return Mutant(seed.data[:cut] + other.data[cut:])
    if part == 1:
        ours.tensors = theirs.tensors
    elif part == 2:
        ours.entries = theirs.entries
    else:
        ours.envelope, ours.payload = theirs.envelope, theirs.payload
    return Mutant(ours.spell(), restated=part == 3 and other.data != seed.data)


def _restated(forge: Forge, seed: Seed, rng: random.Random) -> Mutant:
    """Spell it; where keys are trusted, the issuer signs it, or the old signature stays."""
    signs = seed.signed and rng.random() < 0.6
    if signs:
        forge.sign(ISSUER, SECOND)
    return Mutant(forge.spell(), restated=signs or not seed.signed)


_KINDS: tuple[Callable[[Seed, list[Seed], random.Random], Mutant], ...] = (
    _blind, _length, _header_text, _header_value, _metadata, _payload, _statement, _entry, _rows,
    _order, _signatures, _splice,
)  # fmt: skip
