"""A forked child knows that it is one: it never uses, ends or hangs on what the parent has started."""

from __future__ import annotations

import warnings
from pathlib import Path

from support import content, create, free_port, run_well

import replicate

IN_CHILD = """
    import os, sqlite3, threading, warnings
    import replicate
    warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork beside threads

    def in_child(body):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                body()
                status = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def refused(call):
        try:
            call()
        except replicate.ForkedError as error:
            assert error.hint and isinstance(error, RuntimeError)
        else:
            raise AssertionError("not refused")
"""


def test_an_inherited_replicator_is_refused_and_stop_is_silent(tmp_path: Path) -> None:
    db, url = create(tmp_path / "app.db"), f"file://{tmp_path}/store"
    run_well(
        IN_CHILD
        + """
    db, url = sys.argv[1:]
    replicator = replicate.start(db, url=url, on_event=lambda event: None)
    events = replicator.events()
    replicator.sync(timeout=30)

    def child():
        for call in (replicator.sync, replicator.sync_status, lambda: replicator.wait(1), replicator.events, events.next):
            refused(call)
        refused(lambda: replicate.start(db, url=url))
        report = replicator.stop()
        assert (report.flushed, report.error) == (False, None)
        assert replicator.path and replicator.enabled and repr(replicator)

    for _ in range(20):
        in_child(child)
    sqlite3.connect(db, timeout=30, isolation_level=None).execute("INSERT INTO t (text) VALUES ('after')")
    assert replicator.sync(timeout=30).in_sync
    assert replicator.stop().flushed
    """,
        db,
        url,
    )
    replicate.restore(tmp_path / "copy.db", url=url)
    assert content(tmp_path / "copy.db") == content(db)


def test_forks_of_a_busy_parent_never_hang(tmp_path: Path) -> None:
    db, url = create(tmp_path / "app.db"), f"file://{tmp_path}/store"
    run_well(
        IN_CHILD
        + """
    import logging
    logging.getLogger("replicate").setLevel(1)
    replicator = replicate.start(sys.argv[1], url=sys.argv[2], on_event=lambda event: None)
    ended = threading.Event()

    def load():
        host = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
        while not ended.is_set():
            host.execute("INSERT INTO t (text) VALUES ('x')")
            replicator.sync(timeout=30)
            replicator.sync_status()

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()

    def child():
        refused(replicator.sync_status)
        replicator.stop()

    for _ in range(50):
        in_child(child)
    ended.set()
    for thread in threads:
        thread.join()
    assert replicator.stop().flushed
    """,
        db,
        url,
    )


def test_a_child_forked_by_a_signal_handler_during_a_call_is_told(tmp_path: Path) -> None:
    run_well(
        IN_CHILD
        + """
    import signal
    replicator = replicate.start(sys.argv[1], url=sys.argv[2], access_key="access", secret_key="hush")
    children = []

    def fork(*_):
        children.append(os.fork())
        if children[-1] == 0:
            signal.alarm(20)  # ends a child that hangs

    signal.signal(signal.SIGUSR1, fork)
    parent = os.getpid()
    threading.Timer(0.5, lambda: os.kill(parent, signal.SIGUSR1)).start()
    try:
        replicator.sync(timeout=5)
        answer = None
    except BaseException as error:
        answer = type(error)
    if os.getpid() != parent:
        os._exit(0 if answer is replicate.ForkedError else 1)
    assert answer is replicate.SyncTimeoutError
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    replicator.stop(timeout=1)
    """,
        create(tmp_path / "app.db"),
        f"s3://b/p?endpoint=http://127.0.0.1:{free_port()}",
    )


def test_a_child_of_a_parent_that_does_not_replicate_starts_its_own(tmp_path: Path) -> None:
    db, url = create(tmp_path / "app.db"), f"file://{tmp_path}/store"
    run_well(
        IN_CHILD
        + """
    db, url = sys.argv[1:]

    def child():
        with replicate.start(db, url=url, on_event=lambda event: None) as replicator:
            assert replicator.sync(timeout=30).in_sync

    in_child(child)
    in_child(child)
    """,
        db,
        url,
    )
    replicate.restore(tmp_path / "copy.db", url=url)
    assert content(tmp_path / "copy.db") == content(db)


def test_a_child_that_ends_normally_leaves_the_parent_alone(tmp_path: Path) -> None:
    db, url = create(tmp_path / "app.db"), f"file://{tmp_path}/store"
    run_well(
        IN_CHILD
        + """
    replicator = replicate.start(sys.argv[1], url=sys.argv[2], on_event=lambda event: None)
    pid = os.fork()
    if pid == 0:
        sys.exit(7)  # with atexit, unlike os._exit
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert replicator.sync(timeout=30).in_sync
    """,
        db,
        url,
    )


def test_workers_of_multiprocessing_are_told_or_work(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
import multiprocessing, sqlite3, sys, warnings
import replicate

def worker(db, url):
    try:
        with replicate.start(db, url=url) as replicator:
            replicator.sync(timeout=30)
            return "works"
    except replicate.ForkedError:
        return "told"

if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    method, folder = sys.argv[1:]
    for name in ("parent", "child"):
        sqlite3.connect(f"{folder}/{name}-{method}.db").execute("PRAGMA journal_mode=WAL").close()
        sqlite3.connect(f"{folder}/{name}-{method}.db").execute("CREATE TABLE t (x)").close()
    url = f"file://{folder}/store-{method}"
    with replicate.start(f"{folder}/parent-{method}.db", url=url + "-parent") as replicator:
        replicator.sync(timeout=30)
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(pool.apply(worker, (f"{folder}/child-{method}.db", url + "-child")))
        assert replicator.sync(timeout=30).in_sync
"""
    )
    for method, expected in {"fork": "told", "spawn": "works", "forkserver": "works"}.items():
        out = run_well("import runpy; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')",
                       program, method, tmp_path)
        assert out == expected, method


def test_the_warning_of_python_about_threads_is_pythons_own() -> None:
    # Nothing of ours filters warnings for the whole program.
    before = list(warnings.filters)
    run_well("import warnings; before = list(warnings.filters); import replicate; assert before == warnings.filters")
    assert list(warnings.filters) == before
