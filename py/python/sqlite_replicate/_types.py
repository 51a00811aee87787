"""What calls return: frozen dataclasses, made from the tuples of the native module."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal, Optional, cast

from . import _errors
from ._errors import ReplicateError

if TYPE_CHECKING:
    from . import _parts

State = Literal["disabled", "starting", "streaming", "stalled", "standby", "fenced", "failed", "stopped"]
"""What a replicator is doing.

``disabled``: no store is configured. ``starting``: database and replica are compared. ``streaming``: commits
are captured and shipped. ``stalled``: they do not arrive; it is tried again by itself. ``standby``: another
process on this host replicates this database; this one takes over when it ends. ``fenced``: another writer
owns the replica. ``failed``: trying again cannot help. ``stopped``: stop() was called.
"""

IntegrityCheck = Literal["none", "quick", "full"]
"""How a restored database is checked: by its files' checksums alone, or by SQLite's quick or full check too."""

EventKind = Literal[
    "state", "captured", "shipped", "checkpointed", "retrying", "restored", "dropped", "other"
]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _moment(milliseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:  # a foreign object may claim any time
        edge = datetime.max if milliseconds > 0 else datetime.min
        return edge.replace(tzinfo=timezone.utc)


def _error(parts: Optional[_parts.ErrorParts]) -> Optional[ReplicateError]:
    return None if parts is None else _errors.make(*parts)


@dataclass(frozen=True)
class SyncStatus:
    """Where replication stands. Answered from memory: no I/O, no waiting."""

    local_txid: int
    """The last capture on this host."""
    remote_txid: int
    """The last capture that the store has acknowledged, with all before it."""
    in_sync: bool
    """Something was captured, all of it has arrived, and no newer commit is known."""
    state: State
    """What the replicator is doing."""
    last_error: Optional[ReplicateError]
    """What fails at present, or has ended replication; none once it has succeeded again."""
    last_sync: Optional[datetime]
    """When the store last acknowledged something."""
    pending_bytes: int
    """Bytes captured but not yet acknowledged by the store."""
    sealed_to: tuple[str, ...]
    """Whom objects are sealed to: kind and fingerprint of each public key. Empty: they are not sealed."""

    @classmethod
    def _of(cls, parts: _parts.StatusParts) -> SyncStatus:
        local, remote, in_sync, state, error, last_sync, pending, sealed_to = parts
        moment = None if last_sync is None else _moment(last_sync)
        return cls(local, remote, in_sync, cast(State, state), _error(error), moment, pending, tuple(sealed_to))


@dataclass(frozen=True)
class StopReport:
    """What stop() achieved."""

    flushed: bool
    """Every commit made before the call has arrived at the store."""
    local_txid: int
    """The last capture on this host."""
    remote_txid: int
    """The last capture that the store has acknowledged."""
    error: Optional[ReplicateError]
    """Why it was not flushed."""

    @classmethod
    def _of(cls, parts: _parts.StopParts) -> StopReport:
        flushed, local, remote, error = parts
        return cls(flushed, local, remote, _error(error))


@dataclass(frozen=True)
class RestoreReport:
    """What was restored."""

    txid: int
    """The last capture in it."""
    timestamp: datetime
    """When that capture was made."""
    pages: int
    """Pages of the database."""
    bytes: int
    """Bytes of the database."""
    files: int
    """Files it was made from."""
    fetched: int
    """Bytes fetched."""
    checked: IntegrityCheck
    """How it was checked."""
    elapsed: timedelta
    """How long it took."""

    @classmethod
    def _of(cls, parts: _parts.RestoreParts) -> RestoreReport:
        txid, timestamp, pages, size, files, fetched, checked, elapsed = parts
        check, took = cast(IntegrityCheck, checked), timedelta(seconds=elapsed)
        return cls(txid, _moment(timestamp), pages, size, files, fetched, check, took)


@dataclass(frozen=True)
class Progress:
    """How far a restore has come."""

    done: int
    """Bytes fetched and written."""
    total: int
    """Bytes to fetch."""


@dataclass(frozen=True)
class AgeIdentity:
    """A key pair to seal a replica with."""

    identity: str = field(repr=False)
    """The private key: whoever has it can read every backup. Keep it where the database's host is not."""
    recipient: str
    """The public key, ``age_recipient``: all that replicating needs."""


@dataclass(frozen=True)
class LtxFile:
    """A file of a replica."""

    level: int
    """Its compaction level: 0 holds single captures, 9 full snapshots."""
    min_txid: int
    """The first capture in it."""
    max_txid: int
    """The last capture in it."""
    size: int
    """Bytes of the object."""
    created: Optional[datetime]
    """When its content was captured, where the listing told."""
    modified: datetime
    """When the store got it."""
    key: str
    """The object's key below the place of the replica."""

    @classmethod
    def _of(cls, parts: _parts.LtxParts) -> LtxFile:
        level, first, last, size, created, modified, key = parts
        moment = None if created is None else _moment(created)
        return cls(level, first, last, size, moment, _moment(modified), key)


@dataclass(frozen=True)
class Event:
    """Something happened. What a kind does not have is ``None``.

    ============ ================================================================================
    kind         fields
    ============ ================================================================================
    state        from_state, to_state
    captured     txid, pages, bytes; rebase: why it holds more than the last commits, if it does
    shipped      txid, bytes
    checkpointed frames in the WAL, of them copied back so far
    retrying     error; after: seconds until the next attempt
    restored     txid
    dropped      count: events that were dropped because nobody took them
    ============ ================================================================================
    """

    kind: EventKind
    txid: Optional[int] = None
    pages: Optional[int] = None
    bytes: Optional[int] = None
    rebase: Optional[str] = None
    from_state: Optional[State] = None
    to_state: Optional[State] = None
    frames: Optional[int] = None
    copied: Optional[int] = None
    error: Optional[ReplicateError] = None
    after: Optional[float] = None
    count: Optional[int] = None

    @classmethod
    def _of(cls, parts: _parts.EventParts) -> Event:
        kind, pairs = parts
        fields: dict[str, Any] = dict(pairs)
        if "error" in fields:
            fields["error"] = _errors.make(*fields["error"])
        return cls(cast(EventKind, kind), **fields)
