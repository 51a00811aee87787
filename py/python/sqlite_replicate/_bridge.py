"""The bridge thread: brings log lines and events from the engine to Python code.

Engine threads never run Python. They leave what they have to say in a bounded queue of the native module,
and one daemon thread takes it from there. It starts with the first replicator and is joined when the
interpreter ends; before that (during a restore, say) waiting calls deliver log lines on their own thread.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Callable, Iterator, Optional

from . import _native
from ._types import Event

if TYPE_CHECKING:
    from . import _parts

EXIT_TIMEOUT = 5.0
"""Seconds that the end of the interpreter waits for the last commits to reach the store."""

_JOIN_TIMEOUT = 1.0  # for a callback that hangs while the interpreter ends
_LEVEL_REFRESH = 1.0  # a changed level of a Python logger takes effect within this time

_logger = logging.getLogger("replicate")
_logger.addHandler(logging.NullHandler())


class _State:
    """What a forked child must not inherit."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: Optional[threading.Thread] = None
        self.subscribers: dict[int, Callable[[Event], object]] = {}
        self.numbers = itertools.count(1)


_state = _State()


def start() -> None:
    """Starts the bridge thread unless it runs."""
    refresh_level()
    state = _state
    with state.lock:
        if state.thread is None:
            state.thread = threading.Thread(target=_run, name="replicate-bridge", daemon=True)
            _native.bridge_served(True)
            state.thread.start()


@contextlib.contextmanager
def subscriber(callback: Callable[[Event], object]) -> Iterator[int]:
    """A number for events that are to be given to this callback, from the bridge thread; known before there are any.

    If what is done with it fails, it is forgotten.
    """
    start()
    state = _state
    number = next(state.numbers)
    state.subscribers[number] = callback
    try:
        yield number
    except BaseException:
        state.subscribers.pop(number, None)
        raise


def deliver_pending() -> None:
    """Delivers what waits, on this thread."""
    batch = _native.bridge_take(0.0)
    while batch:
        _deliver(batch)
        batch = _native.bridge_take(0.0)


def refresh_level() -> None:
    """Tells the native module the lowest level that a logger of ours listens to."""
    manager = logging.root.manager
    lowest = _logger.getEffectiveLevel()
    for name, logger in list(manager.loggerDict.items()):
        if name.startswith("replicate.") and isinstance(logger, logging.Logger):
            lowest = min(lowest, logger.getEffectiveLevel())
    _native.set_log_level(max(0, min(255, max(lowest, manager.disable + 1))))


def _run() -> None:
    while True:
        batch = _native.bridge_take(_LEVEL_REFRESH)
        refresh_level()
        if batch is None:
            return
        _deliver(batch)


def _deliver(batch: list[_parts.Delivery]) -> None:
    for item in batch:
        try:
            if len(item) == 2:
                _deliver_event(*item)
            else:
                _deliver_line(*item)
        except Exception:
            # The next one gets its turn; this one is told like every error that ends a thread.
            kind, error, trace = sys.exc_info()
            threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))
            del error, trace


def _deliver_event(number: int, parts: Optional[_parts.EventParts]) -> None:
    if parts is None:
        _state.subscribers.pop(number, None)
        return
    callback = _state.subscribers.get(number)
    if callback is not None:
        callback(Event._of(parts))


def _deliver_line(level: int, target: str, file: str, line: int, text: str) -> None:
    logger = logging.getLogger(target.replace("::", "."))
    if logger.isEnabledFor(level):
        logger.handle(logger.makeRecord(logger.name, level, file, line, text, (), None))


def _end() -> None:
    """Stops every replicator of this process and then the bridge, each within its time."""
    _native.stop_all(EXIT_TIMEOUT)
    thread = _state.thread
    if thread is not None and thread is not threading.current_thread():
        _native.bridge_close()
        thread.join(_JOIN_TIMEOUT)


def _after_fork_in_child() -> None:
    global _state
    _state = _State()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
refresh_level()
