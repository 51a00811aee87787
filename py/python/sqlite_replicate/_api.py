"""The functions and the replicator that users see."""

from __future__ import annotations

import os
import sys
import warnings
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Iterator, Literal, Optional, Union

from . import _bridge, _native
from ._options import Options, Place, Seconds, StrPath, milliseconds, pairs, reading
from ._options import path as as_path, timeout as as_seconds
from ._types import AgeIdentity, Event, IntegrityCheck, LtxFile, Progress, RestoreReport, StopReport, SyncStatus

if sys.version_info >= (3, 11):
    from typing import Unpack
elif TYPE_CHECKING:
    from typing_extensions import Unpack

if TYPE_CHECKING:
    from . import _parts


class Replicator:
    """A running replicator. Calling it stops it; as a context manager it stops at the end of the block.

    The end of a ``with`` block ships what was committed, for up to 30 seconds. It does not raise if that was not
    enough: what is left is kept and shipped by the next start, and a line of level WARNING goes to the logger
    ``replicate``. Where the store must have everything, call :meth:`sync` in the block, or :meth:`stop` and look at
    ``flushed``.

    Every method may be called from any thread, lets other threads run while it waits, and ends on Ctrl-C.
    A replicator that nobody refers to any more runs on until the process ends; when the interpreter ends,
    commits are shipped for up to five seconds more. In a forked child, ``stop`` does nothing and everything
    else raises :class:`ForkedError`.
    """

    __slots__ = ("__weakref__", "_enabled", "_native", "_path")

    def __init__(self, native: _native.Handle) -> None:
        """Made by :func:`start` and :func:`auto_replicate`."""
        self._native = native
        self._path = Path(native.path())
        self._enabled = native.is_enabled()

    @property
    def path(self) -> Path:
        """The database."""
        return self._path

    @property
    def enabled(self) -> bool:
        """Whether a store is configured; without one nothing happens."""
        return self._enabled

    def sync(self, timeout: Optional[Seconds] = None) -> SyncStatus:
        """Returns when everything committed before the call, by any process, has arrived at the store.

        In state ``standby`` the process that replicates is asked, and the status is the one it had then. After
        ``timeout`` seconds it raises :class:`SyncTimeoutError`; the upload goes on.
        """
        return SyncStatus._of(self._native.sync(as_seconds(timeout)))

    def sync_status(self) -> SyncStatus:
        """Where replication stands, from memory: no I/O, no waiting."""
        return SyncStatus._of(self._native.sync_status())

    def wait(self, txid: Union[int, str], timeout: Optional[Seconds] = None) -> SyncStatus:
        """Returns when the store has acknowledged this capture; in state ``standby`` a :class:`BusyError`."""
        return SyncStatus._of(self._native.wait(txid, as_seconds(timeout)))

    def events(self) -> Events:
        """A subscription to the events from now on: an iterator that ends with the replicator.

        The first one also tells of a database that was restored before the start.
        """
        return Events(self._native.events())

    def stop(self, timeout: Optional[Seconds] = 30.0) -> StopReport:
        """Ships what was committed, within the time, and ends. A second call returns the first one's report."""
        return StopReport._of(self._native.stop(as_seconds(timeout)))

    def __call__(self, timeout: Optional[Seconds] = 30.0) -> StopReport:
        """The same as :meth:`stop`."""
        return self.stop(timeout)

    def __enter__(self) -> Replicator:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Replicator {os.fspath(self._path)!r}{'' if self._enabled else ' disabled'}>"


class Events(Iterator[Event]):
    """The events of one replicator, in order. At most 1024 wait; a ``dropped`` event tells of more."""

    __slots__ = ("_native",)

    def __init__(self, native: _native.Events) -> None:
        """Made by :meth:`Replicator.events`."""
        self._native = native

    def next(self, timeout: Optional[Seconds] = None) -> Optional[Event]:
        """The next event; ``None`` when the time has passed or the replicator has ended."""
        parts = self._native.next(as_seconds(timeout))
        return None if parts is None else Event._of(parts)

    def __iter__(self) -> Events:
        return self

    def __next__(self) -> Event:
        event = self.next()
        if event is None:
            raise StopIteration
        return event


def generate_identity(kind: Literal["pq", "x25519", "xw"] = "pq") -> AgeIdentity:
    """Makes a key pair to seal a replica with: ``pq`` is also safe from quantum computers, ``x25519`` is understood
    by every age program."""
    return AgeIdentity(*_native.generate_identity(kind))


