"""What the tests share: databases of a host, processes of Python, waiting for a condition."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path
from typing import Callable, Optional, TypeVar

DEADLINE = 60.0

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
    """Returns the first true answer; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def connect(path: os.PathLike[str] | str) -> sqlite3.Connection:
    """A connection of the host."""
    db = sqlite3.connect(str(path), timeout=30, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    return db


def create(path: Path, count: int = 3) -> Path:
    """A database in WAL mode with a few rows."""
    with closing(connect(path)) as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        for _ in range(count):
            insert(db)
    return path


def insert(db: sqlite3.Connection) -> int:
    """One committed row."""
    cursor = db.execute("INSERT INTO t (text) VALUES (hex(randomblob(50)))")
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def content(path: Path) -> list[str]:
    """The whole database as text, after an integrity check."""
    with closing(sqlite3.connect(str(path), timeout=30)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return list(db.iterdump())


def clean_environment() -> dict[str, str]:
    """The environment without what would reach the library."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("REPLICATE_", "AWS_"))}


def spawn(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Starts another Python with this program; its output is text."""
    program = "import sys; sys.path.insert(0, sys.argv.pop(1))\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(Path(__file__).parent), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean_environment(), "PYTHONFAULTHANDLER": "1", **environment},
    )


def run(code: str, *arguments: object, seconds: float = DEADLINE, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs another Python with this program to its end."""
    process = spawn(code, *arguments, **environment)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler tells where it hangs
        out, err = process.communicate()
        raise AssertionError(f"did not end within {seconds} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_well(code: str, *arguments: object, **environment: str) -> str:
    """The same; it must succeed. Returns what it printed."""
    done = run(code, *arguments, seconds=DEADLINE, **environment)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _, err = process.communicate()
        raise AssertionError(f"ended with {process.returncode}\n{err}")
    return line.strip()


def kill(process: subprocess.Popen[str]) -> None:
    """Ends a process that a test has started, if it still runs, and takes its pipes back."""
    if process.poll() is None:
        process.kill()
    if process.stdout is not None and not process.stdout.closed:
        process.communicate()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def unreachable(prefix: str = "p") -> dict[str, Optional[str]]:
    """Options of a store that refuses every connection."""
    url = f"s3://bucket/{prefix}?endpoint=http://127.0.0.1:{free_port()}"
    return {"url": url, "access_key": "access", "secret_key": "hush-hush"}
