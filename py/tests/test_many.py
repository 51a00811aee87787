"""A process with many databases."""

from __future__ import annotations

from pathlib import Path

import support
from server import Server

COUNT = 60


def test_many_databases_start_at_once_with_few_connections(server: Server, tmp_path: Path) -> None:
    for number in range(COUNT):
        support.create(tmp_path / f"{number}.db")
    options = server.options("")
    most, allowed, states = support.run_well(
        """
        import os, resource, threading, replicate
        folder, count, url, access_key, secret_key = sys.argv[1:]
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        def start(number):
            url_of_it = url.replace("/?", f"/{number}?")
            return replicate.start(f"{folder}/{number}.db", url=url_of_it, access_key=access_key, secret_key=secret_key)
        opened = lambda: len(os.listdir("/proc/self/fd"))
        replicators = [start(0)]
        replicators[0].sync(timeout=30)
        # The first one opens what all share; the second one shows what each keeps open.
        before = opened()
        replicators.append(start(1))
        replicators[1].sync(timeout=30)
        each = opened() - before
        done, seen = threading.Event(), []
        def watch():
            while not done.wait(0.003):
                seen.append(opened())
        watching = threading.Thread(target=watch)
        watching.start()
        replicators += [start(number) for number in range(2, int(count))]
        for replicator in replicators:
            replicator.sync(timeout=60)
        done.set()
        watching.join()
        # Beside what each keeps: 256 requests to one server at a time.
        print(max(seen), before + int(count) * each + 380, *{replicator.sync_status().state for replicator in replicators})
        """,
        tmp_path, COUNT, options["url"], options["access_key"], options["secret_key"],
    ).split(" ", 2)
    assert int(most) <= int(allowed), f"{most} descriptors, {allowed} are enough"
    assert states == "streaming"
