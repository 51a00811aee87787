"""The load: two threads of the host, a writer in another process and the engine, all on one database.

Each transaction reads the head of a hash chain and appends to it, so that a lost, doubled or misplaced commit breaks
a link. Acknowledgements are logged outside the database, after the commit. Connections are reopened every `reopen`
transactions: the last closer is where two copies of SQLite hurt each other most.

`stress.py host DB LOG SECONDS REOPEN ISOLATE STAYS` runs host and engine, `stress.py writer DB LOG SECONDS REOPEN` the other
process; both print a JSON line. `run` starts both and judges.
"""

import contextlib
import hashlib
import json
import pathlib
import random
import sqlite3
import subprocess
import sys
import threading
import time

import lab as lab_module
import witness

MODES = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE chain(id INTEGER PRIMARY KEY, writer TEXT, payload BLOB, hash BLOB);
CREATE TABLE entries(writer TEXT, id INTEGER, PRIMARY KEY(writer, id));
CREATE TABLE counter(n INTEGER);
INSERT INTO counter VALUES (0);
INSERT INTO chain VALUES (1, 'root', x'', x'00');
"""


def link(previous, number, writer, payload):
    return hashlib.sha256(previous + number.to_bytes(8, "big") + writer.encode() + payload).digest()


# The host's threads open and close in turn. SQLite's `unixClose` looks whether another thread of its process holds a
# lock, lets go of its mutex and then closes the descriptor: a lock taken in between is dropped by that close (3.40.1
# and 3.54.1 alike; COMPAT.md). That is a host losing its lock to itself. It is harmless while the engine is attached:
# where the engine stays, the threads open and close as they like.
IN_TURN, FREELY = threading.Lock(), contextlib.nullcontext()


def connect(db, door):
    with door:
        connection = sqlite3.connect(db, timeout=20, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA wal_autocheckpoint = 100")
        # Reads the schema, which takes the lock on the database.
        connection.execute("PRAGMA synchronous = OFF")
        return connection


def disconnect(connection, door):
    with door:
        connection.close()


def append(connection, writer, rng):
    connection.execute("BEGIN IMMEDIATE")
    try:
        number, previous = connection.execute("SELECT id, hash FROM chain ORDER BY id DESC LIMIT 1").fetchone()
        number += 1
        payload = rng.randbytes(rng.randrange(20, 400))
        chained = (number, writer, payload, link(previous, number, writer, payload))
        connection.execute("INSERT INTO chain VALUES (?, ?, ?, ?)", chained)
        connection.execute("INSERT INTO entries VALUES (?, ?)", (writer, number))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return number


def is_busy(error):
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def write_until(db, log, writer, end, reopen, failed, door=IN_TURN):
    """Appends until the time is over; any failure but a busy database ends it and is reported."""
    rng = random.Random(writer)
    count = 0
    with open(log, "a", encoding="ascii", buffering=1) as acknowledged:
        try:
            while time.monotonic() < end and not failed.is_set():
                connection = connect(db, door)
                for _ in range(reopen):
                    try:
                        acknowledged.write(f"{append(connection, writer, rng)}\n")
                        count += 1
                        if rng.random() < 0.01:
                            connection.execute(f"PRAGMA wal_checkpoint({rng.choice(MODES)})").fetchall()
                    except sqlite3.OperationalError as error:
                        if not is_busy(error):
                            raise
                disconnect(connection, door)
        except sqlite3.Error as error:
            failed.set()
            return count, f"{writer}: {error}"
    return count, None


# One look at the kernel's list can miss a lock that is there.
LOOKS = 20


class Engine:
    """What a replicator does, over and over, with checks of what it relies on."""

    def __init__(self, db, isolate, stays):
        self.db = db
        self.lab = lab_module.Lab(isolate=isolate)
        self.staying = self.lab.open(db, 5000) if stays else None
        if self.staying is not None:
            # What is only open holds nothing yet.
            self.staying.query("SELECT count(*) FROM chain")
        self.rng = random.Random("engine")
        self.connection = None
        self.increments = self.cycles = self.pinned = 0

    def opened(self):
        if self.connection is None:
            how = self.lab.open if self.rng.random() < 0.5 else self.lab.open_plain
            self.connection = how(self.db, 5000)
        return self.connection

    def cycle(self):
        connection = self.opened()
        connection.begin_read()
        try:
            self.look(connection)
        finally:
            connection.rollback()
        assert self.lab.touch(self.db)[:15] == b"SQLite format 3"
        connection.exec("BEGIN IMMEDIATE; UPDATE counter SET n = n + 1; COMMIT")
        self.increments += 1
        mode = lab_module.PASSIVE if self.rng.random() < 0.7 else self.rng.randrange(1, 4)
        connection.checkpoint(mode)
        if self.rng.random() < 0.2:
            second = self.lab.open(self.db, 5000)
            second.begin_read()
            second.rollback()
            second.close()
        if self.rng.random() < 0.3:
            self.close()
        self.cycles += 1

    def look(self, connection):
        """While the mark is held the log keeps its salts and the snapshot its content."""
        before = self.log_salts() if self.stands_on_the_log() else None
        head = connection.query("SELECT max(id) FROM chain")
        links = connection.query(
            "SELECT a.id || ' ' || a.writer || ' ' || hex(a.payload) || ' ' || hex(a.hash) || ' ' || hex(b.hash)"
            " FROM chain a JOIN chain b ON b.id = a.id - 1 WHERE a.id > (SELECT max(id) - 50 FROM chain)"
        )
        for line in links:
            number, writer, payload, found, previous = line.split(" ")
            expected = link(bytes.fromhex(previous), int(number), writer, bytes.fromhex(payload))
            assert bytes.fromhex(found) == expected, f"broken link {number}"
        assert connection.query("SELECT max(id) FROM chain") == head, "the snapshot moved"
        if before is not None:
            assert self.log_salts() == before, "the log was restarted under a read mark"
            assert any(self.stands_on_the_log() for _ in range(LOOKS)), "the read mark is gone"
            self.pinned += 1

    def stands_on_the_log(self):
        """Whether our mark stands on the log. When all of it is copied, SQLite reads the database file alone, under
        mark 0, and the log may begin anew. The kernel's list is read in pieces and can miss a lock, but never shows
        one that is not there."""
        marks = [first for kind, _, first, _ in witness.locks(self.db + "-shm") if kind == "OFDLCK"]
        return not {"124", "125", "126", "127"}.isdisjoint(marks)

    def log_salts(self):
        return read_head(self.db + "-wal")[16:24]

    def close(self):
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.close()

    def run(self, end, failed):
        try:
            while time.monotonic() < end and not failed.is_set():
                try:
                    self.cycle()
                except lab_module.LabError as error:
                    if error.code != lab_module.BUSY:
                        raise
            self.close()
            if self.staying is not None:
                self.staying.close()
        except (lab_module.LabError, AssertionError, OSError) as error:
            failed.set()
            return f"engine: {type(error).__name__} {error}"
        return None


def read_head(path):
    with open(path, "rb") as file:
        return file.read(32)


def host(db, log, seconds, reopen, isolate, stays):
    end, failed = time.monotonic() + seconds, threading.Event()
    results = {}
    door = FREELY if stays else IN_TURN

    def writer(name):
        results[name] = write_until(db, f"{log}.{name}", name, end, reopen, failed, door)

    engine = Engine(db, isolate, stays)
    threads = [threading.Thread(target=writer, args=(f"host{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    error = engine.run(end, failed)
    for thread in threads:
        thread.join()
    errors = [e for e in (error, *(r[1] for r in results.values())) if e]
    engine.lab.sweep()
    return {
        "errors": errors, "increments": engine.increments, "cycles": engine.cycles, "pinned": engine.pinned,
        "pool": engine.lab.pool(),
    }


def verdict(db, log, report):
    """Every way in which the database differs from what was acknowledged."""
    problems = []
    connection = sqlite3.connect(db)
    try:
        problems += [f"integrity: {r}" for (r,) in connection.execute("PRAGMA integrity_check(3)") if r != "ok"]
        previous, writers = None, {}
        for number, writer, payload, found in connection.execute("SELECT * FROM chain ORDER BY id"):
            if previous is not None and found != link(previous, number, writer, payload):
                problems.append(f"broken link {number}")
            previous = found
            writers[number] = writer
        entries = set(connection.execute("SELECT id, writer FROM entries"))
        if entries != {(n, w) for n, w in writers.items() if w != "root"}:
            problems.append("the index and the chain differ")
        counter = connection.execute("SELECT n FROM counter").fetchone()[0]
        if report is not None and counter != report["increments"]:
            problems.append(f"the engine committed {report['increments']} times, the counter says {counter}")
    except sqlite3.DatabaseError as error:
        return [*problems, str(error)], 0
    acknowledged = {}
    for name in ("host0", "host1", "other"):
        for line in pathlib.Path(f"{log}.{name}").read_text(encoding="ascii").split():
            if int(line) in acknowledged:
                problems.append(f"{line} acknowledged twice")
            acknowledged[int(line)] = name
    lost = [number for number, name in acknowledged.items() if writers.get(number) != name]
    if lost:
        problems.append(f"{len(lost)} acknowledged transactions lost")
    return problems, len(acknowledged)


def prepare(folder):
    db, log = str(folder / "app.db"), str(folder / "log")
    connection = sqlite3.connect(db)
    connection.executescript(SCHEMA)
    connection.close()
    return db, log


def kill_rounds(folder, rounds, reopen):
    """Kills host and engine at a random moment, several times, while the other process goes on."""
    db, log = prepare(folder)
    rng = random.Random("kill")
    command = [sys.executable, __file__]
    writer = subprocess.Popen([*command, "writer", db, log, "3600", str(reopen)])
    try:
        for _ in range(rounds):
            started = subprocess.Popen(
                [*command, "host", db, log, "3600", str(reopen), "1", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            wait_for_growth(f"{log}.host0", started)
            # Not a wait for anything: the moment of the kill is what varies.
            time.sleep(rng.random() * 1.5)
            if started.poll() is not None:
                return [f"host ended by itself: {started.stderr.read().decode()}"], 0
            started.kill()
            started.wait()
        wait_for_growth(f"{log}.other", writer)
    finally:
        writer.kill()
        writer.wait()
    return verdict(db, log, None)


def wait_for_growth(log, process, seconds=30):
    path = pathlib.Path(log)

    def size():
        return path.stat().st_size if path.exists() else 0

    before, end = size(), time.monotonic() + seconds
    while size() == before and process.poll() is None:
        assert time.monotonic() < end, f"no commit within {seconds} s"
        time.sleep(0.02)


def run(folder, seconds, reopen, isolate=True, stays=False):
    """Runs the load and returns problems and what was done. `stays`: the engine never leaves the database."""
    db, log = prepare(folder)
    arguments = [db, log, str(seconds), str(reopen)]
    command = [sys.executable, "-X", "faulthandler", __file__]
    writer = subprocess.Popen([*command, "writer", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        # Where nothing is isolated, the host may be gone before the other process has begun.
        wait_for_growth(f"{log}.other", writer)
        started = subprocess.run(
            [*command, "host", *arguments, str(int(isolate)), str(int(stays))],
            capture_output=True, text=True, timeout=seconds + 120, check=False,
        )
    finally:
        if isolate:
            other = json.loads(writer.communicate(timeout=seconds + 120)[0])
        else:
            writer.kill()
            writer.wait()
            other = {"error": None}
    if started.returncode != 0:
        return [f"host ended with {started.returncode}: {started.stderr[-2000:]}"], {}
    report = json.loads(started.stdout)
    problems, report["acknowledged"] = verdict(db, log, report)
    return [*report["errors"], *([other["error"]] if other["error"] else []), *problems], report


if __name__ == "__main__":
    what, database, log_file, duration, every = sys.argv[1:6]
    if what == "host":
        print(json.dumps(host(database, log_file, float(duration), int(every), sys.argv[6] == "1", sys.argv[7] == "1")))
    else:
        finish = time.monotonic() + float(duration)
        done, problem = write_until(database, f"{log_file}.other", "other", finish, int(every), threading.Event())
        print(json.dumps({"count": done, "error": problem}))
