"""Errors: one class for each kind, bad options refused, secrets and panics kept inside."""

from __future__ import annotations

import logging
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

import pytest
from sqlite_replicate import _errors, _native
from support import run, unreachable, until

import replicate

Start = Callable[..., replicate.Replicator]


@pytest.mark.parametrize("name, number, retryable", _native.ERROR_KINDS, ids=str)
def test_every_kind_of_the_library_has_its_class(name: str, number: int, retryable: bool) -> None:
    kind = _errors.BY_NUMBER[number]
    assert (kind.code, kind.number, kind.retryable) == (name, number, retryable)
    assert getattr(replicate, kind.__name__) is kind and kind.__name__ in replicate.__all__
    error = _errors.make(number, "what failed", "the way out")
    assert type(error) is kind and isinstance(error, replicate.ReplicateError)
    assert str(error) == "what failed (the way out)" and error.hint == "the way out"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and (str(again), again.hint) == (str(error), error.hint)


def test_no_class_is_left_over() -> None:
    assert set(_errors.BY_NUMBER) == {number for _, number, _ in _native.ERROR_KINDS}


def test_errors_are_also_what_python_programs_expect() -> None:
    for kind, base in {
        replicate.ConfigError: ValueError,
        replicate.NoBackupError: LookupError,
        replicate.SyncTimeoutError: TimeoutError,
        replicate.UnavailableError: ConnectionError,
        replicate.ExistsError: FileExistsError,
        replicate.DeniedError: PermissionError,
        replicate.DiskError: OSError,
        replicate.ForkedError: RuntimeError,
    }.items():
        assert issubclass(kind, base)


def test_every_option_of_the_table_is_a_typed_keyword() -> None:
    keywords = set(replicate.Options.__annotations__) | {"url"}
    assert keywords == {name for name, *_ in _native.CONFIG_KEYS}


def test_options_of_who_writes_are_refused_by_who_reads(url: str, tmp_path: Path) -> None:
    writing = set(replicate.Options.__annotations__) - set(replicate.Place.__annotations__)
    assert writing >= {"restore", "sync_interval", "checkpoint_pages", "spool_limit", "page_encoding"}
    calls: list[Callable[..., object]] = [
        replicate.ltx,
        lambda **o: replicate.restore(tmp_path / "copy.db", **o),
        lambda **o: replicate.ensure_exists(tmp_path / "copy.db", **o),
    ]
    for name in writing:
        for call in calls:
            with pytest.raises(replicate.ConfigError, match=name):
                call(url=url, **{name: "1"})


def test_a_start_that_names_no_place_is_refused(db: Path) -> None:
    for options in ({}, {"bucket": "b"}, {"url": ""}, {"endpoint": ""}):
        with pytest.raises(replicate.ConfigError, match="no replica is named"):
            replicate.start(db, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"sync_interval": "fast"},
        {"sync_interval": 0},
        {"sync_interval": -1.0},
        {"sync_interval": float("nan")},
        {"sync_interval": float("inf")},
        {"sync_interval": timedelta(days=2)},
        {"restore": "always"},
        {"page_encoding": "zip"},
        {"checkpoint_pages": 1},
        {"checkpoint_pages": "many"},
        {"spool_limit": "1 elephant"},
        {"spool_limit": 1},
        {"age_recipient": "age1xyz"},
        {"age_identity": "AGE-SECRET-KEY-1HUSH"},
        {"bucket": "b"},
        {"endpoint": "http://127.0.0.1:1"},
        {"access_key": "only one"},
        {"no_such_option": "x"},
        {"path": "x"},
        {"region": b"bytes"},
        {"url": "ftp://host/x"},
        {"url": "s3://"},
    ],
    ids=repr,
)
def test_a_bad_option_is_refused_before_anything_happens(options: dict[str, Any], db: Path, url: str) -> None:
    before = sorted(db.parent.iterdir())
    calls: list[Callable[..., object]] = [replicate.ltx]
    if "path" not in options:
        calls += [lambda **o: replicate.start(db, **o), lambda **o: replicate.ensure_exists(db, **o)]
    for call in calls:
        with pytest.raises(replicate.ConfigError) as refused:
            call(**{"url": url, **options})
        assert "HUSH" not in str(refused.value)
    assert sorted(db.parent.iterdir()) == before


