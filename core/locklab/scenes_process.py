"""Scenes about what belongs to the process: descriptors, forks, replaced files. See `scenes`."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

from lab import BUSY, CORRUPT, FORKED, TRUNCATE, UNSUPPORTED, Lab, LabError, code_of
from scenes import all_there, equal, hold, host, make, scene, shm, wal
from witness import DB_CANARY, ask

SYS_FORK = {"x86_64": 57}


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def wait_for(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def in_child(action):
    """Runs an action in a forked child and returns what it returned, as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = repr(action())
        except BaseException as error:  # the child must not run the parent's clean-up
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


@scene
def i7_bounded_descriptors(folder):
    lab = Lab()
    db = make(folder, "WAL")
    mine = host(db)
    mine.execute("INSERT INTO t VALUES ('host')")
    start = open_descriptors()
    for _ in range(500):
        engine = lab.open(db)
        engine.begin_read()
        lab.touch(db)
        engine.rollback()
        engine.close()
    grown = open_descriptors() - start
    # Two files, an owner and one to use for each, one more for the raw read, and /dev/null for forks.
    assert grown <= 7, f"{grown} descriptors more, pool {lab.pool()}"
    mine.close()
    lab.sweep()
    equal(lab.pool(), (0, 0, 0))
    all_there(db, "host")


@scene
def i7_recreated_shm(folder):
    lab = Lab()
    db = make(folder, "WAL")

    def round_():
        mine, engine = host(db), lab.open(db)
        mine.execute("INSERT INTO t VALUES ('host')")
        engine.begin_read()
        engine.rollback()
        engine.close()
        mine.close()
        assert not os.path.exists(shm(db))

    round_(), round_()
    start = open_descriptors()
    for _ in range(200):
        round_()
    equal(open_descriptors(), start)


@scene
def i8_replaced_database(folder):
    lab = Lab()
    db, other = make(folder, "WAL"), make(folder, "WAL", "other.db")
    mine, engine = host(db), lab.open(db)
    mine.execute("INSERT INTO t VALUES ('old')")
    engine.begin_read()
    engine.rollback()
    canary = hold(db, DB_CANARY)
    os.rename(db, folder / "old.db")
    for end in ("-wal", "-shm"):
        os.rename(db + end, str(folder / "old.db") + end)
    os.rename(other, db)
    engine.close()
    engine = lab.open(db)
    equal(engine.query("SELECT who FROM t"), ["first"])
    engine.exec("INSERT INTO t VALUES ('new')")
    assert ask("canary", folder / "old.db", DB_CANARY), "the host's lock on the old file"
    mine.execute("INSERT INTO t VALUES ('older')")
    files = lab.pool()[0]
    lab.sweep()
    equal(lab.pool()[0], files)
    os.close(canary)
    mine.close()
    lab.sweep()
    equal(lab.pool()[0], files - 2)
    all_there(db, "new")
    all_there(str(folder / "old.db"), "old", "older")


@scene
def i8_nameless_files_go(folder):
    lab = Lab()
    for number in range(10):
        db = make(folder, "WAL", f"{number}.db")
        engine = lab.open_plain(db)
        engine.query("SELECT who FROM t")
        engine.close()
        os.unlink(db)
    assert lab.pool()[0] <= 3, f"pool {lab.pool()}"


@scene
def replace_is_refused_while_used(folder):
    lab = Lab()
    for mode in ("WAL", "DELETE"):
        db = make(folder, mode, f"{mode}.db")
        lab.replace_check(db)
        mine = host(db)
        mine.execute("BEGIN")
        mine.execute("SELECT who FROM t").fetchall()
        equal(code_of(lab.replace_check, db), BUSY)
        mine.close()
        engine = lab.open(db)
        engine.begin_read()
        equal(code_of(lab.replace_check, db), BUSY)
        engine.close()
        with lab.pin(db):
            equal(code_of(lab.replace_check, db), BUSY)
        lab.replace_check(db)
        equal(ask("exclusive", db), "ok")
    lab.replace_check(folder / "missing.db")
    lab.sweep()
    equal(lab.pool(), (0, 0, 0))


