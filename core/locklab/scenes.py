"""What two copies of SQLite in one process must not do to each other, one scene per promise.

Run as a program with the name of a scene and an empty folder, because the override can be installed once per
process. The host is this process's `sqlite3`, the engine is the library of this crate, the judge is the witness.
"""

import fcntl
import os
import pathlib
import sqlite3
import sys

from lab import (
    BUSY, CONFIG, CORRUPT, DATABASE, DISK, FULL, INTERNAL, PASSIVE, RESTART, TRUNCATE, UNSUPPORTED, Lab, LabError, code_of,
)
from witness import DB_CANARY, SHM_CANARY, ask

SCENES = {}
CHECKPOINTS = {"PASSIVE": PASSIVE, "FULL": FULL, "RESTART": RESTART, "TRUNCATE": TRUNCATE}


def scene(function):
    SCENES[function.__name__] = function
    return function


def equal(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


def make(folder, mode, name="app.db"):
    db = str(folder / name)
    ask("make", db, mode)
    return db


def host(db):
    return sqlite3.connect(db, timeout=0, isolation_level=None)


def shm(db):
    return db + "-shm"


def wal(db):
    return db + "-wal"


def hold(path, byte):
    """A classic lock of this process on a byte that SQLite never locks; its descriptor stays open for good."""
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    return fd


def host_is_busy(connection, sql):
    try:
        connection.execute(sql)
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    return False


def all_there(db, *expected):
    found = ask("rows", db)
    equal(found["integrity"], "ok")
    equal(sorted(found["rows"]), sorted(["first", *expected]))


def open_and_write(lab, db, who="engine"):
    connection = lab.open_plain(db)
    try:
        connection.exec(f"INSERT INTO t VALUES ('{who}')")
    finally:
        connection.close()


def write_lock_stops_engine(folder, mode, begin, engine_reads):
    lab = Lab()
    db = make(folder, mode)
    mine = host(db)
    mine.execute(begin)
    mine.execute("INSERT INTO t VALUES ('host')")
    equal(ask("write", db), "busy")
    engine = lab.open_plain(db)
    equal(code_of(engine.query, "SELECT who FROM t"), 0 if engine_reads else BUSY)
    equal(code_of(engine.exec, "INSERT INTO t VALUES ('thief')"), BUSY)
    engine.close()
    equal(ask("write", db, "thief"), "busy")
    mine.execute("COMMIT")
    open_and_write(lab, db)
    equal(ask("write", db), "ok")
    all_there(db, "host", "engine", "witness")


@scene
def a1_immediate(folder):
    write_lock_stops_engine(folder, "DELETE", "BEGIN IMMEDIATE", engine_reads=True)


@scene
def a1_exclusive(folder):
    write_lock_stops_engine(folder, "DELETE", "BEGIN EXCLUSIVE", engine_reads=False)


@scene
def a2_immediate(folder):
    write_lock_stops_engine(folder, "WAL", "BEGIN IMMEDIATE", engine_reads=True)


@scene
def a2_exclusive(folder):
    write_lock_stops_engine(folder, "WAL", "BEGIN EXCLUSIVE", engine_reads=True)


def raw_read_drops_nothing(folder, lab, touch):
    db = make(folder, "WAL")
    mine = host(db)
    mine.execute("BEGIN IMMEDIATE")
    mine.execute("INSERT INTO t VALUES ('host')")
    before = [ask("locks", path) for path in (db, shm(db))]
    assert all(before), "the host holds locks on both files"
    equal(touch(lab, db)[:15], b"SQLite format 3")
    touch(lab, shm(db))
    equal([ask("locks", path) for path in (db, shm(db))], before)
    equal(ask("write", db, "thief"), "busy")
    mine.execute("COMMIT")
    equal(ask("write", db), "ok")
    all_there(db, "host", "witness")


@scene
def a3_a4_raw_read(folder):
    raw_read_drops_nothing(folder, Lab(), Lab.touch)


@scene
def a3_a4_raw_read_with_shared_copy(folder):
    """A program that shares our SQLite does not isolate it; the pool must still close nothing."""
    raw_read_drops_nothing(folder, Lab(isolate=False), Lab.touch)


@scene
def b_read_mark_pins_log(folder):
    lab = Lab()
    db = make(folder, "WAL")
    mine = host(db)
    mine.execute("INSERT INTO t VALUES ('host')")
    engine = lab.open(db)
    engine.begin_read()
    mine.execute("INSERT INTO t VALUES ('later')")
    size, salts = os.path.getsize(wal(db)), ask("head", wal(db))[32:48]
    for mode in ("RESTART", "TRUNCATE"):
        equal(ask("checkpoint", db, mode)[0], 1)
        equal(mine.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0], 1)
    mine.execute("INSERT INTO t VALUES ('latest')")
    assert os.path.getsize(wal(db)) >= size
    equal(ask("head", wal(db))[32:48], salts)
    equal(engine.query("SELECT who FROM t"), ["first", "host"])
    engine.rollback()
    equal(ask("checkpoint", db, "TRUNCATE")[0], 0)
    equal(os.path.getsize(wal(db)), 0)
    all_there(db, "host", "later", "latest")


