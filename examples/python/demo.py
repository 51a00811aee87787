"""Writes to a SQLite database while it is replicated, brings it back elsewhere and compares both.

    REPLICATE_S3_ENDPOINT=… python demo.py FOLDER

`cargo xtask demo` runs it against an S3 server on this machine. Where the replica lies is read from the
REPLICATE_* variables; the database itself is written with the standard library and knows nothing of it.
"""

import os
import sqlite3
import sys
import time
from pathlib import Path

import replicate

COMMITS = 2_000
ROWS_A_COMMIT = 3


def write(database: Path) -> int:
    """Many small transactions that insert, update and delete; returns the rows left."""
    db = sqlite3.connect(database, isolation_level=None, timeout=5)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, cents INTEGER NOT NULL)")
    db.execute("CREATE INDEX account_owner ON account (owner)")
    for commit in range(COMMITS):
        db.execute("BEGIN IMMEDIATE")
        owners = [(f"owner {commit % 97}", commit * i) for i in range(ROWS_A_COMMIT)]
        db.executemany("INSERT INTO account (owner, cents) VALUES (?, ?)", owners)
        db.execute("UPDATE account SET cents = cents + 1 WHERE id % 50 = ?", (commit % 50,))
        if commit % 10 == 0:
            db.execute("DELETE FROM account WHERE id = ?", (commit,))
        db.execute("COMMIT")
    (rows,) = db.execute("SELECT count(*) FROM account").fetchone()
    db.close()
    return rows


def different_rows(one: Path, other: Path) -> int:
    """Rows of either database that the other lacks, over all tables and the schema."""
    db = sqlite3.connect(one)
    db.execute("ATTACH DATABASE ? AS other", (str(other),))
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    count = 0
    for table in ["sqlite_schema", *tables]:
        # The root page of a table is part of the comparison: the restore is the same database, page by page.
        for a, b in (("main", "other"), ("other", "main")):
            query = f'SELECT count(*) FROM (SELECT * FROM {a}."{table}" EXCEPT SELECT * FROM {b}."{table}")'
            count += db.execute(query).fetchone()[0]
    db.close()
    return count


def integrity(database: Path) -> str:
    db = sqlite3.connect(database)
    (answer,) = db.execute("PRAGMA integrity_check").fetchone()
    db.close()
    return answer


def main(folder: Path) -> int:
    database, restored = folder / "app.db", folder / "elsewhere" / "app.db"
    restored.parent.mkdir(parents=True, exist_ok=True)

    keys = replicate.generate_identity()
    os.environ["REPLICATE_AGE_RECIPIENT"] = keys.recipient  # all that the replicating side has
    print(f"sealing to a fresh post-quantum key, {keys.recipient[:24]}…")

    stop = replicate.auto_replicate(database)
    start = time.monotonic()
    rows = write(database)
    wrote = time.monotonic() - start
    stop()
    stopped = time.monotonic() - start - wrote
    print(f"wrote {rows} rows in {COMMITS} commits in {wrote:.2f} s while replicating; stop() took {stopped:.2f} s")

    os.environ["REPLICATE_AGE_IDENTITY"] = keys.identity  # elsewhere
    start = time.monotonic()
    replicate.restore(restored)
    print(f"restored {restored.stat().st_size // 1024} KiB in {time.monotonic() - start:.2f} s")

    different, answer = different_rows(database, restored), integrity(restored)
    print(f"compared row by row: {different} differences; integrity_check: {answer}")
    return 0 if different == 0 and answer == "ok" and rows > 0 else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: demo.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
