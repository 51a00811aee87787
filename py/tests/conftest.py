"""Fixtures: a place for a replica, an S3 server, a database, and an environment without options of ours."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Callable, Iterator

import pytest
import support
from server import Server

import replicate


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # What steers the tests themselves was read when they were imported.
    for name in list(os.environ):
        if name.startswith(("REPLICATE_", "AWS_")):
            monkeypatch.delenv(name)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of an empty store."""
    return f"file://{tmp_path}/store"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A database of the host with three rows."""
    return support.create(tmp_path / "app.db")


@pytest.fixture
def started() -> Iterator[Callable[..., replicate.Replicator]]:
    """``replicate.start``, with a stop at the end of the test."""
    running: list[replicate.Replicator] = []

    def start(*arguments: object, **options: object) -> replicate.Replicator:
        running.append(replicate.start(*arguments, **options))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for replicator in running:
        replicator.stop(timeout=1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real S3 server that runs."""
    made = Server(tmp_path / "s3")
    made.start()
    yield made
    made.end(signal.SIGKILL)