@scene
def b_read_mark_of_empty_schema_pins_log(folder):
    lab = Lab()
    db = str(folder / "empty.db")
    mine = host(db)
    mine.execute("PRAGMA journal_mode = WAL")
    engine = lab.open(db)
    engine.begin_read()
    mine.execute("PRAGMA user_version = 1")
    equal(ask("checkpoint", db, "TRUNCATE")[0], 1)
    engine.rollback()
    equal(ask("checkpoint", db, "TRUNCATE")[0], 0)


def one_writer(folder, mode):
    lab = Lab()
    db = make(folder, mode)
    mine, engine = host(db), lab.open(db)
    mine.execute("BEGIN IMMEDIATE")
    equal(code_of(engine.begin_write), BUSY)
    engine.rollback()
    equal(ask("write", db, "thief"), "busy")
    mine.execute("ROLLBACK")
    engine.begin_write()
    assert host_is_busy(mine, "BEGIN IMMEDIATE")
    equal(ask("write", db, "thief"), "busy")
    engine.rollback()
    equal(ask("write", db), "ok")
    mine.execute("INSERT INTO t VALUES ('host')")
    engine.exec("INSERT INTO t VALUES ('engine')")
    all_there(db, "host", "engine", "witness")


@scene
def c_one_writer_wal(folder):
    one_writer(folder, "WAL")


@scene
def c_one_writer_rollback(folder):
    one_writer(folder, "DELETE")


@scene
def c_engine_exclusive_stops_host_reads(folder):
    lab = Lab()
    db = make(folder, "DELETE")
    mine, engine = host(db), lab.open_plain(db)
    engine.exec("BEGIN EXCLUSIVE")
    assert host_is_busy(mine, "SELECT * FROM t")
    equal(ask("read", db), "busy")
    engine.exec("COMMIT")
    equal(mine.execute("SELECT who FROM t").fetchall(), [("first",)])


def identities(db):
    return [os.stat(path).st_ino for path in (wal(db), shm(db))]


@scene
def d_host_closes_last(folder):
    lab = Lab()
    db = make(folder, "WAL")
    mine, engine = host(db), lab.open_plain(db)
    mine.execute("INSERT INTO t VALUES ('host')")
    engine.query("SELECT who FROM t")
    before = identities(db)
    mine.close()
    equal(identities(db), before)
    engine.exec("INSERT INTO t VALUES ('engine')")
    equal(ask("write", db), "ok")
    equal(identities(db), before)
    equal(len(host(db).execute("SELECT who FROM t").fetchall()), 4)
    all_there(db, "host", "engine", "witness")


@scene
def d_engine_closes_last(folder):
    lab = Lab()
    db = make(folder, "WAL")
    mine, engine = host(db), lab.open_plain(db)
    mine.execute("INSERT INTO t VALUES ('host')")
    engine.exec("INSERT INTO t VALUES ('engine')")
    before = identities(db)
    engine.close()
    equal(identities(db), before)
    equal(engine_locks(db), [])
    mine.execute("INSERT INTO t VALUES ('later')")
    equal(ask("write", db), "ok")
    equal(identities(db), before)
    mine.close()
    assert not os.path.exists(wal(db)), "the engine is gone, so the host's last close cleans up"
    all_there(db, "host", "engine", "later", "witness")


@scene
def d_engine_leaves_log_behind(folder):
    """The engine's own set-up: even as the last of all it neither checkpoints nor removes the log."""
    lab = Lab()
    db = make(folder, "WAL")
    mine, engine = host(db), lab.open(db)
    mine.execute("INSERT INTO t VALUES ('host')")
    engine.begin_read()
    engine.rollback()
    mine.close()
    size = os.path.getsize(wal(db))
    assert size > 0
    engine.close()
    equal(os.path.getsize(wal(db)), size)
    all_there(db, "host")


