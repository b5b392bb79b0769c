"""The crash tests need Linux, whose descriptors have names; they never wait for the real disk."""

import os
import sys

import pytest

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if sys.platform == "linux" else "tests/crash: not collected, it needs Linux"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but the model sync: a real disk would be asked thousands of times, for nothing.

    Processes that a test starts do sync.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
