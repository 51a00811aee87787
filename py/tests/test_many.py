"""A process with many databases."""

from __future__ import annotations

from pathlib import Path

import support
from server import Server

COUNT = 150


def test_many_databases_start_at_once_with_few_descriptors(server: Server, tmp_path: Path) -> None:
    for number in range(COUNT):
        support.create(tmp_path / f"{number}.db")
    options = server.options("")
    states = support.run_well(
        """
        import os, resource, replicate
        folder, count, url, access_key, secret_key = sys.argv[1:]
        def start(number, **options):
            return replicate.start(
                f"{folder}/{number}.db",
                url=url.replace("/?", f"/{number}?"), access_key=access_key, secret_key=secret_key, **options,
            )
        opened = lambda: len(os.listdir("/proc/self/fd"))
        # What one database keeps open, without its connections: those close when they have nothing to do.
        before = opened()
        with start("0") as first:
            first.sync(timeout=30)
            each = opened() - before
        # 256 requests to the server at a time, and as many sockets are about to close.
        limit = before + int(count) * each + 600
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        replicators = [start(number) for number in range(int(count))]
        for replicator in replicators:
            replicator.sync(timeout=60)
        print({replicator.sync_status().state for replicator in replicators})
        """,
        tmp_path, COUNT, options["url"], options["access_key"], options["secret_key"],
    )
    assert states == "{'streaming'}"