@scene
def check_leaves_nothing_behind(folder):
    lab = Lab()
    db = make(folder, "WAL", "a#b?c%41 ä.db")
    before = sorted(os.listdir(folder))
    lab.check(db)
    lab.check(db, full=True)
    equal(sorted(os.listdir(folder)), before)
    equal(lab.pool(), (0, 0, 0))
    with open(db, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 100)
    equal(code_of(lab.check, db), CORRUPT)


@scene
def i9_child_cannot_hurt_parent(folder):
    lab = Lab()
    db = make(folder, "WAL")
    mine = host(db)
    mine.execute("INSERT INTO t VALUES ('before')")
    mine.close()
    engine = lab.open(db)
    engine.begin_read()
    pinned = lab.pin(db)

    def child():
        codes = [code_of(engine.rollback), code_of(engine.exec, "INSERT INTO t VALUES ('child')")]
        codes.append(code_of(pinned.read, 0, 16))
        equal([code for code in codes[1:] if code == 0], [])
        pinned.close()
        code_of(engine.close)
        return lab.raw("forked"), code_of(lab.open, db), code_of(lab.touch, db)

    equal(in_child(child), repr((1, FORKED, FORKED)))
    equal(ask("write", db, "after"), "ok")
    equal(ask("checkpoint", db, "TRUNCATE")[0], 1)
    equal(engine.query("SELECT who FROM t"), ["first", "before"])
    engine.rollback()
    equal(ask("checkpoint", db, "TRUNCATE")[0], 0)
    equal(lab.raw("forked"), 0)
    all_there(db, "before", "after")


@scene
def i9_child_of_idle_parent_may_start(folder):
    lab = Lab()
    db = make(folder, "WAL")
    engine = lab.open(db)
    engine.begin_read()
    engine.rollback()
    engine.close()

    def child():
        equal(lab.raw("forked"), 0)
        own = lab.open(db)
        own.begin_read()
        equal(ask("write", db, "other"), "ok")
        equal(ask("checkpoint", db, "TRUNCATE")[0], 1)
        own.rollback()
        own.exec("INSERT INTO t VALUES ('child')")
        own.close()
        return in_child(lambda: lab.raw("forked"))

    equal(in_child(child), repr("0"))
    all_there(db, "other", "child")


@scene
def i9_registered_descriptor_is_let_go(folder):
    lab = Lab()
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    inode = os.fstat(file).st_ino
    lab.call("register_for_fork", file, 1)
    equal(in_child(lambda: os.fstat(file).st_ino == inode), "False")
    lab.call("register_for_fork", file, 0)
    equal(in_child(lambda: os.fstat(file).st_ino == inode), "True")


