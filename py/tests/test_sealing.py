"""Sealing: what is stored is sealed, and a wrong key stores nothing and is never shown."""

from __future__ import annotations

import logging
import pickle
import shutil
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest
from support import connect, content, insert, run, until

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
        "rule 1: a malformed SSH key": {"age_recipient": "ssh-ed25519 hushhush me@here"},
        "rule 1: an SSH key of another kind": {"age_recipient": "ssh-rsa hushhush me@here"},
        "rule 2: invalid": {"age_identity": pq.identity[:-3] + "QQQ"},
        "rule 2: a public key": {"age_identity": pq.recipient},
        "nothing to seal to": {"age_identity": pq.identity},
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
    # Said in so many words, both may lie there, for a key that nobody here has the private half of.
    words: dict[str, Any] = {"age_allow_plaintext": True, "age_allow_foreign": True}
    started(db, url=url, age_recipient=keys.recipient, age_identity=new.identity, **words).stop()
    assert len({path.read_bytes().startswith(MAGIC) for path in objects(tmp_path)}) == 2
    replicate.restore(tmp_path / "both.db", url=url, age_identity=keys.identity, age_allow_plaintext=True)
    assert content(tmp_path / "both.db") == content(db)

    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(tmp_path / ".app.db-replicate")
    started(db, url=url, age_recipient=keys.recipient).stop()
    add(db)
    started(db, url=url, age_recipient=new.recipient).stop()
    assert [file.level for file in replicate.ltx(url=url)].count(9) == 1
    assert all(path.read_bytes().startswith(MAGIC) for path in objects(tmp_path)), "rule 4: images, too"
    replicate.restore(tmp_path / "back.db", url=url, age_identity=[new.identity])
    assert content(tmp_path / "back.db") == content(db)


OTHER = replicate.generate_identity("x25519")
AUTH_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def reasons() -> list[Any]:
    def flipped(at: int) -> Callable[[bytes], bytes]:
        return lambda good: good[:at] + bytes([good[at] ^ 1]) + good[at:][1:]

    def other_letter(at: int) -> Callable[[bytes], bytes]:
        # Still base64.
        return lambda good: good[:at] + (b"B" if good[at : at + 1] == b"A" else b"A") + good[at + 1 :]

    cases: dict[str, tuple[Callable[[bytes], bytes], dict[str, str], type[replicate.ReplicateError]]] = {
        "NOT_AGE": (lambda good: b"SQLite format 3" * 20, {}, replicate.KeysError),
        "HEADER": (lambda good: good[:150], {}, replicate.CorruptError),
        "NO_MATCH": (lambda good: good, {"age_identity": OTHER.identity}, replicate.KeysError),
        "BAD_MAC": (other_letter(130), {}, replicate.CorruptError),
        "PAYLOAD": (flipped(-1), {}, replicate.CorruptError),
        "FORGED": (lambda good: good, {"auth_key": AUTH_KEY}, replicate.CorruptError),
        "NO_IDENTITY": (lambda good: good, {"age_identity": ""}, replicate.KeysError),
    }
    return [pytest.param(reason, *case, id=reason) for reason, case in cases.items()]


@pytest.mark.parametrize("reason, change, options, kind", reasons())
def test_rules_7_and_8_what_does_not_open_has_a_reason_and_leaves_the_output_alone(
    db: Path,
    url: str,
    tmp_path: Path,
    started: Start,
    reason: str,
    change: Callable[[bytes], bytes],
    options: dict[str, str],
    kind: type[replicate.ReplicateError],
) -> None:
    keys = replicate.generate_identity("x25519")
    started(db, url=url, age_recipient=keys.recipient).stop()
    [stored] = objects(tmp_path)
    stored.write_bytes(change(stored.read_bytes()))
    output = tmp_path / "back.db"
    output.write_bytes(b"precious")
    with pytest.raises(kind) as caught:
        replicate.restore(output, url=url, overwrite=True, **{"age_identity": keys.identity, **options})  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.retryable) == (reason, False)
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason
    assert output.read_bytes() == b"precious"


LIFE = """
    import logging, pathlib, sys, traceback
    from contextlib import closing
    import replicate
    from support import connect, insert
    logging.basicConfig(level=1, stream=sys.stderr)
    db, url, identity, other, auth = sys.argv[1:]
    [recipient] = replicate.recipient_of(identity)
    replicator = replicate.start(db, url=url, age_recipient=recipient, age_identity=identity, auth_key=auth)
    print(repr(replicator), repr(replicator.sync(timeout=20)), vars(replicator) if hasattr(replicator, "__dict__") else "")
    with closing(connect(db)) as connection:
        insert(connection)
    print(repr(replicator.stop()))

    def attempt(what, *arguments, **options):
        try:
            what(*arguments, **options)
        except Exception:
            traceback.print_exc()
        else:
            raise SystemExit("no error")

    back = db + ".back"
    replicate.restore(back, url=url, age_identity=identity, auth_key=auth)
    attempt(replicate.restore, back, url=url, age_identity=identity, auth_key=auth)
    options = {"url": url, "overwrite": True}
    attempt(replicate.restore, back, age_identity=other, auth_key=auth, **options)
    attempt(replicate.restore, back, age_identity=identity, auth_key=auth[:-5], **options)
    attempt(replicate.restore, back, age_identity=identity[:-1], **options)
    attempt(replicate.start, db + "2", url=url, age_recipient=identity)
    attempt(replicate.start, db + "2", url=identity)
    attempt(replicate.start, db + "2", url=url, sync_interval=identity, auth_key=auth)
    attempt(replicate.start, db + "2", url=url, age_identity_file=identity)
    attempt(replicate.recipient_of, identity[:50])
    attempt(replicate.generate_identity, identity)
    for path in pathlib.Path(db).parent.joinpath("store").rglob("*.ltx"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    attempt(replicate.restore, back, age_identity=identity, auth_key=auth, **options)
"""


def test_rules_9_and_10_secrets_are_never_told(db: Path, url: str) -> None:
    identity, other = (replicate.generate_identity().identity for _ in range(2))
    done = run(LIFE, db, url, identity, other, AUTH_KEY)
    said = (done.stdout + done.stderr).upper()
    assert done.returncode == 0, said
    # Tracebacks name the lines of the program, and it logs what it does.
    assert said.count("TRACEBACK") >= 11 and "DEBUG:REPLICATE" in said
    for secret in (identity, other, AUTH_KEY):
        own = secret.rsplit("-1", 1)[-1].upper()
        assert not [own[at : at + 10] for at in range(len(own) - 9) if own[at : at + 10] in said], said
