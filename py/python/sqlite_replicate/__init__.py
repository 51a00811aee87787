"""Continuous backup of SQLite databases to object storage, from inside the program that uses them.

>>> import replicate
>>> stop = replicate.auto_replicate("app.db")  # doctest: +SKIP

The package is also called ``replicate``; both names are the same module.
"""

from ._api import (
    Events,
    Replicator,
    auto_replicate,
    ensure_exists,
    generate_identity,
    ltx,
    recipient_of,
    restore,
    start,
)
from ._collision import warn_if_shadowed
from ._errors import (
    BusyError,
    CancelledError,
    ClosedError,
    ConfigError,
    CorruptError,
    DatabaseError,
    DeniedError,
    DiskError,
    DivergedError,
    ExistsError,
    ForkedError,
    InternalError,
    KeysError,
    NoBackupError,
    ReplicateError,
    SyncTimeoutError,
    UnavailableError,
    UnsupportedError,
)
from ._native import VERSION as __version__
from ._options import Options, Place
from ._types import AgeIdentity, Event, IntegrityCheck, LtxFile, Progress, RestoreReport, State, StopReport, SyncStatus

__all__ = [
    "AgeIdentity",
    "BusyError",
    "CancelledError",
    "ClosedError",
    "ConfigError",
    "CorruptError",
    "DatabaseError",
    "DeniedError",
    "DiskError",
    "DivergedError",
    "Event",
    "Events",
    "ExistsError",
    "ForkedError",
    "IntegrityCheck",
    "InternalError",
    "KeysError",
    "LtxFile",
    "NoBackupError",
    "Options",
    "Place",
    "Progress",
    "ReplicateError",
    "Replicator",
    "RestoreReport",
    "State",
    "StopReport",
    "SyncStatus",
    "SyncTimeoutError",
    "UnavailableError",
    "UnsupportedError",
    "__version__",
    "auto_replicate",
    "ensure_exists",
    "generate_identity",
    "ltx",
    "recipient_of",
    "restore",
    "start",
]

warn_if_shadowed()
