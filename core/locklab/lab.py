"""The engine's SQLite copy, as the scenes see it: a thin coat over the library of this crate.

Loaded into a process whose own `sqlite3` module is the host's copy. Nothing here opens a database by itself.
"""

import ctypes
import os
import pathlib

BUSY, FORKED, CORRUPT, UNSUPPORTED, DATABASE, CONFIG, DISK, INTERNAL = 9, 8, 11, 13, 2, 1, 16, 99
PASSIVE, FULL, RESTART, TRUNCATE = range(4)

_P = ctypes.c_void_p
_S = ctypes.c_char_p


def library_path():
    """`REPLICATE_LOCKLAB`, or the debug build of this repository."""
    given = os.environ.get("REPLICATE_LOCKLAB")
    if given:
        return given
    root = pathlib.Path(__file__).resolve().parents[2]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    return str(root / target / "debug" / "libreplicate_locklab.so")


class LabError(Exception):
    """An error of the library: its kind's number and its text."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class Lab:
    """One loaded library. `isolate=False` leaves SQLite's own calls in place: the negative control."""

    def __init__(self, isolate=True):
        self._lib = ctypes.CDLL(library_path())
        self._lib.lab_message.argtypes = [_S, ctypes.c_size_t]
        self._lib.lab_unpin.restype = None
        if isolate:
            self.call("isolate")

    def raw(self, name, *arguments):
        return getattr(self._lib, "lab_" + name)(*arguments)

    def call(self, name, *arguments):
        code = self.raw(name, *arguments)
        if code:
            text = ctypes.create_string_buffer(1000)
            self._lib.lab_message(text, len(text))
            raise LabError(code, text.value.decode())

    def open(self, db, busy_ms=0):
        """A connection set up as the engine's."""
        return Connection(self, "open", db, busy_ms)

    def open_plain(self, db, busy_ms=0):
        """A connection with SQLite's defaults: its close checkpoints and removes files if it is the last."""
        return Connection(self, "open_plain", db, busy_ms)

    def pin(self, path):
        return Pinned(self, path)

    def touch(self, path):
        """Opens, reads and gives back a file the way the engine does."""
        with self.pin(path) as pinned:
            return pinned.read(0, 16)

    def sloppy_touch(self, path):
        self.raw("sloppy_touch", os.fsencode(path))

    def probe(self, state_dir, db):
        self.call("probe", os.fsencode(state_dir), os.fsencode(db))

    def replace_check(self, db):
        self.call("replace_check", os.fsencode(db))

    def check(self, db, full=False):
        self.call("check", os.fsencode(db), int(full))

    def sweep(self):
        self.raw("sweep")

    def pool(self):
        """Files, lent descriptors, idle descriptors."""
        out = (ctypes.c_size_t * 3)()
        self.raw("pool", out)
        return tuple(out)

    def race(self, path, millis, how):
        """Closes, host locks, vanished host locks."""
        out = (ctypes.c_uint64 * 3)()
        self.raw("race", os.fsencode(path), ctypes.c_uint64(millis), how, out)
        return tuple(out)


class Connection:
    """A connection of the engine's copy."""

    def __init__(self, lab, how, db, busy_ms):
        self._lab = lab
        self._at = _P()
        lab.call(how, os.fsencode(db), ctypes.c_uint64(busy_ms), ctypes.byref(self._at))

    def exec(self, sql):
        self._lab.call("exec", self._at, sql.encode())

    def query(self, sql):
        """The first column of every row, as text."""
        out = ctypes.create_string_buffer(1 << 16)
        self._lab.call("query", self._at, sql.encode(), out, ctypes.c_size_t(len(out)))
        return out.value.decode().split("\n") if out.value else []

    def begin_read(self):
        self._lab.call("begin_read", self._at)

    def begin_write(self):
        self._lab.call("begin_write", self._at)

    def rollback(self):
        self._lab.call("rollback", self._at)

    def checkpoint(self, mode):
        """Busy, frames in the log, frames copied."""
        out = (ctypes.c_uint32 * 3)()
        self._lab.call("checkpoint", self._at, mode, out)
        return tuple(out)

    def close(self):
        at, self._at = self._at, _P()
        self._lab.call("close", at)


class Pinned:
    """A raw file of the engine."""

    def __init__(self, lab, path):
        self._lab = lab
        self._at = _P()
        lab.call("pin", os.fsencode(path), ctypes.byref(self._at))

    def read(self, offset, length):
        buffer = ctypes.create_string_buffer(length)
        done = ctypes.c_size_t()
        arguments = (ctypes.c_uint64(offset), buffer, ctypes.c_size_t(length), ctypes.byref(done))
        self._lab.call("pin_read", self._at, *arguments)
        return buffer.raw[: done.value]

    def close(self):
        at, self._at = self._at, _P()
        self._lab.raw("unpin", at)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def code_of(action, *arguments):
    """The number of the error that an action ends in; 0 if it succeeds."""
    try:
        action(*arguments)
    except LabError as error:
        return error.code
    return 0
