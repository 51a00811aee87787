"""Events and log lines: in order, from one thread, and nobody's exception stops them."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Callable

import pytest
from support import connect, insert, run, unreachable, until

import replicate

Start = Callable[..., replicate.Replicator]


def shipped(events: list[replicate.Event]) -> list[int]:
    return [event.txid for event in events if event.kind == "shipped" and event.txid is not None]


def test_events_come_in_order_and_end_with_the_replicator(db: Path, url: str, started: Start) -> None:
    replicator = started(db, url=url)
    events = replicator.events()
    with closing(connect(db)) as host:
        for _ in range(5):
            insert(host)
            replicator.sync(timeout=30)
    last = replicator.stop().remote_txid
    seen = list(events)
    assert shipped(seen) == sorted(set(shipped(seen))) and shipped(seen)[-1] == last
    captured = [event.txid for event in seen if event.kind == "captured"]
    for txid in shipped(seen):
        if txid in captured:
            kinds = [(event.kind, event.txid) for event in seen]
            assert kinds.index(("captured", txid)) < kinds.index(("shipped", txid))
    assert (seen[-1].kind, seen[-1].to_state) == ("state", "stopped")
    assert events.next(timeout=0) is None


def test_an_iterator_of_events_waits_no_longer_than_asked(db: Path, url: str, started: Start) -> None:
    replicator = started(db, url=url)
    replicator.sync(timeout=30)
    events = replicator.events()
    while events.next(timeout=0.5) is not None:
        pass
    assert events.next(timeout=0.01) is None


def test_callbacks_come_from_one_thread_that_is_not_the_callers(db: Path, url: str, started: Start) -> None:
    seen: list[replicate.Event] = []
    threads: set[str] = set()

    def on_event(event: replicate.Event) -> None:
        threads.add(threading.current_thread().name)
        seen.append(event)

    replicator = started(db, url=url, on_event=on_event)
    with closing(connect(db)) as host:
        insert(host)
    status = replicator.sync(timeout=30)
    until(lambda: status.remote_txid in shipped(seen), "the callback hears of the last object")
    replicator.stop()
    until(lambda: seen[-1].to_state == "stopped", "the callback hears of the end")
    assert threads == {"replicate-bridge"}


def test_an_exception_in_a_callback_is_told_and_the_next_event_comes(
    db: Path, url: str, started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(repr(args.exc_value)))
    count, ended = 0, False

    def on_event(event: replicate.Event) -> None:
        nonlocal count, ended
        count += 1
        ended = event.to_state == "stopped"
        raise ValueError(f"mine {count}")

    replicator = started(db, url=url, on_event=on_event)
    with closing(connect(db)) as host:
        insert(host)
    replicator.sync(timeout=30)
    until(lambda: len(told) >= 2, "two exceptions")
    assert replicator.sync_status().state == "streaming"
    replicator.stop()
    until(lambda: ended and len(told) == count, "the callback hears of the end")
    assert told == [f"ValueError('mine {number}')" for number in range(1, count + 1)]


def test_a_callback_may_use_and_stop_its_replicator(db: Path, url: str, started: Start) -> None:
    reports: list[replicate.StopReport] = []
    box: list[replicate.Replicator] = []
    ready = threading.Event()

    def on_event(event: replicate.Event) -> None:
        ready.wait(10)
        if event.kind == "shipped" and not reports:
            box[0].sync_status()
            reports.append(box[0].stop(timeout=10))

    box.append(started(db, url=url, on_event=on_event))
    ready.set()
    with closing(connect(db)) as host:
        insert(host)
        until(lambda: reports or insert(host) < 0, "the callback has stopped the replicator", 30)
    assert box[0].sync_status().state == "stopped"


def test_log_lines_reach_logging_by_name_and_level(
    db: Path, started: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "replicate"):
        replicator = started(db, **unreachable())
        until(lambda: replicator.sync_status().last_error is not None, "the store is found unreachable")
        until(lambda: any(r.levelno >= logging.WARNING for r in caplog.records), "a warning is logged")
    for record in caplog.records:
        assert record.name == "replicate" or record.name.startswith("replicate.")
        assert record.levelno >= logging.INFO and record.pathname.endswith(".rs") and record.lineno > 0


def test_a_level_changed_later_takes_effect(db: Path, url: str, started: Start, caplog: pytest.LogCaptureFixture) -> None:
    replicator = started(db, url=url)
    replicator.sync(timeout=30)
    with caplog.at_level(1, "replicate"), closing(connect(db)) as host:
        until(lambda: any(r.levelno <= logging.DEBUG for r in caplog.records) or insert(host) < 0, "a debug line", 20)


UNREACHED = """
    import logging, replicate
    if sys.argv[2] == "logging":
        logging.basicConfig(level=logging.WARNING)
    with replicate.start(sys.argv[1], url="s3://b/p?endpoint=http://127.0.0.1:9") as r:
        try:
            r.sync(timeout=1)
        except replicate.SyncTimeoutError:
            r.stop(timeout=0.1)
"""


def test_by_default_nothing_is_printed(db: Path) -> None:
    done = run(UNREACHED, db, "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_end_with_something_unshipped_is_a_warning(db: Path) -> None:
    done = run(UNREACHED, db, "logging")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "ended before everything was shipped" in done.stderr


def test_a_switch_to_wal_is_a_warning(
    tmp_path: Path, url: str, started: Start, caplog: pytest.LogCaptureFixture
) -> None:
    db = tmp_path / "rollback.db"
    with closing(sqlite3.connect(db)) as host:
        host.executescript("PRAGMA journal_mode=DELETE; CREATE TABLE t (x)")
    with caplog.at_level(logging.WARNING, "replicate"):
        started(db, url=url).sync(timeout=30)
        until(lambda: "switched the database to WAL mode" in caplog.text, "the switch is logged")
