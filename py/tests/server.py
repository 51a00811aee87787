"""A real S3 server on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Optional

import pytest
from support import free_port, until


def _program() -> Optional[Path]:
    given = os.environ.get("REPLICATE_VERSITYGW")
    installed = (Path(__file__).parents[2] / "target" / "tools" / "bin").glob("versitygw-*")
    return Path(given) if given else max(installed, default=None)


PROGRAM = _program()


class Server:
    """A versitygw on a folder."""

    def __init__(self, folder: Path) -> None:
        if PROGRAM is None:
            pytest.fail("no S3 server: `cargo xtask test python` brings it, or set REPLICATE_VERSITYGW")
        self.program, self.folder, self.port = PROGRAM, folder, free_port()
        self.process: Optional[subprocess.Popen[bytes]] = None
        (folder / "bkt").mkdir(parents=True)

    def start(self) -> None:
        """Starts it, on the same port each time."""
        self.process = subprocess.Popen(
            [self.program, "--port", f"127.0.0.1:{self.port}", "--quiet", "--keep-alive", "posix", self.folder],
            env={**os.environ, "ROOT_ACCESS_KEY": "access", "ROOT_SECRET_KEY": "hush-hush"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self.answers, "the S3 server listens")

    def answers(self) -> bool:
        """Whether it listens."""
        assert self.process is not None and self.process.poll() is None, "the S3 server has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self, signal_: int) -> None:
        """Ends it."""
        if self.process is not None:
            self.process.send_signal(signal_)
            self.process.wait(timeout=30)
            self.process = None

    def options(self, prefix: str = "app") -> dict[str, str]:
        """Options of a replica on it."""
        url = f"s3://bkt/{prefix}?endpoint=http://127.0.0.1:{self.port}&region=us-east-1&force-path-style=true"
        return {"url": url, "access_key": "access", "secret_key": "hush-hush"}
