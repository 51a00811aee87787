"""A chain of rows, each with the hash of the one before: nothing can be lost, doubled or swapped unseen.

Writers append under SQLite's write lock and note each acknowledged row in a file outside the database.
"""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Callable, NamedTuple

CHECKPOINTS = ("PASSIVE", "PASSIVE", "FULL", "RESTART", "TRUNCATE")


class Row(NamedTuple):
    """A link: its number, who wrote it, that writer's own count, what it carries, its hash."""

    id: int
    writer: str
    number: int
    payload: bytes
    hash: bytes


def link(before: bytes, id_: int, writer: str, count: int, payload: bytes) -> bytes:
    """The hash of a row after the row with the hash ``before``."""
    return hashlib.sha256(b"%b|%d|%b|%d|%b" % (before, id_, writer.encode(), count, payload)).digest()


def connect(path: str | os.PathLike[str]) -> sqlite3.Connection:
    """A connection of the host; it waits for locks as a server's would."""
    db = sqlite3.connect(str(path), timeout=60, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous=NORMAL")
    return db


def create(path: Path) -> Path:
    """A database with an empty chain."""
    with closing(connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(
            "CREATE TABLE chain (id INTEGER PRIMARY KEY, writer TEXT NOT NULL, count INTEGER NOT NULL, "
            "payload BLOB NOT NULL, hash BLOB NOT NULL)"
        )
        db.execute("CREATE INDEX by_writer ON chain (writer, count)")
    return path


def append(db: sqlite3.Connection, writer: str, count: int) -> int:
    """Appends one row in a transaction of its own."""
    payload = random.randbytes(random.randrange(10, 400))
    db.execute("BEGIN IMMEDIATE")
    try:
        last = db.execute("SELECT id, hash FROM chain ORDER BY id DESC LIMIT 1").fetchone() or (0, b"")
        row = Row(last[0] + 1, writer, count, payload, link(last[1], last[0] + 1, writer, count, payload))
        db.execute("INSERT INTO chain VALUES (?, ?, ?, ?, ?)", row)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return row.id


def write_on(path: str, writer: str, notes: str, ended: Callable[[], bool], first: int = 1) -> None:
    """Appends until told to end, with new connections and checkpoints of every kind in between."""
    count = first
    with open(notes, "ab", buffering=0) as acknowledged:
        while not ended():
            with closing(connect(path)) as db:
                for _ in range(random.randrange(1, 60)):
                    if ended():
                        return
                    id_ = append(db, writer, count)
                    acknowledged.write(b"%d %d\n" % (id_, count))
                    count += 1
                    if random.random() < 0.04:
                        checkpoint(db)


def checkpoint(db: sqlite3.Connection) -> None:
    """A checkpoint of any kind; being refused is part of the game."""
    db.execute("PRAGMA busy_timeout=50")
    try:
        db.execute(f"PRAGMA wal_checkpoint({random.choice(CHECKPOINTS)})").fetchall()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
    finally:
        db.execute("PRAGMA busy_timeout=60000")


def acknowledged(notes: Path) -> list[tuple[int, int]]:
    """What a writer was told to be committed: row and count."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [(int(id_), int(count)) for id_, count in (line.split() for line in lines)]


def read(path: Path) -> list[Row]:
    """The whole chain, proved: SQLite finds nothing wrong, no link is missing, none is changed."""
    with closing(sqlite3.connect(str(path), timeout=60)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = [Row(*row) for row in db.execute("SELECT id, writer, count, payload, hash FROM chain ORDER BY id")]
        indexed = db.execute("SELECT count(*) FROM chain INDEXED BY by_writer WHERE writer >= ''").fetchone()[0]
    assert indexed == len(rows)
    before, counts = b"", dict[str, int]()
    for number, row in enumerate(rows, 1):
        assert row.id == number, f"row {number} is missing"
        assert row.hash == link(before, row.id, row.writer, row.number, row.payload), f"row {number} is not the one written"
        assert row.number == counts.get(row.writer, 0) + 1, f"row {number} is out of order"
        before, counts[row.writer] = row.hash, row.number
    return rows


def check_acknowledged(rows: list[Row], writer: str, notes: Path) -> None:
    """Every acknowledged row is there, where it was when it was acknowledged, and at most one more is."""
    told = acknowledged(notes)
    for id_, count in told:
        assert id_ <= len(rows), f"acknowledged row {id_} of {writer} is lost"
        assert (rows[id_ - 1].writer, rows[id_ - 1].number) == (writer, count)
    written = sum(row.writer == writer for row in rows)
    assert len(told) <= written <= len(told) + 1
