"""Sealing: what is stored is sealed, and a wrong key stores nothing and is never shown."""

from __future__ import annotations

import logging
import shutil
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest
from support import connect, content, insert, until

import replicate

Start = Callable[..., replicate.Replicator]
MAGIC = b"age-encryption.org/v1\n"


def objects(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def add(db: Path) -> None:
    with closing(connect(db)) as connection:
        insert(connection)


@pytest.mark.parametrize("kind", ["pq", "x25519", "xw"])
def test_what_is_stored_is_sealed_and_comes_back(
    db: Path, url: str, tmp_path: Path, started: Start, kind: Any
) -> None:
    keys = replicate.generate_identity(kind)
    assert replicate.recipient_of(keys.identity) == [keys.recipient]
    assert keys.identity not in repr(keys) and keys.recipient in repr(keys)
    status = started(db, url=url, age_recipient=[keys.recipient], age_required=True).sync(timeout=20)
    assert [key.split(":")[0] for key in status.sealed_to] == [kind]
    assert objects(tmp_path) and all(path.read_bytes().startswith(MAGIC) for path in objects(tmp_path))

    identity = tmp_path / "identity.txt"
    identity.write_text(f"# mine\n{keys.identity}\n")
    replicate.restore(tmp_path / "back.db", url=url, age_identity_file=identity)
    assert content(tmp_path / "back.db") == content(db)
    with pytest.raises(replicate.DivergedError, match="lost its end"):
        replicate.restore(tmp_path / "no.db", url=url, age_identity=keys.identity, min_txid=status.remote_txid + 1)
    with pytest.raises(replicate.KeysError, match="REPLICATE_AGE_IDENTITY"):
        replicate.restore(tmp_path / "no.db", url=url)
    with pytest.raises(replicate.KeysError):
        replicate.restore(tmp_path / "no.db", url=url, age_identity=replicate.generate_identity(kind).identity)
    assert not (tmp_path / "no.db").exists()


def refusals() -> list[Any]:
    pq, classic, other = (replicate.generate_identity(kind) for kind in ("pq", "x25519", "pq"))
    cases = {
        "rule 1: invalid": {"age_recipient": "age1xyz"},
        "rule 1: blank": {"age_recipient": " "},
        "rule 1: none in the list": {"age_recipient": []},
        "rule 1: comments only": {"age_recipient": "# none"},
        "rule 1: classic and post-quantum": {"age_recipient": [pq.recipient, classic.recipient]},
        "rule 1: a private key": {"age_recipient": pq.identity},
        "rule 1: no such file": {"age_recipients_file": "/nowhere/at/all"},
        "rule 1: demanded": {"age_required": True},
        "rule 2: invalid": {"age_identity": pq.identity[:-3] + "QQQ"},
        "rule 2: a public key": {"age_identity": pq.recipient},
        "rule 3: nobody here can read it": {"age_recipient": other.recipient, "age_identity": pq.identity},
        "authentication key": {"age_recipient": pq.recipient, "auth_key": "hushhush"},
        "authentication of nothing": {"auth_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
    }
    return [pytest.param(options, [pq.identity, "hushhush"], id=name) for name, options in cases.items()]


@pytest.mark.parametrize("options, secrets", refusals())
def test_a_wrong_key_starts_nothing_and_is_not_shown(
    db: Path,
    url: str,
    tmp_path: Path,
    options: Any,
    secrets: list[str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(replicate.ConfigError) as caught:
        replicate.start(db, url=url, **options)
    assert objects(tmp_path) == []
    error = caught.value
    shown = f"{error!r} {error} {error.hint} {error.__cause__!r} {caplog.text}{''.join(capfd.readouterr())}"
    for secret in secrets:
        parts = [secret[at : at + 8] for at in range(20, len(secret) - 8, 8)] or [secret]
        assert not any(part in shown for part in parts), shown


def test_the_environment_fails_closed(db: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_URL", url)
    for name, value in {
        "REPLICATE_AGE_RECIPIENT": "age1xyz",
        "REPLICATE_AGE_RECIPIENTS_FILE": "/nowhere/at/all",
        "REPLICATE_AGE_IDENTITY": "AGE-SECRET-KEY-1HUSHHUSH",
        "REPLICATE_AGE_IDENTITY_FILE": "/nowhere/at/all",
        "REPLICATE_AGE_REQUIRED": "true",
        "REPLICATE_AUTH_KEY": "short",
    }.items():
        with monkeypatch.context() as context:
            context.setenv(name, value)
            with pytest.raises(replicate.ConfigError) as caught:
                replicate.auto_replicate(db)
            assert "HUSHHUSH" not in "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
    assert objects(tmp_path) == []


def test_sealed_and_plain_do_not_mix_and_a_new_key_begins_with_an_image(
    db: Path, url: str, tmp_path: Path, started: Start
) -> None:
    started(db, url=url).stop()
    before = len(objects(tmp_path))
    keys, new = replicate.generate_identity(), replicate.generate_identity()
    add(db)
    sealed = started(db, url=url, age_recipient=keys.recipient)
    until(lambda: sealed.sync_status().state == "failed", "the refusal")
    assert isinstance(sealed.sync_status().last_error, replicate.KeysError)
    assert len(objects(tmp_path)) == before
    sealed.stop(timeout=1)

    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(tmp_path / ".app.db-replicate")
    started(db, url=url, age_recipient=keys.recipient).stop()
    add(db)
    started(db, url=url, age_recipient=new.recipient).stop()
    assert [file.level for file in replicate.ltx(url=url)].count(9) == 1
    replicate.restore(tmp_path / "back.db", url=url, age_identity=[new.identity])
    assert content(tmp_path / "back.db") == content(db)
