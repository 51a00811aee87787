"""The end of the interpreter, in every way, is quick, exact, and ships what it can."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from support import content, create, kill, line_of, run, spawn, unreachable, until

import replicate

ROUNDS = 20

PROGRAM = """
    import atexit, os, sqlite3, signal, threading, logging
    import replicate
    logging.basicConfig(level=logging.WARNING)
    db, url, way = sys.argv[1:]
    replicator = replicate.start(db, url=url, on_event=lambda event: None)
    host = sqlite3.connect(db, timeout=30, isolation_level=None)
    host.execute("INSERT INTO t (text) VALUES ('last')")

    def calls():
        while True:
            try:
                replicator.sync(timeout=10)
                for event in replicator.events():
                    pass
            except replicate.ReplicateError:
                pass

    if way == "exit":
        sys.exit(3)
    if way == "exception":
        raise RuntimeError("the program's own")
    if way == "os_exit":
        os._exit(4)
    if way == "daemon":
        for _ in range(3):
            threading.Thread(target=calls, daemon=True).start()
    if way == "stopped":
        replicator.stop()
    if way == "sigterm":
        print("ready", flush=True)
        signal.pause()
"""

STATUS = {"normal": 0, "exit": 3, "exception": 1, "os_exit": 4, "daemon": 0, "stopped": 0}
SHIPS = {"normal", "exit", "exception", "daemon", "stopped"}


@pytest.mark.parametrize("way", STATUS)
def test_the_process_ends_with_its_own_status_and_what_was_committed_is_stored(way: str, tmp_path: Path) -> None:
    for round_ in range(ROUNDS):
        db = create(tmp_path / f"{round_}.db")
        url = f"file://{tmp_path}/store{round_}"
        begin = time.monotonic()
        done = run(PROGRAM, db, url, way)
        assert done.returncode == STATUS[way], f"round {round_}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.stdout == "" and ("RuntimeError" in done.stderr) == (way == "exception"), done.stderr
        assert way == "exception" or done.stderr == "", done.stderr
        assert time.monotonic() - begin < 20
        if way in SHIPS:
            replicate.restore(tmp_path / "copy.db", url=url, overwrite=True)
            assert content(tmp_path / "copy.db") == content(db)


def test_sigterm_ends_the_process_as_without_us(tmp_path: Path) -> None:
    for round_ in range(ROUNDS):
        db = create(tmp_path / f"{round_}.db")
        process = spawn(PROGRAM, db, f"file://{tmp_path}/store{round_}", "sigterm")
        try:
            assert line_of(process) == "ready"
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
        finally:
            kill(process)
        assert (process.returncode, err) == (-signal.SIGTERM, "")


def test_with_a_store_out_of_reach_the_end_is_bounded(tmp_path: Path) -> None:
    db = create(tmp_path / "app.db")
    begin = time.monotonic()
    done = run(
        """
        import replicate
        replicate.start(sys.argv[1], url=sys.argv[2], access_key="access", secret_key="hush")
        """,
        db,
        unreachable()["url"],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - begin < 15


def unmasked(pid: int, number: int) -> list[str]:
    """The threads of a process that a signal could be delivered to, beside the main thread that waits for it."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        if thread.name == str(pid):
            continue
        fields = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines() if ":\t" in line)
        if not int(fields["SigBlk"], 16) >> (number - 1) & 1:
            found.append(fields["Name"])
    return found


def test_a_host_that_waits_for_signals_itself_gets_them(tmp_path: Path) -> None:
    db = create(tmp_path / "app.db")
    process = spawn(
        """
        import signal
        import replicate
        with replicate.start(sys.argv[1], url=sys.argv[2], on_event=lambda e: None) as replicator:
            replicator.sync(timeout=30)
            # Only now: no thread of ours may have it unblocked.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            print("ready", flush=True)
            print(signal.sigwait({signal.SIGTERM}))
        """,
        db,
        f"file://{tmp_path}/store",
    )
    try:
        assert line_of(process) == "ready"
        until(lambda: not unmasked(process.pid, signal.SIGTERM), "every other thread has it blocked", 10)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        kill(process)
    assert (process.returncode, err) == (0, ""), err
    assert "15" in out or "SIGTERM" in out


def test_handlers_of_the_program_are_left_alone() -> None:
    done = run(
        """
        import signal
        before = {s: signal.getsignal(s) for s in signal.valid_signals()}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        import replicate, os, tempfile
        with tempfile.TemporaryDirectory() as folder:
            replicate.auto_replicate(os.path.join(folder, "x.db"))
            try:
                replicate.restore(os.path.join(folder, "x.db"), url="file://" + folder + "/none")
            except replicate.NoBackupError:
                pass
        assert {s: signal.getsignal(s) for s in signal.valid_signals()} == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
        """
    )
    assert done.returncode == 0, done.stderr
