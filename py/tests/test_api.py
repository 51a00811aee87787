"""What the functions and the replicator promise, on a store in a folder."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable

import pytest
from support import connect, content, create, insert, unreachable, until

import replicate

Start = Callable[..., replicate.Replicator]


def test_what_sync_acknowledged_is_what_restore_brings_back(db: Path, url: str, tmp_path: Path, started: Start) -> None:
    replicator = started(db, url=url)
    with closing(connect(db)) as host:
        for _ in range(20):
            insert(host)
        status = replicator.sync(timeout=30)
    assert status.in_sync and status.local_txid == status.remote_txid > 0 and status.pending_bytes == 0
    assert status.last_error is None and status.last_sync is not None and status.last_sync.tzinfo is not None
    report = replicate.restore(tmp_path / "copy.db", url=url)
    assert (report.txid, report.checked) == (status.remote_txid, "quick")
    assert report.bytes == (tmp_path / "copy.db").stat().st_size and report.elapsed > timedelta(0)
    assert content(tmp_path / "copy.db") == content(db)


def test_a_replicator_is_called_to_stop_and_stops_at_the_end_of_a_block(db: Path, url: str, tmp_path: Path) -> None:
    stop = replicate.start(db, url=url)
    report = stop()
    assert report.flushed and report.error is None and report.local_txid == report.remote_txid > 0
    assert stop.stop() == report, "a second call returns the first one's report"
    with replicate.start(db, url=url) as replicator:
        with closing(connect(db)) as host:
            insert(host)
    assert replicator.sync_status().state == "stopped"
    replicate.restore(tmp_path / "copy.db", url=url)
    assert content(tmp_path / "copy.db") == content(db)


def test_after_stop_waiting_calls_say_closed(db: Path, url: str) -> None:
    replicator = replicate.start(db, url=url)
    replicator.stop()
    with pytest.raises(replicate.ClosedError):
        replicator.sync(timeout=5)


def test_wait_returns_when_the_store_has_the_capture(db: Path, url: str, started: Start) -> None:
    replicator = started(db, url=url)
    txid = replicator.sync(timeout=30).local_txid
    assert replicator.wait(txid, timeout=5).remote_txid >= txid
    assert replicator.wait(f"{txid:016x}", timeout=timedelta(seconds=5)).remote_txid >= txid
    with pytest.raises(replicate.SyncTimeoutError):
        replicator.wait(txid + 1000, timeout=0.2)


def test_path_and_repr_name_the_database(db: Path, url: str, started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(db.parent)
    replicator = started("app.db", url=url)
    assert replicator.path == db and replicator.enabled
    assert str(db) in repr(replicator)


def test_a_second_call_on_the_same_path_is_the_same_replicator(db: Path, url: str) -> None:
    first, second = replicate.start(db, url=url), replicate.start(os.fspath(db), url=url)
    first.sync(timeout=30)
    assert second.sync_status() == first.sync_status()
    first.stop()
    assert second.sync_status().state == "stopped"


def test_without_a_store_the_replicator_is_disabled_and_nothing_happens(tmp_path: Path) -> None:
    threads = len(os.listdir("/proc/self/task"))
    python_threads = threading.active_count()
    stop = replicate.auto_replicate(tmp_path / "none.db")
    assert not stop.enabled and stop.sync_status().state == "disabled"
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == python_threads
    until(lambda: len(os.listdir("/proc/self/task")) <= threads, "no thread stays")
    stop()


def test_auto_replicate_takes_its_options_from_the_environment(
    db: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_URL", url)
    before = dict(os.environ)
    with replicate.auto_replicate(db) as replicator:
        assert replicator.enabled
        replicator.sync(timeout=30)
    replicate.restore(tmp_path / "copy.db")
    assert replicate.ensure_exists(tmp_path / "second.db")
    assert [file.max_txid for file in replicate.ltx()] == [file.max_txid for file in replicate.ltx(url=url)]
    assert content(tmp_path / "copy.db") == content(tmp_path / "second.db") == content(db)
    assert dict(os.environ) == before


def test_the_environment_of_the_process_is_never_written(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def native() -> bytes:
        # What the C library has now, which is what a child inherits; /proc/self/environ never changes.
        return subprocess.run(["env", "-0"], capture_output=True, check=True).stdout

    options = unreachable()
    endpoint = str(options["url"]).split("endpoint=")[1]
    monkeypatch.setenv("REPLICATE_S3_ENDPOINT", endpoint)
    monkeypatch.setenv("REPLICATE_S3_ACCESS_KEY", "access")
    monkeypatch.setenv("REPLICATE_S3_SECRET_KEY", "hush-hush")
    before, raw = dict(os.environ), native()
    stop = replicate.auto_replicate(db)
    stop.stop(timeout=0.1)
    assert dict(os.environ) == before and native() == raw
    assert b"AWS_" not in raw
    # The control: what native code writes is seen.
    libc = ctypes.CDLL(None)
    libc.setenv(b"REPLICATE_CANARY", b"x", 1)
    assert native() != raw
    libc.unsetenv(b"REPLICATE_CANARY")
    assert native() == raw


def test_a_state_of_the_past_is_restored_by_txid_and_by_time(
    db: Path, url: str, tmp_path: Path, started: Start
) -> None:
    replicator = started(db, url=url)
    first = replicator.sync(timeout=30)
    past = content(db)
    moment = datetime.now(timezone.utc)
    until(lambda: datetime.now(timezone.utc) - moment > timedelta(milliseconds=50), "the clock goes on")
    with closing(connect(db)) as host:
        insert(host)
    assert replicator.sync(timeout=30).local_txid > first.local_txid
    targets: dict[str, dict[str, Any]] = {
        "txid": {"txid": first.local_txid},
        "hex": {"txid": f"{first.local_txid:016x}"},
        "aware": {"timestamp": moment},
        "zone": {"timestamp": moment.astimezone(timezone(timedelta(hours=5, minutes=30)))},
        "text": {"timestamp": moment.isoformat()},
        "z": {"timestamp": moment.isoformat().replace("+00:00", "Z")},
    }
    for name, target in targets.items():
        assert replicate.restore(tmp_path / name, url=url, **target).txid == first.local_txid, name
        assert content(tmp_path / name) == past, name


@pytest.mark.parametrize(
    "target",
    [
        {"timestamp": datetime(2025, 1, 1)},
        {"timestamp": "2025-01-01"},
        {"timestamp": "2025-01-01T00:00:00"},
        {"timestamp": "2025-13-01T00:00:00Z"},
        {"timestamp": "now"},
        {"txid": "ff"},
        {"txid": "00000000000000FF"},
        {"txid": -1},
        {"txid": 1 << 64},
        {"txid": 1.5},
        {"txid": 1, "timestamp": "2025-01-01T00:00:00Z"},
        {"integrity_check": "some"},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"parallelism": 0},
        {"parallelism": 65},
        {"parallelism": -1},
    ],
    ids=repr,
)
def test_a_wrong_target_is_refused_before_anything_happens(target: dict[str, Any], url: str, tmp_path: Path) -> None:
    with pytest.raises(replicate.ConfigError):
        replicate.restore(tmp_path / "copy.db", url=url, **target)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_replaced_only_on_demand(db: Path, url: str, tmp_path: Path, started: Start) -> None:
    started(db, url=url).sync(timeout=30)
    output = create(tmp_path / "copy.db", count=1)
    before = content(output)
    with pytest.raises(replicate.ExistsError) as refused:
        replicate.restore(output, url=url)
    assert isinstance(refused.value, FileExistsError) and content(output) == before
    replicate.restore(output, url=url, overwrite=True, integrity_check="full", parallelism=2)
    assert content(output) == content(db)


def test_an_empty_store_has_no_backup(url: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(replicate.NoBackupError) as missing:
        replicate.restore(tmp_path / "copy.db", url=url)
    assert isinstance(missing.value, LookupError)
    assert replicate.ensure_exists(tmp_path / "copy.db", url=url) is False
    assert replicate.ltx(url=url) == []
    assert not (tmp_path / "copy.db").exists()


def test_without_any_place_restore_says_how_to_name_one(tmp_path: Path) -> None:
    for call in (replicate.restore, replicate.ensure_exists):
        with pytest.raises(replicate.ConfigError) as refused:
            call(tmp_path / "copy.db")
        assert refused.value.hint


def test_ensure_exists_restores_once_and_leaves_what_is_there(
    db: Path, url: str, tmp_path: Path, started: Start
) -> None:
    started(db, url=url).sync(timeout=30)
    copy = tmp_path / "copy.db"
    assert replicate.ensure_exists(copy, url=url) is True
    assert content(copy) == content(db)
    assert replicate.ensure_exists(copy, url=url) is False


def test_a_missing_database_is_restored_before_start_returns(db: Path, url: str, tmp_path: Path) -> None:
    with replicate.start(db, url=url):
        pass
    before = content(db)
    for path in list(tmp_path.glob("app.db*")):
        path.unlink()
    seen: list[replicate.Event] = []
    with replicate.start(db, url=url, on_event=seen.append) as replicator:
        assert content(db) == before
        events = [event for event in iter(lambda: replicator.events().next(timeout=0), None)]
        until(lambda: seen, "the callback is called")
    assert (seen[0].kind, seen[0].txid) == ("restored", replicate.ltx(url=url)[0].max_txid)
    assert all(event.kind != "restored" for event in events), "the callback was the first to listen"
    until(lambda: seen[-1].to_state == "stopped", "the callback hears of the end")
    assert next(event for event in seen if event.kind == "state").from_state == "starting", "it heard of everything"


def test_who_listens_first_hears_of_the_restore_too(db: Path, url: str, tmp_path: Path) -> None:
    replicate.start(db, url=url).stop()
    for path in list(tmp_path.glob("app.db*")):
        path.unlink()
    with replicate.start(db, url=url) as replicator:
        first = replicator.events().next(timeout=10)
    assert first is not None and first.kind == "restored"


def test_ltx_names_the_files_of_the_replica(db: Path, url: str, tmp_path: Path, started: Start) -> None:
    replicator = started(db, url=url)
    last = replicator.sync(timeout=30).remote_txid
    files = replicate.ltx(url=url)
    assert files and max(file.max_txid for file in files) == last
    for file in files:
        assert 1 <= file.min_txid <= file.max_txid and 0 <= file.level <= 9
        assert (tmp_path / "store" / file.key).stat().st_size == file.size
        assert abs(file.modified - datetime.now(timezone.utc)) < timedelta(hours=1)


def test_progress_is_told_on_the_calling_thread_and_ends_with_the_total(
    tmp_path: Path, url: str, started: Start
) -> None:
    db = create(tmp_path / "big.db", count=0)
    with closing(connect(db)) as host:
        host.execute("WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000) "
                     "INSERT INTO t (text) SELECT hex(randomblob(100)) FROM n")
    started(db, url=url).sync(timeout=60)
    seen: list[replicate.Progress] = []
    threads: set[int] = set()

    def progress(now: replicate.Progress) -> None:
        threads.add(threading.get_ident())
        seen.append(now)

    replicate.restore(tmp_path / "copy.db", url=url, progress=progress)
    assert threads == {threading.get_ident()}
    assert [now.done for now in seen] == sorted(now.done for now in seen)
    assert seen[-1].done == seen[-1].total > 0


@pytest.mark.parametrize("path", ["", "nul\0.db"], ids=repr)
def test_a_path_that_names_nothing_is_refused(path: str, url: str) -> None:
    for call in (replicate.start, replicate.ensure_exists, replicate.restore):
        with pytest.raises(replicate.ConfigError):
            call(path, url=url)


def test_unusual_names_of_databases_work(tmp_path: Path, started: Start) -> None:
    for number, name in enumerate(["with space.db", "quote'\".db", "emoji \N{SNOWMAN}.db", "%41?#.db"]):
        db = create(tmp_path / name)
        url = f"file://{tmp_path}/store{number}"
        started(db, url=url).sync(timeout=30)
        replicate.restore(tmp_path / f"copy{number}", url=url)
        assert content(tmp_path / f"copy{number}") == content(db), name
