"""A real S3 server that dies in the middle of a write load: the application does not notice, the replica heals."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Callable

import chain
import pytest
from server import Server
from support import until

import replicate

Start = Callable[..., replicate.Replicator]

MORE = 0.1
"""Seconds that a commit may take longer than the same commits take without replication: in 999 of 1000, and ever."""

ATTEMPTS = 3
"""Measurements before a slow one counts: the machine does other work too, and both halves must meet the same."""


class Load:
    """An application that commits all the time."""

    def __init__(self, db: Path, count: int = 0) -> None:
        self.count, self.failure = count, ""
        self.seconds: list[float] = []
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
                    self.seconds.append(time.perf_counter() - begin)
                    self.count += 1
        except BaseException as error:
            self.failure = repr(error)

    def goes_on(self) -> None:
        """Returns after a hundred more commits."""
        goal = self.count + 100
        until(lambda: self.count >= goal or self.failure, "the application commits")
        assert not self.failure

    def worst(self) -> tuple[float, float]:
        """Seconds of the slowest commit but one in a thousand, and of the slowest."""
        ordered = sorted(self.seconds)
        return ordered[len(ordered) * 999 // 1000 - 1], ordered[-1]


def test_an_outage_is_not_felt_by_the_application_and_heals(server: Server, tmp_path: Path, started: Start) -> None:
    measured = []
    for attempt in range(ATTEMPTS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        alone, replicated = outages(server, folder, f"app{attempt}", started)
        measured.append((alone, replicated))
        if all(with_us <= without + MORE for without, with_us in zip(alone, replicated)):
            return
    pytest.fail(f"commits take longer while they are replicated (alone, replicated: p99.9 and worst): {measured}")


Worst = tuple[float, float]


def outages(server: Server, folder: Path, prefix: str, started: Start) -> tuple[Worst, Worst]:
    """Two outages under load, then everything is compared; how slow commits were without us, and with us."""
    db = chain.create(folder / "app.db")
    with Load(db) as alone:
        for _ in range(5):
            alone.goes_on()
    assert alone.failure == ""
    options = server.options(prefix)
    replicator = started(db, **options, sync_interval="100ms")
    with Load(db, alone.count) as load:
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
    assert load.failure == ""
    assert replicator.stop(timeout=60).flushed
    rows = chain.read(db)
    assert len(rows) == load.count
    replicate.restore(folder / "copy.db", **options, integrity_check="full")  # type: ignore[arg-type]
    assert chain.read(folder / "copy.db") == rows
    return alone.worst(), load.worst()


def test_wrong_keys_are_named_and_never_shown(server: Server, tmp_path: Path, started: Start) -> None:
    db = chain.create(tmp_path / "app.db")
    options = {**server.options(), "secret_key": "not-the-key"}
    with pytest.raises(replicate.DeniedError) as refused:
        replicate.ltx(**options)  # type: ignore[arg-type]
    assert isinstance(refused.value, PermissionError) and "not-the-key" not in str(refused.value)
    replicator = started(db, **options)
    error = until(lambda: replicator.sync_status().last_error, "the reason is named")
    assert isinstance(error, replicate.DeniedError) and "not-the-key" not in repr(error)
