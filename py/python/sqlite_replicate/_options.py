"""Keyword arguments on their way to the library's table of options.

Everything becomes a text under the table's name; defaults, ranges and rules are the library's.
"""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal, Mapping, Optional, Sequence, TypedDict, Union

from ._errors import ConfigError

if TYPE_CHECKING:
    from . import _parts

StrPath = Union[str, "os.PathLike[str]"]
Seconds = Union[float, timedelta]


class Place(TypedDict, total=False):
    """The options beside ``url`` that say where a replica is and how to read it: all that restoring needs.

    ``None`` and an empty text are the same as leaving one out.
    """

    endpoint: Optional[str]
    """URL of an S3 service."""
    bucket: Optional[str]
    """Bucket; default ``replicate``."""
    prefix: Optional[str]
    """Prefix of the object keys; default the host name."""
    region: Optional[str]
    """Region that requests are signed for; default ``us-central1``, or what a ``url`` says."""
    access_key: Optional[str]
    """Access key; without it the AWS credential chain is used."""
    secret_key: Optional[str]
    """Secret key."""
    session_token: Optional[str]
    """Session token that belongs to temporary keys."""
    age_identity: Union[str, Sequence[str], None]
    """Private age keys to open objects with. Only restoring needs them."""
    age_identity_file: Optional[StrPath]
    """A file with such keys; those of both are used."""
    age_allow_plaintext: Union[bool, str, None]
    """Sealed and plain objects may mix in one replica, for the change from one to the other."""
    auth_key: Optional[str]
    """32 bytes in base64: objects that do not prove to be made with them are refused."""


class Options(Place, total=False):
    """The options beside ``url`` of who writes a replica."""

    sync_interval: Union[float, timedelta, str, None]
    """Shortest time between two objects under load: seconds, timedelta or text such as ``500ms``."""
    restore: Optional[Literal["missing", "never"]]
    """``missing``: a database that does not exist is restored before start() returns. ``never``: it starts empty."""
    age_recipient: Union[str, Sequence[str], None]
    """Public age keys to seal every object to: one, several, or a text with one a line."""
    age_recipients_file: Optional[StrPath]
    """A file with such keys; those of both are used."""
    age_required: Union[bool, str, None]
    """Replication does not start without an age recipient."""
    age_allow_foreign: Union[bool, str, None]
    """Sealing to keys that none of the private keys given opens is not an error."""
    page_encoding: Optional[Literal["frame", "block"]]
    """``frame``: every Litestream 0.5 reads it. ``block``: 0.5.16 and later."""
    checkpoint_pages: Union[int, str, None]
    """WAL length in pages from which it is copied back into the database."""
    spool_limit: Union[int, str, None]
    """Bytes of captured commits kept while the store cannot be reached: a number or text such as ``1GiB``."""


_FILES = {"age_recipients_file", "age_identity_file"}
_LISTS = {"age_recipient", "age_identity"}


def pairs(url: Optional[str], options: Mapping[str, object]) -> _parts.Pairs:
    """The options that were given, by the table's names, as texts."""
    return [(name, _text(name, value)) for name, value in {"url": url, **options}.items() if value is not None]


def reading(url: Optional[str], options: Mapping[str, object]) -> _parts.Pairs:
    """The same for calls that only read a replica; what matters to a writer alone is refused."""
    for name in options:
        if name in Options.__annotations__ and name not in Place.__annotations__:
            raise ConfigError(f"option {name} means nothing here", hint="it is for start()")
    return pairs(url, options)


def _text(name: str, value: object) -> str:
    if name == "sync_interval" and isinstance(value, (int, float, timedelta)):
        return f"{seconds(value):.9f}s"
    if name in _FILES and isinstance(value, (str, os.PathLike)):
        return os.fsdecode(value)
    if name in _LISTS and isinstance(value, (list, tuple)) and all(isinstance(key, str) for key in value):
        # No key at all is not the same as none given.
        return "\n".join(value) or "\n"
    if isinstance(value, (str, int)):
        return str(value)
    raise ConfigError(f"option {name} has the type {type(value).__name__}", hint="expected a text")


def seconds(value: Seconds) -> float:
    """A time in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def timeout(value: Optional[Seconds]) -> Optional[float]:
    """A timeout in seconds; ``None`` waits for ever."""
    return None if value is None else seconds(value)


def path(value: Union[StrPath, bytes]) -> str:
    """A path as text."""
    return os.fsdecode(value)


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def milliseconds(value: Union[datetime, str]) -> int:
    """A moment in whole milliseconds since 1970, rounded down."""
    moment = value if isinstance(value, datetime) else _parse(value)
    if moment.utcoffset() is None:
        raise ConfigError(
            f"timestamp {moment} has no time zone",
            hint="a datetime with tzinfo, such as datetime.now(timezone.utc)",
        )
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _parse(text: str) -> datetime:
    match = _RFC3339.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        day, clock, fraction, zone = match.groups()
        micros = (fraction or "").ljust(6, "0")[:6]
        offset = "+00:00" if zone in "Zz" else zone
        return datetime.fromisoformat(f"{day}T{clock}.{micros}{offset}")
    except ValueError:
        raise ConfigError(
            f"timestamp is not valid: {text!r}", hint="expected RFC 3339 such as 2025-01-31T12:00:00Z"
        ) from None
