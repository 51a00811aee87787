"""The host's SQLite and ours on one file: nothing is lost, in the database or in the replica.

Two threads of the host and another process write a hash chain, with connections that come and go; everyone
runs checkpoints of every kind; the replicator starts and stops all the time. ``REPLICATE_STRESS_SECS`` sets
how long (default 20).
"""

from __future__ import annotations

import os
from pathlib import Path

import chain
from support import kill, line_of, run_well, spawn

import replicate

SECONDS = float(os.environ.get("REPLICATE_STRESS_SECS", "20"))

HOST = """
    import random, threading, time
    import chain, replicate
    db, url, seconds, folder = sys.argv[1:]
    deadline = time.monotonic() + float(seconds)
    failures = []

    def write(name):
        try:
            chain.write_on(db, name, f"{folder}/{name}", lambda: failures or time.monotonic() > deadline)
        except BaseException as error:
            failures.append(f"{name}: {error!r}")

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    cycles = 0
    while time.monotonic() < deadline and not failures:
        replicator = replicate.start(db, url=url, sync_interval="50ms", checkpoint_pages=64)
        pause = threading.Event()
        pause.wait(random.random() * 0.5)
        if random.random() < 0.5:
            replicator.sync(timeout=60)
        report = replicator.stop(timeout=60)
        assert report.error is None, report
        cycles += 1
    for thread in threads:
        thread.join()
    assert not failures, failures
    print(cycles)
"""

WRITER = """
    import select, chain
    db, folder = sys.argv[1:]
    print("ready", flush=True)
    chain.write_on(db, "other", f"{folder}/other", lambda: bool(select.select([sys.stdin], [], [], 0)[0]))
"""


def test_host_and_replicator_never_harm_each_other(tmp_path: Path) -> None:
    db, url = chain.create(tmp_path / "app.db"), f"file://{tmp_path}/store"
    writer = spawn(WRITER, db, tmp_path)
    try:
        assert line_of(writer) == "ready"
        host = spawn(HOST, db, url, SECONDS, tmp_path)
        try:
            out, err = host.communicate(timeout=SECONDS + 180)
        finally:
            kill(host)
        _, writer_err = writer.communicate(timeout=60)
    finally:
        kill(writer)
    assert host.returncode == 0, f"status {host.returncode}\n{err}"
    assert writer.returncode == 0, f"status {writer.returncode}\n{writer_err}"
    assert int(out) >= 2, "the replicator came and went"
    rows = chain.read(db)
    for name in ("one", "two", "other"):
        chain.check_acknowledged(rows, name, tmp_path / name)
        assert chain.acknowledged(tmp_path / name), f"{name} has written"
    run_well("import replicate; assert replicate.start(sys.argv[1], url=sys.argv[2]).stop(60).flushed", db, url)
    replicate.restore(tmp_path / "copy.db", url=url, integrity_check="full")
    assert chain.read(tmp_path / "copy.db") == rows


def test_another_process_stays_refused_while_the_host_writes(tmp_path: Path) -> None:
    db, url = chain.create(tmp_path / "app.db"), f"file://{tmp_path}/store"
    witness = """
        import sqlite3
        db = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            print("refused" if "locked" in str(error) else error)
        else:
            print("admitted")
    """
    host = chain.connect(db)
    chain.append(host, "host", 1)
    host.execute("BEGIN IMMEDIATE")
    host.execute("UPDATE chain SET payload = x'00'")
    for _ in range(3):
        replicator = replicate.start(db, url=url)
        assert run_well(witness, db) == "refused"
        replicator.stop(timeout=1)
        assert run_well(witness, db) == "refused"
    host.execute("ROLLBACK")
    host.close()
    assert run_well(witness, db) == "admitted"
    assert len(chain.read(db)) == 1
