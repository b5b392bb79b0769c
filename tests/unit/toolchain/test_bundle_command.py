"""`pfm-edge bundle`: what it says of a bundle, what it refuses, and the files it writes."""

import base64
import json
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pfm_edge.cli import main
from pfm_edge.publishing import describe, read_bundle
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.forgetting import forget_classes
from pfm_edge_runtime.keys import SigningKey, key_id, public_to_pem
from tests.support.tiny_package import LABELS, write_tiny_package


@pytest.fixture
def package(tmp_path):
    return write_tiny_package(tmp_path / "model")


@pytest.fixture
def keys(tmp_path):
    """Two keys; `one.pem`, `one.pub` and `other.*` hold them."""
    made = {}
    for name in ("one", "other"):
        made[name] = SigningKey.generate()
        (tmp_path / f"{name}.pem").write_bytes(made[name].to_pem(None))
        (tmp_path / f"{name}.pub").write_bytes(public_to_pem(made[name].public))
    return made


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command where the files are; return code, output and error."""
    monkeypatch.chdir(tmp_path)

    def runner(*arguments):
        capsys.readouterr()
        code = main(["bundle", *map(str, arguments)])
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if not line.startswith("warning: ")]
        if code == 1:
            assert len(errors) == 1
            assert errors[0].startswith("error: ")
        return code, printed.out, printed.err

    return runner


def test_inspect(run, package, keys):
    code, out, err = run("inspect", "model")
    assert code == 0
    assert all(label in out for label in LABELS)
    assert "not signed" in err
    run("sign", "model", "--key", "one.pem", "--key", "other.pem")
    run("without", "model", "--class", package.class_id("rose"), "--out", "smaller")
    report = json.loads(run("inspect", "smaller", "--json")[1])
    assert set(report["signers"]) == {each.key_id for each in keys.values()}
    assert report["signatures_valid"] is True
    assert report["dropped"] == 1
    assert (report["epoch"], report["sequence"]) == (1, 1)
    assert {each["label"] for each in report["classes"]} == set(LABELS) - {"rose"}
    assert report["inputs"]["class_weight"] == [4]


def test_sign_adds_signatures_and_changes_nothing_else(run, package, keys):
    before = package.bundle
    assert run("sign", "model", "--key", "one.pem")[0] == 0
    assert run("sign", "model/bundle.safetensors", "--key", "other.pem")[0] == 0
    after = Bundle.from_bytes(package.bundle_path.read_bytes())
    assert after.envelope.signers() == {each.public for each in keys.values()}
    assert after.payload == before.payload
    assert after.entry_digests == before.entry_digests
    data = package.bundle_path.read_bytes()
    assert run("sign", "model", "--key", "one.pem")[0] == 0
    assert package.bundle_path.read_bytes() == data
    assert sorted(p.name for p in package.directory.iterdir() if p.name.startswith(".")) == []


def test_a_forget_waits_for_a_signature_that_is_being_added(run, package, keys, monkeypatch):
    rose, forgets = package.class_id("rose"), []
    real = Bundle.signed_by

    def slowly(bundle, signer):
        forgets.append(threading.Thread(target=forget_classes, args=(package.directory, [rose])))
        forgets[0].start()
        forgets[0].join(0.5)
        assert forgets[0].is_alive()  # or the class would be back with our writing
        return real(bundle, signer)

    monkeypatch.setattr(Bundle, "signed_by", slowly)
    assert run("sign", "model", "--key", "one.pem")[0] == 0
    forgets[0].join(30)
    assert rose not in read_bundle(package.directory).class_ids
    assert read_bundle(package.directory).envelope.signatures


def test_sign_into_another_file(run, package, keys, tmp_path):
    before = package.bundle_path.read_bytes()
    assert run("sign", "model", "--key", "one.pem", "--out", "signed")[0] == 0
    assert package.bundle_path.read_bytes() == before
    assert describe(read_bundle(tmp_path / "signed")).signers == (key_id(keys["one"].public),)
    assert (
        "name another file, or remove it"
        in run("sign", "model", "--key", "one.pem", "--out", "signed")[2]
    )
    assert run("sign", "signed", "--key", "other.pem", "--out", "signed")[0] == 0


def test_a_wrong_signature_is_not_joined(run, package, keys):
    run("sign", "model", "--key", "one.pem")
    data = package.bundle_path.read_bytes()
    bundle = Bundle.from_bytes(data)
    good = bundle.envelope.signatures[0].value.hex()
    (other,) = (keys["other"].sign(b"something else"),)
    spelt = base64.b64encode(bytes.fromhex(good))
    assert spelt in data
    package.bundle_path.write_bytes(data.replace(spelt, base64.b64encode(other)))
    assert "it is not signed" in run("sign", "model", "--key", "other.pem")[2]
    report = json.loads(run("inspect", "model", "--json")[1])
    assert report["signatures_valid"] is False
    assert "step 3" in run("verify", "model")[2]


def test_verify(run, package, keys):
    assert "step 3" in run("verify", "model", "--key", "one.pub")[2]
    run("sign", "model", "--key", "one.pem")
    code, _, err = run("verify", "model", "--key", "one.pub", "--package", "model")
    assert code == 0
    assert "4 classes, signed by" in err
    assert "not compared" not in err
    assert "it was not compared with a package" in run("verify", "model", "--key", "one.pub")[2]
    assert "nobody in particular" in run("verify", "model")[2]
    both = ("--key", "one.pub", "--key", "other.pub")
    assert "step 3" in run("verify", "model", *both)[2]
    assert run("verify", "model", *both, "--threshold", "1")[0] == 0
    assert "step 3" in run("verify", "model", "--key", "other.pub")[2]
    for threshold in ("0", "3", "-1"):
        assert "makes no sense with 2" in run("verify", "model", *both, "--threshold", threshold)[2]
    twice = ("--key", "one.pub", "--key", "one.pub", "--threshold", "2")
    assert "makes no sense with 1" in run("verify", "model", *twice)[2]
    assert json.loads(run("verify", "model", "--json")[1])["verified"] is True


def test_verify_against_a_package(run, package, tmp_path):
    other = write_tiny_package(tmp_path / "other", graph=b"another graph")
    error = run("verify", "model", "--package", "other")[2]
    assert "step 4" in error
    (other.directory / "backbone.onnx").write_bytes(b"altered")
    assert "backbone.onnx" in run("verify", other, "--package", other)[2]


def test_diff(run, package, tmp_path):
    assert "the same classes" in run("diff", "model", "model")[2]
    smaller = write_tiny_package(tmp_path / "smaller", classes=2)
    changes = json.loads(run("diff", "model", "smaller", "--json")[1])
    gone = [package.class_id(label) for label in LABELS[2:]]
    assert changes == {"added": [], "gone": gone, "changed": [], "relabelled": []}
    assert run("diff", "smaller", "model")[1].splitlines() == [f"added {each}" for each in gone]
    entries = list(package.bundle.entries)
    weight = entries[0].tensors | {"class_weight": entries[0].tensors["class_weight"] + 1}
    changed = [
        replace(entries[0], tensors=weight),
        replace(entries[1], label="peony", salt=None),
        *entries[2:],
    ]
    statement = package.bundle.statement
    other = Bundle.build(
        model_id=statement.model_id,
        manifest_digests=statement.manifests,
        inputs=statement.inputs,
        entries=changed,
        issued_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    smaller.bundle_path.write_bytes(other.to_bytes())
    code, out, _ = run("diff", "model", "smaller")
    assert code == 0
    assert out.splitlines() == [
        f"changed {entries[0].class_id}",
        f"relabelled {entries[1].class_id}",
    ]


def test_without_gives_what_a_device_is_left_with(run, package, tmp_path):
    gone = [package.class_id("rose"), package.class_id("violet")]
    expected = package.bundle.without(gone).to_bytes()
    named = ("--class", gone[0], "--class", gone[1])
    assert run("without", "model", *named, "--out", "smaller")[0] == 0
    assert (tmp_path / "smaller").read_bytes() == expected
    assert package.bundle_path.read_bytes() == package.bundle.to_bytes()
    assert (
        "name another file, or remove it" in run("without", "model", *named, "--out", "smaller")[2]
    )
    _, _, err = run("without", "model", "--class", "rose", "--out", "by-label")
    assert "a label on the command line stays in the shell's history" in err


def test_without_a_class_that_is_not_there(run, package):
    for name in (32 * "0", "orchid"):
        code, _, err = run("without", "model", "--class", name, "--out", "smaller")
        assert code == 1
        assert "name 1 of 1 is that of no class" in err
        assert "orchid" not in err


BROKEN = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "step 1"),
    "torn": (lambda path: path.write_bytes(path.read_bytes()[:-3]), "step 2"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file"),
    "altered": (lambda path: path.write_bytes(flipped(path.read_bytes())), "step 8"),
}


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "model"),
        ("verify", "model"),
        ("sign", "model", "--key", "one.pem"),
        ("diff", "good", "model"),
        ("diff", "model", "good"),
        ("without", "model", "--class", 32 * "0", "--out", "out"),
    ],
    ids=lambda command: command[0],
)
def test_bundles_that_cannot_be_read(run, package, keys, tmp_path, name, command):
    write_tiny_package(tmp_path / "good")
    break_it, words = BROKEN[name]
    break_it(package.bundle_path)
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert words in err
    assert str(package.bundle_path.relative_to(tmp_path)) in err
