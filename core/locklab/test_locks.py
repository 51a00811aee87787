"""Two copies of SQLite in one process: the scenes and their negative controls, each in a process of its own.

Needs the library: `cargo build -p replicate-locklab`, or its path in `REPLICATE_LOCKLAB`.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import lab  # noqa: E402
import scenes  # noqa: E402
import scenes_process  # noqa: E402, F401
import stress  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the door is built for Linux")


def run(*arguments, seconds=120):
    command = [sys.executable, "-X", "faulthandler", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=HERE, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(scenes.SCENES))
def test_scene(name, tmp_path):
    code, output = run(HERE / "scenes.py", name, tmp_path)
    assert code == 0, output


def exported(path):
    """Names the dynamic loader can see, by `nm`."""
    listing = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in listing.splitlines()}


@pytest.mark.skipif(not shutil.which("nm"), reason="binutils are missing")
def test_private_copy_exports_no_sqlite():
    names = exported(lab.library_path())
    assert "lab_isolate" in names, "the listing works"
    assert [name for name in names if name.startswith("sqlite3") or "replicate_fcntl" in name] == []


SECONDS = float(os.environ.get("REPLICATE_STRESS_SECS", "15"))


@pytest.mark.parametrize("reopen", [1, 2, 60])
def test_stress_loses_nothing(reopen, tmp_path):
    problems, report = stress.run(tmp_path, SECONDS, reopen)
    assert problems == [], report
    assert report["acknowledged"] > 50 * SECONDS and report["cycles"] > SECONDS, f"hardly any load: {report}"
    assert report["pinned"] > 0, f"no read mark was ever put to the test: {report}"
    print(report)


@pytest.mark.parametrize("reopen", [2, 60])
def test_negative_stress_without_isolation_fails(reopen, tmp_path):
    problems, report = stress.run(tmp_path, 15, reopen, isolate=False)
    assert problems != [], f"the harness is blind: {report}"
    print(problems[:5])
