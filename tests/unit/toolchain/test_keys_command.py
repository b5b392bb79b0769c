"""`pfm-edge keys new`, and every way in which a key file can be the wrong one."""

import errno
import json
import os
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from pfm_edge.cli import main
from pfm_edge.publishing import read_public_key, read_signing_keys
from pfm_edge_runtime.errors import KeyFileError
from pfm_edge_runtime.keys import SigningKey, key_id
from tests.support.failing_disk import faults_of
from tests.support.tiny_package import write_tiny_package


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "issuer.pem"
    path.write_bytes(SigningKey.generate().to_pem(None))
    return path


@pytest.fixture
def secret_file(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text("correct horse\r\n")
    return path


@pytest.fixture
def sign(tmp_path, capsys):
    """Sign a bundle with these arguments; return the one line of the refusal."""
    package = write_tiny_package(tmp_path / "model")

    def refused(*arguments):
        before = package.bundle_path.read_bytes()
        assert main(["bundle", "sign", str(package), *map(str, arguments)]) == 1
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1
        assert package.bundle_path.read_bytes() == before
        return error

    return refused


def test_both_halves(tmp_path, capsys):
    old = os.umask(0)
    try:
        assert main(["keys", "new", str(tmp_path / "issuer.pem")]) == 0
    finally:
        os.umask(old)
    printed = capsys.readouterr()
    private, public = tmp_path / "issuer.pem", tmp_path / "issuer.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    (key,) = read_signing_keys([private])
    assert read_public_key(public) == key.public
    assert printed.out == f"{key_id(key.public)}\n"
    assert "PRIVATE KEY" not in printed.out + printed.err
    loaded = serialization.load_pem_private_key(private.read_bytes(), None)
    assert loaded.public_key().public_bytes_raw() == key.public
    assert sorted(each.name for each in tmp_path.iterdir()) == ["issuer.pem", "issuer.pub"]


def test_json(tmp_path, capsys):
    out = tmp_path / "issuer"
    assert main(["keys", "new", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "key_id": key_id(read_public_key(tmp_path / "issuer.pub")),
        "private": str(out),
        "public": f"{out}.pub",
    }


def test_a_private_key_is_never_readable_by_others(tmp_path, monkeypatch):
    modes, real = [], os.write

    def write(descriptor, data):
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    assert main(["keys", "new", str(tmp_path / "issuer.pem")]) == 0
    assert modes[0] == 0o600


@pytest.mark.parametrize("name", ["issuer.pem", "issuer.pub"])
@pytest.mark.parametrize("what", ["file", "dangling link"])
def test_a_key_is_never_replaced(tmp_path, capsys, name, what):
    path = tmp_path / name
    path.write_text("mine") if what == "file" else path.symlink_to("nowhere")
    assert main(["keys", "new", str(tmp_path / "issuer.pem")]) == 1
    error = capsys.readouterr().err
    assert f"{path}: is there already, and a key is never replaced" in error
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert path.is_symlink() or path.read_text() == "mine"


def test_a_directory_that_is_not_there(tmp_path, capsys):
    assert main(["keys", "new", str(tmp_path / "no" / "issuer.pem")]) == 1
    assert "cannot be made (No such file or directory)" in capsys.readouterr().err


def test_a_disk_that_fails_leaves_no_key(tmp_path, capsys):
    def new(name):
        (tmp_path / name).mkdir()
        return main(["keys", "new", str(tmp_path / name / "issuer.pem")])

    for fault in faults_of(lambda: new("good")):
        if fault.call == "mkdir":
            continue
        (tmp_path / str(fault)).mkdir()
        with fault.injected(errno.ENOSPC):
            assert main(["keys", "new", str(tmp_path / str(fault) / "issuer.pem")]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "No space left on device" in error
        assert list((tmp_path / str(fault)).iterdir()) == []


def test_with_a_passphrase(tmp_path, secret_file, sign, capsys):
    out = tmp_path / "locked.pem"
    assert main(["keys", "new", str(out), "--passphrase-file", str(secret_file)]) == 0
    capsys.readouterr()
    assert b"ENCRYPTED" in out.read_bytes()
    assert read_signing_keys([out], b"correct horse")[0].public == read_public_key(
        tmp_path / "locked.pub"
    )
    assert "the key is encrypted: give its passphrase" in sign("--key", out)
    secret_file.write_text("wrong horse\n")
    error = sign("--key", out, "--passphrase-file", secret_file)
    assert "the passphrase is wrong" in error
    assert "horse" not in error


def test_a_passphrase_that_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    answers = iter(["one", "other", "correct horse", "correct horse"])
    out = str(tmp_path / "asked.pem")

    def prompt(text, *, hide_input, confirmation_prompt, err):
        assert hide_input
        assert err
        pair = (next(answers), next(answers))
        while confirmation_prompt and pair[0] != pair[1]:
            pair = (next(answers), next(answers))
        return pair[0]

    monkeypatch.setattr("typer.prompt", prompt)
    assert main(["keys", "new", out, "--passphrase"]) == 0
    read_signing_keys([tmp_path / "asked.pem"], b"correct horse")


def test_a_passphrase_in_another_encoding(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    typed = b"gr\xfcn"  # as a Latin-1 terminal sends it
    monkeypatch.setattr("typer.prompt", lambda *_, **__: os.fsdecode(typed))
    assert main(["keys", "new", str(tmp_path / "asked.pem"), "--passphrase"]) == 0
    read_signing_keys([tmp_path / "asked.pem"], typed)


@pytest.mark.parametrize("closed", [False, True])
def test_nobody_can_be_asked(tmp_path, secret_file, sign, capsys, monkeypatch, closed):
    locked, alone = tmp_path / "locked.pem", tmp_path / "alone"
    assert main(["keys", "new", str(locked), "--passphrase-file", str(secret_file)]) == 0
    alone.mkdir()
    capsys.readouterr()
    if closed:
        monkeypatch.setattr("sys.stdin", None)
    assert "the key is encrypted: give its passphrase" in sign("--key", locked)
    assert main(["keys", "new", str(alone / "issuer.pem"), "--passphrase"]) == 1
    assert "use --passphrase-file here" in capsys.readouterr().err
    assert list(alone.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds the passphrase, in one line"),
        (b"\n", "holds the passphrase, in one line"),
        (b"one\ntwo\n", "holds the passphrase, in one line"),
        (b"x" * 2000, "a passphrase has 1 to 1023 bytes"),
        (b"x" * 20000, "larger than 16384 bytes"),
    ],
)
def test_passphrase_files(tmp_path, capsys, secret_file, content, words):
    secret_file.write_bytes(content)
    out = tmp_path / "issuer.pem"
    assert main(["keys", "new", str(out), "--passphrase-file", str(secret_file)]) == 1
    assert words in capsys.readouterr().err
    assert not out.exists()
    assert not (tmp_path / "issuer.pub").exists()


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


WRONG = {
    "rsa": (lambda: pem(rsa.generate_private_key(65537, 2048)), "it is an RSA key"),
    "ec": (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "it is an EC key"),
    "ed448": (lambda: pem(ed448.Ed448PrivateKey.generate()), "it is an Ed448 key"),
    "garbage": (lambda: b"\x00\x01", "it is no private key in PEM"),
    "empty": (lambda: b"", "it is no private key in PEM"),
    "torn": (lambda: SigningKey.generate().to_pem(None)[:60], "it is no private key in PEM"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_are_no_key(tmp_path, sign, name):
    make, words = WRONG[name]
    path = tmp_path / "wrong.pem"
    path.write_bytes(make())
    error = sign("--key", path)
    assert error.startswith(f"error: {path}: {words}")


def test_the_wrong_half(tmp_path, key_file, sign, capsys):
    assert main(["keys", "new", str(tmp_path / "new.pem")]) == 0
    capsys.readouterr()
    assert "it is a public key: give the private one" in sign("--key", tmp_path / "new.pub")
    with pytest.raises(KeyFileError, match="it is a private key: give the public one"):
        read_public_key(key_file)


def test_keys_that_are_not_there(tmp_path, sign, key_file, secret_file):
    assert "no such file" in sign("--key", tmp_path / "none.pem")
    assert "Is a directory" in sign("--key", tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in sign("--key", tmp_path / "pipe")
    assert "leave the passphrase out" in sign("--key", key_file, "--passphrase-file", secret_file)


def test_several_keys_share_one_passphrase(tmp_path, key_file, secret_file):
    locked = tmp_path / "locked.pem"
    locked.write_bytes(SigningKey.generate().to_pem(b"correct horse"))
    keys = read_signing_keys([key_file, locked], b"correct horse")
    assert len({each.key_id for each in keys}) == 2
    asked = []
    read_signing_keys([key_file, locked], None, lambda path: asked.append(path) or b"correct horse")
    assert asked == [locked]


def test_usage(tmp_path, secret_file):
    both = ["--passphrase", "--passphrase-file", str(secret_file)]
    assert main(["keys", "new", str(tmp_path / "issuer.pem"), *both]) == 2
    assert main(["bundle", "sign", str(tmp_path)]) == 2