def parent_dies(folder, fork):
    """A parent with a read mark is killed while its child lives on. Returns whether the log can be cut then."""
    db = make(folder, "WAL")
    holder = subprocess.Popen(
        [sys.executable, __file__, "hold", db, fork], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(holder.stdout.readline())
    equal(ask("write", db), "ok")
    equal(ask("checkpoint", db, "TRUNCATE")[0], 1)
    holder.kill()
    holder.wait()
    os.kill(child, 0)
    result = ask("checkpoint", db, "TRUNCATE")[0] == 0 and ask("locks", db) == []
    os.kill(child, signal.SIGKILL)
    return result


def hold_and_fork(db, fork):
    lab = Lab()
    engine = lab.open(db)
    engine.begin_read()
    child = os.fork() if fork == "handled" else ctypes.CDLL(None).syscall(SYS_FORK[os.uname().machine])
    if child == 0:
        signal.pause()
    print(child, flush=True)
    sys.stdin.read()


@scene
def i9_locks_die_with_parent(folder):
    equal(parent_dies(folder, "handled"), True)


@scene
def negative_fork_without_handler(folder):
    """A fork behind the C library's back: the locks must be seen to stay, else the scene above is blind."""
    if os.uname().machine in SYS_FORK:
        equal(parent_dies(folder, "raw"), False)


@scene
def i9_prefork_churn(folder):
    """An engine in the master, workers that come and go and write."""
    lab = Lab()
    db = make(folder, "WAL")
    stop, cycles = threading.Event(), [0]

    def engine():
        while not stop.is_set():
            connection = lab.open(db, 5000)
            connection.begin_read()
            connection.rollback()
            connection.checkpoint(TRUNCATE if cycles[0] % 3 else 0)
            connection.close()
            cycles[0] += 1

    def worker(name):
        own = host(db)
        own.execute("PRAGMA busy_timeout = 10000")
        for number in range(50):
            own.execute("INSERT INTO t VALUES (?)", (f"{name}.{number}",))
        own.close()

    thread = threading.Thread(target=engine)
    thread.start()
    expected = []
    for round_ in range(10):
        children = []
        for index in range(3):
            name = f"{round_}.{index}"
            expected += [f"{name}.{number}" for number in range(50)]
            child = os.fork()
            if child == 0:
                try:
                    worker(name)
                except BaseException as error:
                    print(error, file=sys.stderr)
                    os._exit(1)
                os._exit(0)
            children.append(child)
        equal([os.waitpid(child, 0)[1] for child in children], [0, 0, 0])
    stop.set()
    thread.join()
    assert cycles[0] > 10, f"the engine ran {cycles[0]} times"
    all_there(db, *expected)


@scene
def i10_closed_by_stranger(folder):
    lab = Lab()
    db = make(folder, "WAL")
    engine = lab.open(db)
    engine.exec("INSERT INTO t VALUES ('engine')")
    pinned = lab.pin(db)
    os.closerange(3, 1024)
    victims = []
    for number in range(30):
        path = folder / f"victim{number}"
        path.write_bytes(b"victim" * 1000)
        victims.append((path, os.open(path, os.O_RDWR)))
    # Once only: SQLite takes the failing lock for a busy one and tries for ten seconds.
    equal(code_of(engine.exec, "INSERT INTO t VALUES ('lost')"), UNSUPPORTED)
    assert code_of(pinned.read, 0, 16) != 0
    equal(lab.raw("closed_externally"), 1)
    pinned.close()
    code_of(engine.close)
    lab.sweep()
    damaged = [path for path, fd in victims if os.pread(fd, 9000, 0) != b"victim" * 1000]
    equal(damaged, [])
    all_there(db, "engine")


@scene
def i11_without_standard_streams(folder):
    lab = Lab()
    db = make(folder, "WAL")
    for fd in range(3):
        os.close(fd)
    try:
        engine = lab.open(db)
        engine.exec("INSERT INTO t VALUES ('engine')")
        streams = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
        engine.close()
    except LabError as error:
        streams = [str(error)]
    (folder / "streams").write_text(repr(streams))
    os._exit(0 if streams == ["/dev/null"] * 3 else 1)


def kernel_stays_free(lab, folder, how, millis=1500):
    path = folder / f"race{how}"
    shutil.copy(sys.executable, path)
    closes, locks, vanished = lab.race(path, millis, how)
    assert closes > 1000 and locks > 1000, f"the race did not happen: {closes} closes, {locks} locks"
    return vanished


@scene
def i16_guarded_close(folder):
    lab = Lab()
    equal(kernel_stays_free(lab, folder, 0), 0)
    equal(lab.pool()[1], 0)


@scene
def negative_i16_plain_close(folder):
    assert kernel_stays_free(Lab(), folder, 1) > 0


@scene
def negative_i16_owner_closed_first(folder):
    assert kernel_stays_free(Lab(), folder, 2) > 0


@scene
def negative_sloppy_read_drops_locks(folder):
    """The harness must notice a single stray close."""
    lab = Lab()
    db = make(folder, "WAL")
    mine = host(db)
    mine.execute("BEGIN IMMEDIATE")
    hold(db, DB_CANARY)
    lab.sloppy_touch(db)
    lab.sloppy_touch(shm(db))
    equal(ask("canary", db, DB_CANARY), False)
    equal(ask("write", db, "thief"), "ok")


@scene
def negative_without_isolation(folder):
    """The stock file layer: the host's locks vanish and the engine writes through its write lock."""
    lab = Lab(isolate=False)
    db = make(folder, "WAL")
    mine = host(db)
    hold(db, DB_CANARY)
    mine.execute("BEGIN IMMEDIATE")
    mine.execute("INSERT INTO t VALUES ('host')")
    engine = lab.open_plain(db)
    engine.exec("INSERT INTO t VALUES ('engine')")
    engine.close()
    equal(ask("canary", db, DB_CANARY), False)
    assert not os.path.exists(wal(db)), "it believed to be the last"


if __name__ == "__main__":
    hold_and_fork(sys.argv[2], sys.argv[3])