def recipient_of(identity: str) -> list[str]:
    """The public keys that belong to a text of private ones."""
    return _native.recipient_of(identity)


def auto_replicate(path: StrPath) -> Replicator:
    """Replicates a database with the options of the environment (``REPLICATE_*``).

    Without ``REPLICATE_S3_ENDPOINT`` and ``REPLICATE_URL`` the replicator is disabled and does nothing. A bad
    value is a :class:`ConfigError`; an unknown name, or options of a service that is not named, are a
    ``RuntimeWarning``. A database that does not exist is restored before the call returns.
    """
    _bridge.refresh_level()
    _warn_of_environment()
    return _started(_native.Handle.auto(as_path(path)))


def start(
    path: StrPath,
    *,
    url: Optional[str] = None,
    on_event: Optional[Callable[[Event], object]] = None,
    **options: Unpack[Options],
) -> Replicator:
    """Replicates a database with these options; the environment is not read.

    ``url`` is the replica (``s3://bucket/prefix``, ``file:///folder``); the others are those of
    :class:`Options`, and one of ``url`` and ``endpoint`` must be given. ``on_event`` is called for each event
    from the start on, from one thread of the package; what it raises
    goes to :func:`threading.excepthook`. A second call on the same path returns the same replicator.
    """
    _bridge.refresh_level()
    chosen = pairs(url, options)
    if on_event is None:
        return _started(_native.Handle.start(as_path(path), chosen, None))
    with _bridge.subscriber(on_event) as number:
        return _started(_native.Handle.start(as_path(path), chosen, number))


def _started(native: _native.Handle) -> Replicator:
    replicator = Replicator(native)
    if replicator.enabled:
        _bridge.start()
    return replicator


def restore(
    output: StrPath,
    *,
    url: Optional[str] = None,
    txid: Union[int, str, None] = None,
    timestamp: Union[datetime, str, None] = None,
    min_txid: Union[int, str, None] = None,
    integrity_check: IntegrityCheck = "quick",
    overwrite: bool = False,
    parallelism: Optional[int] = None,
    progress: Optional[Callable[[Progress], object]] = None,
    timeout: Optional[Seconds] = None,
    **options: Unpack[Place],
) -> RestoreReport:
    """Restores a database: the newest state, that after the capture ``txid``, or that of a ``timestamp``.

    ``txid`` is an int or 16 hex digits, ``timestamp`` a datetime with time zone or RFC 3339 text. With
    neither ``url`` nor ``endpoint`` the environment is read as by :func:`auto_replicate`. ``output`` is not
    touched before everything has been fetched and checked, and never replaced without ``overwrite``. A state
    that has not reached ``min_txid`` raises :class:`DivergedError`: somebody removed newer files.
    ``parallelism`` is the number of requests at the same time, 1 to 64, 32 by default.
    ``progress`` is called on this thread; if it raises, or on Ctrl-C, or after ``timeout`` seconds, the
    restore has removed its files when the exception arrives.
    """
    _bridge.refresh_level()
    parts = _native.restore(
        as_path(output),
        _replica(url, options),
        txid,
        None if timestamp is None else milliseconds(timestamp),
        min_txid,
        integrity_check,
        overwrite,
        parallelism,
        None if progress is None else lambda done, total: progress(Progress(done, total)),
        as_seconds(timeout),
    )
    return RestoreReport._of(parts)


def ensure_exists(path: StrPath, *, url: Optional[str] = None, **options: Unpack[Place]) -> bool:
    """Restores the newest state if the database does not exist; whether it did.

    No backup is not an error: then there is nothing to restore and the answer is ``False``. With neither
    ``url`` nor ``endpoint`` the environment is read as by :func:`auto_replicate`.
    """
    _bridge.refresh_level()
    return _native.ensure_exists(as_path(path), _replica(url, options))


def ltx(*, url: Optional[str] = None, **options: Unpack[Place]) -> list[LtxFile]:
    """The files of a replica, by level and capture."""
    _bridge.refresh_level()
    return [LtxFile._of(parts) for parts in _native.ltx_files(_replica(url, options))]


def _replica(url: Optional[str], options: Place) -> _parts.Pairs:
    """The options of a call that reads a replica; without a place the environment's are read, too."""
    if not url and not options.get("endpoint"):
        _warn_of_environment(stacklevel=4)
    return reading(url, options)


def _warn_of_environment(stacklevel: int = 3) -> None:
    for complaint in _native.environment_complaints():
        warnings.warn(complaint, RuntimeWarning, stacklevel=stacklevel)
