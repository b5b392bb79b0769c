"""DSSE envelopes: literal bytes, another library's opinion, and what is refused."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError as TheirRefusal
from securesystemslib.signer import SSlibKey

from pfm_edge_runtime.dsse import MAX_SIGNATURES, Envelope, Signature, pae
from pfm_edge_runtime.errors import EnvelopeError, SignatureError
from pfm_edge_runtime.keys import SigningKey

_TYPE = "application/example+json"
_ONE, _TWO, _STRANGER = (
    SigningKey.from_pem(
        b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI%b\n-----END PRIVATE KEY-----\n" % seed
    )
    for seed in (b"A" * 42 + b"B", b"A" * 42 + b"C", b"A" * 42 + b"D")
)


def _theirs(key: SigningKey) -> SSlibKey:
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(key.public))


def test_pae_is_that_of_the_specification() -> None:
    # https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, test vector
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("http://example.com/HelloWorld", b"hello world") == expected
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_layout() -> None:
    envelope = Envelope.seal(b"{}", _TYPE, [_ONE])
    assert envelope.text == (
        f'{{"payload":"e30=","payloadType":"{_TYPE}","signatures":[{{"keyid":"{_ONE.key_id}",'
        f'"public":"{_ONE.public.hex()}","sig":"{json.loads(envelope.text)["signatures"][0]["sig"]}"'
        "}]}"
    )
    assert envelope.signatures[0].key_id == _ONE.key_id
    assert Envelope.seal(b"{}", _TYPE).text == (
        f'{{"payload":"e30=","payloadType":"{_TYPE}","signatures":[]}}'
    )


@pytest.mark.parametrize("as_bytes", [False, True])
def test_reads_what_it_wrote(as_bytes: bool) -> None:
    made = Envelope.seal(b"\x00\xff payload", _TYPE, [_TWO, _ONE])
    text = made.text.encode() if as_bytes else made.text
    assert Envelope.parse(text, payload_type=_TYPE) == made
    assert made.signers() == {_ONE.public, _TWO.public}
    assert made.payload == b"\x00\xff payload"
    assert "payload" not in repr(made)


def test_signing_order_changes_no_byte() -> None:
    both = Envelope.seal(b"x", _TYPE, [_ONE, _TWO]).text
    assert Envelope.seal(b"x", _TYPE, [_TWO, _ONE]).text == both
    assert Envelope.seal(b"x", _TYPE, [_TWO]).signed_by(_ONE).text == both
    assert Envelope.seal(b"x", _TYPE).signed_by(_ONE).signed_by(_TWO).signed_by(_ONE).text == both


def test_nobody_signed_an_unsigned_one() -> None:
    assert Envelope.seal(b"x", _TYPE).signers() == frozenset()


def test_another_library_verifies_it_and_ignores_the_extension() -> None:
    envelope = Envelope.seal(b"x", _TYPE, [_ONE, _TWO])
    theirs = TheirEnvelope.from_dict(json.loads(envelope.text))
    assert theirs.payload == b"x"
    assert theirs.pae() == pae(_TYPE, b"x")
    accepted = theirs.verify([_theirs(_ONE), _theirs(_TWO)], threshold=2)
    assert accepted.keys() == {_ONE.key_id, _TWO.key_id}
    with pytest.raises(TheirRefusal):
        theirs.verify([_theirs(_ONE), _theirs(_STRANGER)], threshold=2)


@pytest.mark.parametrize(
    "broken",
    [
        lambda good: Signature(good.public, good.value[:-1] + bytes([good.value[-1] ^ 1])),
        lambda good: Signature(_STRANGER.public, good.value),
        lambda good: Signature(good.public, _ONE.sign(b"x")),
        lambda good: Signature(good.public, _ONE.sign(pae("another/type", b"x"))),
    ],
    ids=["a flipped bit", "another key", "no pre-authentication encoding", "another type"],
)
def test_one_bad_signature_spoils_the_good_ones(broken) -> None:
    good = Envelope.seal(b"x", _TYPE, [_ONE, _TWO])
    signatures = [broken(each) if each.public == _ONE.public else each for each in good.signatures]
    envelope = Envelope._write(b"x", _TYPE, signatures)
    with pytest.raises(SignatureError):
        envelope.signers()


def test_limits() -> None:
    keys = [SigningKey.generate() for _ in range(MAX_SIGNATURES + 1)]
    full = Envelope.seal(b"x", _TYPE, keys[1:])
    assert len(full.signers()) == MAX_SIGNATURES
    with pytest.raises(EnvelopeError, match="at most 16"):
        full.signed_by(keys[0])
    with pytest.raises(EnvelopeError, match="longer than 100 bytes"):
        Envelope.parse(full.text, payload_type=_TYPE, max_bytes=100)
    with pytest.raises(EnvelopeError, match="no key sign twice"):
        Envelope.seal(b"x", _TYPE, [_ONE, _ONE])


_REFUSED = {
    "empty": "",
    "no_utf8": b"\xff",
    "half of a surrogate pair": "\ud800",
    "an array": "[]",
    "no payload": f'{{"payload":"","payloadType":"{_TYPE}","signatures":[]}}',
    "another type": '{"payload":"eA==","payloadType":"text/plain","signatures":[]}',
    "an extra key": f'{{"payload":"eA==","payloadType":"{_TYPE}","signatures":[],"z":1}}',
    "loose bits": f'{{"payload":"eB==","payloadType":"{_TYPE}","signatures":[]}}',
    "a line end behind it": f'{{"payload":"eA==","payloadType":"{_TYPE}","signatures":[]}}\n',
    "deep": "[" * 90_000,
    "many strings": "[" + '"",' * 90_000 + '""]',
}


@pytest.mark.parametrize("text", _REFUSED.values(), ids=_REFUSED.keys())
def test_refuses(text: str | bytes) -> None:
    with pytest.raises(EnvelopeError) as caught:
        Envelope.parse(text, payload_type=_TYPE)
    assert "\n" not in str(caught.value)


def test_an_empty_payload_cannot_be_sealed() -> None:
    with pytest.raises(EnvelopeError, match="empty"):
        Envelope.seal(b"", _TYPE, [_ONE])


_GOOD = Envelope.seal(b"x", _TYPE, [_ONE]).text.encode()


@given(st.integers(0, len(_GOOD)), st.integers(0, 8), st.binary(max_size=4))
def test_no_spoilt_envelope_is_taken(begin: int, skip: int, piece: bytes) -> None:
    data = _GOOD[:begin] + piece + _GOOD[begin + skip :]
    try:
        envelope = Envelope.parse(data, payload_type=_TYPE)
        envelope.signers()
    except EnvelopeError:
        return
    assert envelope.text.encode() == data
    assert data == _GOOD or envelope.signatures == ()
