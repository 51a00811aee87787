"""One replicator a database and host: a second process stands by and takes over."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Callable

import pytest
from support import connect, content, insert, kill, line_of, run_well, spawn, until

import replicate

Start = Callable[..., replicate.Replicator]

HOLDER = """
    import replicate
    replicator = replicate.start(sys.argv[1], url=sys.argv[2])
    print(replicator.sync(timeout=30).state, flush=True)
    sys.stdin.read()
"""


def test_the_second_process_stands_by_and_takes_over_when_the_first_is_killed(
    db: Path, url: str, tmp_path: Path, started: Start
) -> None:
    holder = spawn(HOLDER, db, url)
    try:
        assert line_of(holder) == "streaming"
        replicator = started(db, url=url)
        until(lambda: replicator.sync_status().state == "standby", "this process stands by")
        with closing(connect(db)) as host:
            insert(host)
        status = replicator.sync(timeout=30)
        assert status.state == "standby" and status.in_sync and status.remote_txid > 0
        replicate.restore(tmp_path / "by-holder.db", url=url)
        assert content(tmp_path / "by-holder.db") == content(db)
        with pytest.raises(replicate.BusyError):
            replicator.wait(1_000_000, timeout=5)
        holder.kill()
        holder.wait()
        with closing(connect(db)) as host:
            insert(host)
        until(lambda: replicator.sync_status().state == "streaming", "this process takes over")
        assert replicator.sync(timeout=30).in_sync
    finally:
        kill(holder)
    replicate.restore(tmp_path / "copy.db", url=url)
    assert content(tmp_path / "copy.db") == content(db)


def test_the_second_process_takes_over_when_the_first_stops(db: Path, url: str, started: Start) -> None:
    holder = spawn(HOLDER, db, url)
    try:
        assert line_of(holder) == "streaming"
        replicator = started(db, url=url)
        until(lambda: replicator.sync_status().state == "standby", "this process stands by")
        out, err = holder.communicate(timeout=30)
        assert holder.returncode == 0, err
        until(lambda: replicator.sync_status().state == "streaming", "this process takes over")
    finally:
        kill(holder)


def test_of_many_processes_one_restores_a_missing_database(db: Path, url: str, tmp_path: Path, started: Start) -> None:
    started(db, url=url).sync(timeout=30)
    copy = tmp_path / "copy.db"
    program = """
        import replicate
        print(replicate.ensure_exists(sys.argv[1], url=sys.argv[2]))
    """
    processes = [spawn(program, copy, url) for _ in range(4)]
    answers = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        answers.append(out.strip())
    assert sorted(answers) == ["False", "False", "False", "True"]
    assert content(copy) == content(db)
    assert run_well(program, copy, url) == "False"