def stranger_comes_and_goes(db, lab, *dropped):
    """A stray close has dropped the host's locks on some files; then somebody else opens, writes and closes."""
    mine = host(db)
    mine.execute("INSERT INTO t VALUES ('host')")
    for path in dropped:
        lab.sloppy_touch(path)
    before = identities(db)
    equal(ask("write", db), "ok")
    return mine, before


@scene
def d_engine_keeps_the_log_of_a_host_that_lost_its_locks(folder):
    lab = Lab()
    db = make(folder, "WAL")
    engine = lab.open(db)
    engine.query("SELECT who FROM t")
    mine, before = stranger_comes_and_goes(db, lab, db, shm(db))
    equal(identities(db), before)
    mine.execute("INSERT INTO t VALUES ('later')")
    all_there(db, "host", "later", "witness")


@scene
def negative_host_that_lost_its_locks_loses_its_log(folder):
    db = make(folder, "WAL")
    mine, _before = stranger_comes_and_goes(db, Lab(), db, shm(db))
    assert not os.path.exists(wal(db)), "the harness is blind"
    mine.close()


@scene
def negative_host_that_lost_its_lock_to_itself_loses_its_log(folder):
    """What two threads of a host that open and close at once do to each other. The stranger's SQLite decides."""
    db = make(folder, "WAL")
    mine, _before = stranger_comes_and_goes(db, Lab(), db)
    equal(os.path.exists(wal(db)), sqlite3.sqlite_version_info >= (3, 51, 0))
    mine.close()


@scene
def d2_attach_keeps_index(folder):
    lab = Lab()
    db = make(folder, "WAL")
    mine = host(db)
    mine.execute("INSERT INTO t VALUES ('host')")
    before = (ask("head", shm(db)), os.stat(shm(db)).st_size, identities(db))
    fd = hold(shm(db), SHM_CANARY)
    engine = lab.open(db)
    equal(engine.query("SELECT who FROM t"), ["first", "host"])
    # The read mark that the reader took is the only thing that may differ; it lies behind the two headers.
    after = (ask("head", shm(db)), os.stat(shm(db)).st_size, identities(db))
    equal((after[0][:192], *after[1:]), (before[0][:192], *before[1:]))
    equal(ask("canary", shm(db), SHM_CANARY), True)
    os.close(fd)


@scene
def i1_canary(folder):
    """No call of the engine, failing ones included, drops a lock of the host."""
    lab = Lab()
    every_call_keeps_canaries(folder, lab)


@scene
def i1_canary_with_shared_copy(folder):
    """Without isolation at least the raw reads and checks must keep them; connections are SQLite's own affair."""
    lab = Lab(isolate=False)
    db = make(folder, "WAL")
    mine = host(db)
    mine.execute("INSERT INTO t VALUES ('host')")
    keeping = Canaries(db)
    for _ in range(3):
        keeping.after(lab.touch, db)
        keeping.after(lab.touch, shm(db))
        keeping.after(lab.sweep)
        keeping.after(lab.replace_check, db, fails=BUSY)
        keeping.after(lab.probe, folder, db)


class Canaries:
    def __init__(self, db):
        self.db = db
        hold(db, DB_CANARY), hold(shm(db), SHM_CANARY)
        self.check("nothing")

    def check(self, what):
        for path, byte in ((self.db, DB_CANARY), (shm(self.db), SHM_CANARY)):
            assert ask("canary", path, byte), f"{what} dropped the host's lock on {path}"

    def after(self, action, *arguments, fails=0):
        name = getattr(action, "__name__", str(action))
        result = None
        try:
            result = action(*arguments)
            code = 0
        except LabError as error:
            code = error.code
        assert code == fails, f"{name}{arguments}: {code}, expected {fails}"
        self.check(name)
        return result


