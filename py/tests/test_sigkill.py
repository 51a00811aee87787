"""SIGKILL at any moment loses nothing that ``sync`` has acknowledged.

``REPLICATE_KILL_ROUNDS`` sets how often (default 5).
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import chain
from support import kill, line_of, run_well, spawn

import replicate

ROUNDS = int(os.environ.get("REPLICATE_KILL_ROUNDS", "5"))

PROGRAM = """
    import os, threading
    import chain, replicate
    db, url, notes, stored, first = sys.argv[1:]
    replicator = replicate.start(db, url=url, sync_interval="50ms", checkpoint_pages=64)
    threading.Thread(target=chain.write_on, args=(db, "app", notes, lambda: False, int(first)), daemon=True).start()
    host = chain.connect(db)
    print("ready", flush=True)
    with open(stored, "ab", buffering=0) as file:
        while True:
            last = host.execute("SELECT coalesce(max(id), 0) FROM chain").fetchone()[0]
            replicator.sync(timeout=60)
            file.write(b"%d\\n" % last)
"""

RESTART = """
    import replicate
    with replicate.start(sys.argv[1], url=sys.argv[2]) as replicator:
        assert replicator.sync(timeout=60).in_sync
"""


def test_what_sync_acknowledged_survives_every_kill(tmp_path: Path) -> None:
    db, url = chain.create(tmp_path / "app.db"), f"file://{tmp_path}/store"
    notes, stored, copy = tmp_path / "notes", tmp_path / "stored", tmp_path / "copy.db"
    pause = threading.Event()
    for round_ in range(ROUNDS):
        rows = chain.read(db)
        process = spawn(PROGRAM, db, url, notes, stored, len(rows) + 1)
        try:
            assert line_of(process) == "ready"
            pause.wait(random.uniform(0.05, 1.5))
            assert process.poll() is None, process.communicate()
        finally:
            kill(process)
        promised = max((int(line) for line in stored.read_text().splitlines()), default=0) if stored.exists() else 0
        rows = chain.read(db)
        told = chain.acknowledged(notes)
        assert all(id_ <= len(rows) for id_, _ in told), f"round {round_}: the database itself has lost rows"
        if promised:
            replicate.restore(copy, url=url, overwrite=True, integrity_check="full")
            assert promised <= len(chain.read(copy)), f"round {round_}: before the restart"
            assert chain.read(copy) == rows[: len(chain.read(copy))]
        run_well(RESTART, db, url)
        replicate.restore(copy, url=url, overwrite=True, integrity_check="full")
        assert chain.read(copy) == rows, f"round {round_}: after the restart"
