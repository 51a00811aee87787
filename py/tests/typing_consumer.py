"""A program as users write it; ``mypy --strict`` must find nothing to say about it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Optional

import sqlite_replicate

import replicate
from replicate import ConfigError, Event, Progress, ReplicateError


def on_event(event: Event) -> None:
    txid: Optional[int] = event.txid
    print(event.kind, txid, event.error, event.to_state)


def use(path: Path) -> int:
    stop: replicate.Replicator = replicate.auto_replicate(path)
    report: replicate.StopReport = stop()
    flushed: bool = report.flushed

    with replicate.start(
        path,
        url="s3://bucket/prefix",
        region="eu-west-1",
        access_key="a",
        secret_key="b",
        sync_interval=timedelta(milliseconds=500),
        restore="never",
        checkpoint_pages=1000,
        spool_limit="1GiB",
        on_event=on_event,
    ) as replicator:
        status: replicate.SyncStatus = replicator.sync(timeout=5)
        replicator.wait(status.local_txid, timedelta(seconds=1))
        last: Optional[datetime] = status.last_sync
        error: Optional[ReplicateError] = status.last_error
        state: replicate.State = status.state
        for event in replicator.events():
            on_event(event)
        print(last, error, state, replicator.path.name, replicator.enabled)

    def progress(now: Progress) -> None:
        print(now.done / now.total)

    restored: replicate.RestoreReport = replicate.restore(
        "copy.db",
        url="file:///backup",
        timestamp=datetime.now(timezone.utc),
        integrity_check="full",
        progress=progress,
    )
    size: int = restored.bytes
    place: replicate.Place = {"region": "eu-west-1"}
    replicate.ltx(url="s3://bucket", **place)
    created: bool = sqlite_replicate.ensure_exists("app.db", endpoint="http://localhost:9000", prefix="p")
    files: list[replicate.LtxFile] = replicate.ltx(url="file:///backup")
    try:
        replicate.start("app.db", sync_interval="no time")
    except ConfigError as wrong:
        code: str = wrong.code
        hint: Optional[str] = wrong.hint
        print(code, wrong.number, hint, wrong.retryable, flushed, created)
    return size + len(files)