def test_good_forms_of_an_interval_are_taken(db: Path, url: str) -> None:
    for interval in (0.5, 1, timedelta(milliseconds=500), "500ms", None, ""):
        replicate.start(db, url=url, sync_interval=interval).stop()


@pytest.mark.parametrize(
    "name, value",
    [
        ("REPLICATE_SYNC_INTERVAL", "fast"),
        ("REPLICATE_RESTORE", "always"),
        ("REPLICATE_AGE_RECIPIENT", "age1xyz"),
        ("REPLICATE_AGE_IDENTITY", "AGE-SECRET-KEY-1HUSH"),
    ],
)
def test_a_bad_variable_is_refused(
    name: str, value: str, db: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_URL", url)
    monkeypatch.setenv(name, value)
    with pytest.raises(replicate.ConfigError) as refused:
        replicate.auto_replicate(db)
    assert "HUSH" not in str(refused.value)
    assert not (db.parent / "store").exists()


@pytest.mark.parametrize("name", ["REPLICATE_S3_BUKET", "REPLICATE_S3_BUCKET"])
def test_a_variable_that_means_nothing_is_a_warning_also_in_the_log(
    name: str, db: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, "hush")
    with caplog.at_level(logging.WARNING, "replicate"):
        with pytest.warns(RuntimeWarning, match=name) as told:
            replicate.auto_replicate(db).stop()
        until(lambda: name in caplog.text, "the warning is logged")
    assert [warning.filename for warning in told] == [__file__], "it points at the caller"
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "hush" not in caplog.text


def test_a_variable_that_means_nothing_is_seen_without_any_logging(db: Path, url: str, tmp_path: Path) -> None:
    done = run(
        """
        import replicate
        replicate.ensure_exists(sys.argv[1])
        """,
        db,
        REPLICATE_URL=url,
        REPLICATE_SYNK="1s",
    )
    assert done.returncode == 0 and "RuntimeWarning: unknown variable REPLICATE_SYNK, ignored" in done.stderr


def test_a_variable_that_is_no_text_is_refused(db: Path, url: str) -> None:
    done = run(
        """
        import os, replicate
        os.environb[b"REPLICATE_RESTORE"] = bytes([255])
        try:
            replicate.auto_replicate(sys.argv[1])
        except replicate.ConfigError as error:
            assert "REPLICATE_RESTORE" in str(error)
            print("refused")
        """,
        db,
        REPLICATE_URL=url,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr


def test_secrets_show_nowhere(db: Path, started: Start, caplog: pytest.LogCaptureFixture) -> None:
    options = unreachable()
    seen: list[str] = []
    with caplog.at_level(1, "replicate"):
        replicator = started(db, **options, session_token="hush-hush", on_event=lambda e: seen.append(repr(e)))
        with pytest.raises(replicate.SyncTimeoutError) as late:
            replicator.sync(timeout=1.0)
        seen += [repr(replicator), repr(replicator.sync_status()), repr(late.value), str(late.value)]
        seen.append(repr(replicator.stop(timeout=0.2)))
        with pytest.raises(replicate.ConfigError) as refused:
            replicate.ltx(url="s3://access:hush-hush@bucket/p")
    seen += [repr(refused.value), str(refused.value), caplog.text]
    assert "hush-hush" not in "\n".join(seen)


@pytest.mark.parametrize("in_call", [False, True])
def test_a_panic_is_an_internal_error_and_the_process_lives_on(in_call: bool) -> None:
    done = run(
        """
        import replicate
        from sqlite_replicate import _native
        for _ in range(3):
            try:
                _native.panic_on_purpose(sys.argv[1] == "True")
            except replicate.InternalError as error:
                print(error.code, error.number)
        """,
        in_call,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["INTERNAL", "99"] * 3, "")


def test_the_place_of_a_panic_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "replicate"):
        with pytest.raises(replicate.InternalError):
            _native.panic_on_purpose(True)
        until(lambda: "on purpose" in caplog.text, "the panic is logged")
