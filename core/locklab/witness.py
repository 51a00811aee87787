"""The third party: a process that sees the database as a stranger does.

Every judgement of a scene is made by a freshly started one, because the process under test cannot look at its own
locks without dropping them. Run as a program it answers one question as a JSON line; `ask` starts it.
"""

import fcntl
import json
import os
import sqlite3
import struct
import subprocess
import sys

PENDING = 0x40000000
DB_CANARY, SHM_CANARY = PENDING + 4096, 4000


def ask(question, *arguments):
    """The answer of a fresh process."""
    command = [sys.executable, "-I", "-S", __file__, question, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, close_fds=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"witness {question}: {done.stderr}")
    return json.loads(done.stdout)


def _connect(db):
    return sqlite3.connect(f"file:{db}?mode=rw", uri=True, timeout=0, isolation_level=None)


def _tried(action):
    try:
        action()
        return "ok"
    except sqlite3.OperationalError as error:
        return "busy" if "locked" in str(error) else f"error: {error}"
    except sqlite3.DatabaseError as error:
        return f"error: {error}"


def make(db, mode):
    """A new database with one row."""
    connection = sqlite3.connect(db, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.executescript("CREATE TABLE t(who TEXT); INSERT INTO t VALUES ('first');")
    connection.close()


def write(db, who="witness"):
    """Tries to commit a row."""
    connection = _connect(db)

    def commit():
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (?)", (who,))
        connection.execute("COMMIT")

    return _tried(commit)


def exclusive(db):
    """Tries to get the strongest lock there is."""
    connection = _connect(db)
    return _tried(lambda: (connection.execute("BEGIN EXCLUSIVE"), connection.execute("ROLLBACK")))


def read(db):
    connection = _connect(db)
    return _tried(lambda: connection.execute("SELECT count(*) FROM t").fetchall())


def rows(db):
    """All rows and the verdict of SQLite's own check."""
    connection = _connect(db)
    found = [who for (who,) in connection.execute("SELECT who FROM t ORDER BY rowid")]
    return {"rows": found, "integrity": connection.execute("PRAGMA integrity_check").fetchone()[0]}


def checkpoint(db, mode):
    """Busy, frames in the log, frames copied."""
    return list(_connect(db).execute(f"PRAGMA wal_checkpoint({mode})").fetchone())


def canary(path, start):
    """Whether somebody holds a lock on one byte."""
    with open(path, "rb+") as file:
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, int(start), 1, 0)
        answer = fcntl.fcntl(file, fcntl.F_GETLK, request)
    return struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK


def locks(path):
    """The kernel's list of locks on a file: owner kind, type, first and last byte."""
    inode = str(os.stat(path).st_ino)
    with open("/proc/locks", encoding="ascii") as table:
        fields = [line.split()[1:] for line in table if "->" not in line]
    return [[f[0], f[2], f[5], f[6]] for f in fields if f[4].rsplit(":", 1)[1] == inode]


def head(path):
    """The first bytes of a file, in hex: of `-shm` the two copies of the index header and the checkpoint data."""
    with open(path, "rb") as file:
        return file.read(136).hex()


if __name__ == "__main__":
    questions = {f.__name__: f for f in (make, write, exclusive, read, rows, checkpoint, canary, locks, head)}
    print(json.dumps(questions[sys.argv[1]](*sys.argv[2:])))
