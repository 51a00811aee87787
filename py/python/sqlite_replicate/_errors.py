"""The exceptions: one class for each kind of error of the library.

The kinds, their numbers and names are the library's (``_native.ERROR_KINDS``); a test compares both tables.
"""

from __future__ import annotations

from typing import ClassVar, Optional


class ReplicateError(Exception):
    """The base of all errors of this package.

    ``code`` is the name of the kind, the same in every language; ``number`` its stable number; ``hint`` the
    way out where there is one to name; ``retryable`` tells whether trying again later, unchanged, can help. ``reason``
    tells what does not open apart: ``NOT_AGE``, ``HEADER``, ``NO_MATCH``, ``BAD_MAC``, ``PAYLOAD``, ``NO_IDENTITY``,
    ``FORGED``; it is None for everything else.
    """

    code: ClassVar[str] = "UNKNOWN"
    number: ClassVar[int] = 0
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, hint: Optional[str] = None, reason: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.message, self.hint, self.reason)


def _again(
    kind: type[ReplicateError], message: str, hint: Optional[str], reason: Optional[str]
) -> ReplicateError:
    return kind(message, hint=hint, reason=reason)


class ConfigError(ReplicateError, ValueError):
    """An option, URL, key or interval is wrong. Nothing was done. Correct it."""

    code = "CONFIG"
    number = 1


class DatabaseError(ReplicateError):
    """SQLite refused: the database is damaged, not a database, or cannot be opened."""

    code = "DATABASE"
    number = 2


class UnavailableError(ReplicateError, ConnectionError):
    """The store or the network failed in a way that often passes."""

    code = "UNAVAILABLE"
    number = 3
    retryable = True


class NoBackupError(ReplicateError, LookupError):
    """There is no backup, or none that reaches the wanted transaction or time."""

    code = "NO_BACKUP"
    number = 4


class CancelledError(ReplicateError):
    """The caller cancelled."""

    code = "CANCELLED"
    number = 5


class SyncTimeoutError(ReplicateError, TimeoutError):
    """The time given ran out; the work goes on where it belongs to the engine."""

    code = "TIMEOUT"
    number = 6
    retryable = True


class ClosedError(ReplicateError, RuntimeError):
    """The replicator was stopped."""

    code = "CLOSED"
    number = 7


class ForkedError(ReplicateError, RuntimeError):
    """The process was forked after replication started; start again in the child."""

    code = "FORKED"
    number = 8


class BusyError(ReplicateError):
    """Something else holds what is needed: a lock, another replicator, an open database."""

    code = "BUSY"
    number = 9
    retryable = True


class KeysError(ReplicateError):
    """No key opens it, or a key is wrong."""

    code = "KEYS"
    number = 10


class CorruptError(ReplicateError):
    """Bytes of a backup are damaged or not what their name says."""

    code = "CORRUPT"
    number = 11


class ExistsError(ReplicateError, FileExistsError):
    """The output exists and overwriting was not asked for."""

    code = "EXISTS"
    number = 12


class UnsupportedError(ReplicateError, RuntimeError):
    """This platform, file system or mode cannot be served safely."""

    code = "UNSUPPORTED"
    number = 13


class DeniedError(ReplicateError, PermissionError):
    """The store refuses: wrong credentials or no permission."""

    code = "DENIED"
    number = 14


class DivergedError(ReplicateError):
    """Another writer has written to this replica, or it is not the one this database belongs to."""

    code = "DIVERGED"
    number = 15


class DiskError(ReplicateError, OSError):
    """The local disk is full or fails."""

    code = "DISK"
    number = 16
    retryable = True


class InternalError(ReplicateError, RuntimeError):
    """A defect of this library; please report it."""

    code = "INTERNAL"
    number = 99


BY_NUMBER: dict[int, type[ReplicateError]] = {
    kind.number: kind
    for kind in (
        ConfigError,
        DatabaseError,
        UnavailableError,
        NoBackupError,
        CancelledError,
        SyncTimeoutError,
        ClosedError,
        ForkedError,
        BusyError,
        KeysError,
        CorruptError,
        ExistsError,
        UnsupportedError,
        DeniedError,
        DivergedError,
        DiskError,
        InternalError,
    )
}


def make(number: int, message: str, hint: Optional[str], reason: Optional[str] = None) -> ReplicateError:
    """The exception for an error of the native module."""
    return BY_NUMBER.get(number, ReplicateError)(message, hint=hint, reason=reason)
