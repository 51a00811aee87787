"""Ctrl-C ends every waiting call at once, and other threads run while one waits."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, Iterator

import pytest
from support import create, free_port, unreachable, until

import replicate
from sqlite_replicate import _native

Start = Callable[..., replicate.Replicator]


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a store that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"s3://bucket/p?endpoint=http://127.0.0.1:{listener.getsockname()[1]}"


KEYS = {"access_key": "access", "secret_key": "hush"}


def interrupted(call: Callable[[], object], after: float = 0.5) -> float:
    """Sends Ctrl-C during a call; how long the exception took to come."""
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    # A runner that was started in the background hands down an ignored SIGINT, for which Python installs nothing.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(after, send)
    try:
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            call()
        return time.monotonic() - sent[0]
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGINT, before)


def threads() -> list[str]:
    """The names of this process's threads, those of the engine among them."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        # A thread that has ended, and was waited for, can stay in the kernel's list for a moment.
        with suppress(FileNotFoundError, ProcessLookupError):
            names.append((task / "comm").read_text().strip())
    return names


def test_ctrl_c_ends_sync_wait_and_stop(db: Path, started: Start) -> None:
    replicator = started(db, **unreachable())
    events = replicator.events()
    for call in (
        replicator.sync,
        lambda: replicator.wait(1000),
        lambda: list(events),
        lambda: replicator.stop(timeout=30),
    ):
        assert interrupted(call) < 2


def test_ctrl_c_ends_restore_which_has_cleaned_up(silent: str, tmp_path: Path) -> None:
    assert interrupted(lambda: replicate.restore(tmp_path / "copy.db", url=silent, **KEYS)) < 10  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_ensure_exists_and_start(silent: str, tmp_path: Path) -> None:
    assert interrupted(lambda: replicate.ensure_exists(tmp_path / "a.db", url=silent, **KEYS)) < 2  # type: ignore[arg-type]
    assert interrupted(lambda: replicate.start(tmp_path / "b.db", url=silent, **KEYS)) < 2  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith("-replicate")] == []
    # Nothing goes on behind the caller's back, neither a restore nor a replicator.
    until(lambda: "replicate-call" not in threads(), "no call goes on", seconds=5)


def test_no_thread_of_a_call_outlives_it() -> None:
    assert _native.slow_end_on_purpose()


def test_an_exception_of_progress_ends_restore_which_has_cleaned_up(
    db: Path, url: str, tmp_path: Path, started: Start
) -> None:
    started(db, url=url).sync(timeout=30)
    folder = tmp_path / "out"
    folder.mkdir()

    def progress(now: replicate.Progress) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        replicate.restore(folder / "copy.db", url=url, progress=progress)
    assert [path for path in folder.iterdir() if path.name != "copy.db"] == []


def test_restore_gives_up_in_time(silent: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(replicate.SyncTimeoutError):
        replicate.restore(tmp_path / "copy.db", url=silent, timeout=0.5, **KEYS)  # type: ignore[arg-type]
    assert time.monotonic() - begin < 15 and list(tmp_path.iterdir()) == []


def test_other_threads_run_while_a_call_waits(db: Path, started: Start) -> None:
    replicator = started(db, **unreachable())
    count = 0
    ended = threading.Event()

    def work() -> None:
        nonlocal count
        while not ended.is_set():
            count += 1
            ended.wait(0.001)

    worker = threading.Thread(target=work)
    worker.start()
    before = count
    with pytest.raises(replicate.SyncTimeoutError):
        replicator.sync(timeout=1.0)
    during = count - before
    ended.set()
    worker.join()
    assert during > 50


def test_status_never_waits(db: Path, started: Start) -> None:
    replicator = started(db, **unreachable())
    outcomes: list[BaseException] = []

    def wait() -> None:
        try:
            replicator.sync(2.0)
        except BaseException as error:
            outcomes.append(error)

    waiting = [threading.Thread(target=wait) for _ in range(4)]
    for thread in waiting:
        thread.start()
    took = []
    while any(thread.is_alive() for thread in waiting):
        begin = time.perf_counter()
        replicator.sync_status()
        took.append(time.perf_counter() - begin)
    assert [type(outcome) for outcome in outcomes] == [replicate.SyncTimeoutError] * 4
    assert len(took) > 200 and max(took) < 0.5


def test_a_first_start_with_the_store_out_of_reach_returns_and_names_the_reason(tmp_path: Path, started: Start) -> None:
    db = create(tmp_path / "app.db")
    replicator = started(db, url=f"s3://b/p?endpoint=http://127.0.0.1:{free_port()}", **KEYS)
    status = until(lambda: (now := replicator.sync_status()).last_error and now, "a reason is named")
    assert status.state in ("starting", "stalled")