def every_call_keeps_canaries(folder, lab):
    db = make(folder, "WAL")
    mine = host(db)
    mine.execute("INSERT INTO t VALUES ('host')")
    keeping = Canaries(db)
    keeping.after(lab.probe, folder, db)
    keeping.after(lab.touch, db)
    keeping.after(lab.touch, shm(db))
    for opened in (lab.open, lab.open_plain, lab.open):
        engine = keeping.after(opened, db)
        keeping.after(engine.begin_read)
        keeping.after(engine.rollback)
        keeping.after(engine.begin_write)
        keeping.after(engine.rollback)
        keeping.after(engine.exec, "INSERT INTO t VALUES ('engine')")
        keeping.after(engine.exec, "nonsense", fails=INTERNAL)
        for mode in CHECKPOINTS.values():
            keeping.after(engine.checkpoint, mode)
        keeping.after(lab.replace_check, db, fails=BUSY)
        keeping.after(engine.close)
    keeping.after(lab.replace_check, db, fails=BUSY)
    keeping.after(lab.check, db)
    keeping.after(lab.sweep)
    keeping.after(lab.open, folder / "missing.db", fails=DATABASE)
    keeping.after(lab.open, folder, fails=DATABASE)
    keeping.after(lab.open, wal(db), fails=CONFIG)
    keeping.after(lab.pin, folder / "missing.db", fails=DISK)
    keeping.after(lab.pin, folder, fails=DISK)
    keeping.after(lab.pin, "/dev/null", fails=DISK)
    (folder / "noise.db").write_bytes(b"no database at all " * 100)
    keeping.after(lab.open, folder / "noise.db", fails=DATABASE)
    keeping.after(lab.check, folder / "noise.db", fails=CORRUPT)
    keeping.after(lab.probe, folder / "missing", db, fails=DISK)
    elsewhere = "/dev/shm"
    if os.path.isdir(elsewhere) and os.stat(elsewhere).st_dev != os.stat(db).st_dev:
        keeping.after(lab.probe, elsewhere, db, fails=UNSUPPORTED)


def no_lock_stays(folder, mode):
    lab = Lab()
    db = make(folder, mode)
    for round_ in range(3):
        one, two = lab.open_plain(db), lab.open_plain(db)
        one.exec("BEGIN")
        one.query("SELECT who FROM t")
        two.exec("BEGIN")
        two.query("SELECT who FROM t")
        one.exec("COMMIT")
        if mode == "DELETE":
            two.exec("COMMIT")
        one.exec(f"INSERT INTO t VALUES ('one{round_}')")
        if mode == "WAL":
            two.exec("COMMIT")
        two.exec(f"INSERT INTO t VALUES ('two{round_}')")
        equal(ask("exclusive", db), "ok")
        (one if round_ % 2 else two).close()
        equal(ask("write", db, f"between{round_}"), "ok")
        (two if round_ % 2 else one).close()
        equal(ask("locks", db), [])
        equal(ask("exclusive", db), "ok")
    all_there(db, *[f"{who}{round_}" for round_ in range(3) for who in ("one", "two", "between")])


@scene
def i6_no_lock_stays_wal(folder):
    no_lock_stays(folder, "WAL")


@scene
def i6_no_lock_stays_rollback(folder):
    no_lock_stays(folder, "DELETE")


def engine_locks(db):
    """Those of open file descriptions; the host's are of the process."""
    return [lock for path in (db, shm(db)) for lock in ask("locks", path) if lock[0] == "OFDLCK"]


@scene
def i6_pinned_file_keeps_no_lock(folder):
    """A raw reader of `-shm` must not keep the lock that says "connected" when our SQLite has gone."""
    lab = Lab()
    db = make(folder, "WAL")
    mine = host(db)
    mine.execute("INSERT INTO t VALUES ('host')")
    engine = lab.open_plain(db)
    engine.query("SELECT who FROM t")
    with lab.pin(shm(db)), lab.pin(db):
        assert engine_locks(db) != [], "the engine is connected"
        engine.close()
        equal(engine_locks(db), [])
        mine.close()
        assert not os.path.exists(wal(db)), "nobody is connected any more"
    all_there(db, "host")


@scene
def every_call_without_host(folder):
    """All the engine does, with no other SQLite in this process: also run under a tracer."""
    lab = Lab()
    db = make(folder, "WAL")
    lab.probe(folder, db)
    first, second = lab.open(db), lab.open_plain(db)
    first.begin_read()
    second.exec("INSERT INTO t VALUES ('engine')")
    lab.touch(db)
    lab.touch(shm(db))
    equal(second.checkpoint(TRUNCATE)[0], 1)
    first.rollback()
    for mode in CHECKPOINTS.values():
        equal(second.checkpoint(mode)[0], 0)
    first.begin_write()
    first.rollback()
    second.close()
    first.close()
    lab.check(db)
    lab.replace_check(db)
    lab.sweep()
    equal(lab.pool(), (0, 0, 0))
    all_there(db, "engine")


if __name__ == "__main__":
    import scenes_process  # noqa: F401  adds the scenes about descriptors, forks and replaced files
    import scenes

    scenes.SCENES[sys.argv[1]](pathlib.Path(sys.argv[2]))
    print("done")
