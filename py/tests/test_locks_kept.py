"""No call of the package, failing ones included, drops a lock of the host.

The host holds a lock of its process on a byte of the database and one on a byte of ``-shm`` that SQLite never
uses. Closing any descriptor of such a file, anywhere in the process, would drop it; whether it is still there is
asked of another process after every call.
"""

from __future__ import annotations

from pathlib import Path

from support import create, free_port, run

PROGRAM = """
    import fcntl, os, pathlib, struct, time
    import replicate
    from support import connect, insert
    sys.path.insert(0, sys.argv.pop())
    import witness

    folder, port = pathlib.Path(sys.argv[1]), sys.argv[2]
    db, shm = folder / "app.db", folder / "app.db-shm"
    url, other = f"file://{folder}/store", f"file://{folder}/other"
    nowhere = {"url": f"s3://bucket/p?endpoint=http://127.0.0.1:{port}", "access_key": "a", "secret_key": "b"}
    host = connect(db)
    host.execute("BEGIN")
    host.execute("SELECT * FROM t").fetchall()
    canaries = {db: witness.DB_CANARY, shm: witness.SHM_CANARY}
    held = {}

    def hold(path):
        held[path] = os.open(path, os.O_RDWR)  # never closed: that would drop the lock
        fcntl.fcntl(held[path], fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, canaries[path], 1, 0))

    def lost():
        return [path.name for path, start in canaries.items() if not witness.ask("canary", path, start)]

    calls = 0

    def kept(what, call, refused=None):
        global calls
        calls += 1
        try:
            answer = call()
            assert refused is None, f"{what}: not refused"
        except replicate.ReplicateError as error:
            assert refused is not None and isinstance(error, refused), f"{what}: {error!r}"
            answer = error
        assert lost() == [], f"{what}: {lost()}"
        return answer

    def again():
        # Another snapshot, so that what was written can be checkpointed.
        host.execute("ROLLBACK")
        insert(host)
        host.execute("BEGIN")
        host.execute("SELECT * FROM t").fetchall()

    for path in canaries:
        hold(path)
    assert lost() == []
    kept("restore of nothing", lambda: replicate.restore(folder / "copy.db", url=url), replicate.NoBackupError)
    kept("ensure_exists", lambda: replicate.ensure_exists(db, url=url))
    kept("start without a place", lambda: replicate.start(db), replicate.ConfigError)
    kept("start on the log", lambda: replicate.start(f"{db}-wal", url=url), replicate.ConfigError)
    kept("start on the index", lambda: replicate.start(shm, url=url), replicate.ConfigError)
    kept("start on a folder", lambda: replicate.start(folder, url=url), replicate.ConfigError)
    (folder / "text").write_text("no database" * 20)
    kept("start on no database", lambda: replicate.start(folder / "text", url=other), replicate.DatabaseError)
    with_bad_store = kept("start with a store out of reach", lambda: replicate.start(db, **nowhere))
    kept("sync that cannot", lambda: with_bad_store.sync(timeout=0.5), replicate.SyncTimeoutError)
    kept("stop that cannot ship", lambda: with_bad_store.stop(timeout=0.5))

    for round_ in range(2):
        replicator = kept("start", lambda: replicate.start(db, url=url, checkpoint_pages=64))
        kept("start again", lambda: replicate.start(db, url=url))
        kept("start elsewhere", lambda: replicate.start(db, url=other), replicate.ConfigError)
        status = kept("sync", lambda: replicator.sync(timeout=30))
        for _ in range(100):
            again()
        kept("sync after checkpoints", lambda: replicator.sync(timeout=30))
        kept("sync_status", replicator.sync_status)
        kept("wait", lambda: replicator.wait(status.local_txid, timeout=30))
        kept("wait in vain", lambda: replicator.wait(1 << 40, timeout=0.1), replicate.SyncTimeoutError)
        kept("events", lambda: replicator.events().next(timeout=0))
        kept("ltx", lambda: replicate.ltx(url=url))
        kept("restore beside", lambda: replicate.restore(folder / f"copy{round_}", url=url, integrity_check="full"))
        kept("restore over a copy", lambda: replicate.restore(folder / f"copy{round_}", url=url, overwrite=True))
        kept("restore onto it", lambda: replicate.restore(db, url=url), replicate.ExistsError)
        kept("restore over it", lambda: replicate.restore(db, url=url, overwrite=True), replicate.BusyError)
        kept("ensure_exists of it", lambda: replicate.ensure_exists(db, url=url))
        assert kept("stop", lambda: replicator.stop(timeout=30)).flushed
        kept("stop again", replicator.stop)
        kept("sync after stop", lambda: replicator.sync(timeout=1), replicate.ClosedError)
    with kept("start for a block", lambda: replicate.start(db, url=url)) as replicator:
        again()
    kept("end of the block", lambda: None)
    # The control: what is asked notices a descriptor that is closed.
    for path in canaries:
        open(path, "rb").close()
    assert sorted(lost()) == ["app.db", "app.db-shm"]
    print(calls)
"""


def test_no_call_drops_a_lock_of_the_host(tmp_path: Path) -> None:
    create(tmp_path / "app.db")
    witness = Path(__file__).parents[2] / "core" / "locklab"
    done = run(PROGRAM, tmp_path, free_port(), witness, seconds=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert int(done.stdout) > 40
