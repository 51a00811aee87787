"""A real S3 server that dies in the middle of a write load: the application does not notice, the replica heals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Callable, Iterator, Optional

import chain
import pytest
from support import free_port, until

import replicate

Start = Callable[..., replicate.Replicator]

SLOWEST = 2.0
"""Seconds that a commit of the application may take, on a machine that does other work too."""


class Server:
    """A versitygw on a folder."""

    def __init__(self, folder: Path) -> None:
        given = os.environ.get("REPLICATE_VERSITYGW")
        program = Path(given) if given else Path(__file__).parents[2] / "target" / "tools" / "bin" / "versitygw"
        if not program.exists():
            pytest.fail(f"no S3 server: {program} does not exist; `cargo xtask test` brings it, or set REPLICATE_VERSITYGW")
        self.program, self.folder, self.port = program, folder, free_port()
        self.process: Optional[subprocess.Popen[bytes]] = None
        (folder / "bkt").mkdir(parents=True)

    def start(self) -> None:
        """Starts it, on the same port each time."""
        self.process = subprocess.Popen(
            [self.program, "--port", f"127.0.0.1:{self.port}", "--quiet", "--keep-alive", "posix", self.folder],
            env={**os.environ, "ROOT_ACCESS_KEY": "access", "ROOT_SECRET_KEY": "hush-hush"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self.answers, "the S3 server listens")

    def answers(self) -> bool:
        """Whether it listens."""
        assert self.process is not None and self.process.poll() is None, "the S3 server has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self, signal_: int) -> None:
        """Ends it."""
        if self.process is not None:
            self.process.send_signal(signal_)
            self.process.wait(timeout=30)
            self.process = None

    def options(self) -> dict[str, str]:
        """Options of a replica on it."""
        url = f"s3://bkt/app?endpoint=http://127.0.0.1:{self.port}&region=us-east-1&force-path-style=true"
        return {"url": url, "access_key": "access", "secret_key": "hush-hush"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "s3")
    made.start()
    yield made
    made.end(signal.SIGKILL)


class Load:
    """An application that commits all the time."""

    def __init__(self, db: Path) -> None:
        self.count, self.slowest, self.failure = 0, 0.0, ""
        self._db, self._ended = db, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with closing(chain.connect(self._db)) as db:
                while not self._ended.wait(0.002):
                    begin = time.perf_counter()
                    chain.append(db, "app", self.count + 1)
                    self.slowest = max(self.slowest, time.perf_counter() - begin)
                    self.count += 1
        except BaseException as error:
            self.failure = repr(error)

    def goes_on(self) -> None:
        """Returns after a hundred more commits."""
        goal = self.count + 100
        until(lambda: self.count >= goal or self.failure, "the application commits")
        assert not self.failure


def test_an_outage_is_not_felt_by_the_application_and_heals(server: Server, tmp_path: Path, started: Start) -> None:
    db = chain.create(tmp_path / "app.db")
    replicator = started(db, **server.options(), sync_interval="100ms")
    with Load(db) as load:
        load.goes_on()
        replicator.sync(timeout=60)
        for how in (signal.SIGKILL, signal.SIGTERM):
            server.end(how)
            until(lambda: replicator.sync_status().state == "stalled", "the state says that nothing arrives")
            stalled = replicator.sync_status()
            assert isinstance(stalled.last_error, replicate.UnavailableError) and not stalled.in_sync
            assert "refused" in str(stalled.last_error)
            load.goes_on()
            with pytest.raises(replicate.SyncTimeoutError):
                replicator.sync(timeout=0.5)
            server.start()
            replicator.sync(timeout=60)
            healed = replicator.sync_status()
            assert healed.state == "streaming" and healed.last_error is None
            load.goes_on()
    assert load.failure == "" and load.slowest < SLOWEST
    assert replicator.stop(timeout=60).flushed
    rows = chain.read(db)
    assert len(rows) == load.count
    replicate.restore(tmp_path / "copy.db", **server.options(), integrity_check="full")  # type: ignore[arg-type]
    assert chain.read(tmp_path / "copy.db") == rows


def test_wrong_keys_are_named_and_never_shown(server: Server, tmp_path: Path, started: Start) -> None:
    db = chain.create(tmp_path / "app.db")
    options = {**server.options(), "secret_key": "not-the-key"}
    with pytest.raises(replicate.DeniedError) as refused:
        replicate.ltx(**options)  # type: ignore[arg-type]
    assert isinstance(refused.value, PermissionError) and "not-the-key" not in str(refused.value)
    replicator = started(db, **options)
    error = until(lambda: replicator.sync_status().last_error, "the reason is named")
    assert isinstance(error, replicate.DeniedError) and "not-the-key" not in repr(error)
