"""Two copies of SQLite in one process: the scenes and their negative controls, each in a process of its own.

Needs the library: `cargo build -p replicate-locklab`, or its path in `REPLICATE_LOCKLAB`.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import lab  # noqa: E402
import scenes  # noqa: E402
import scenes_process  # noqa: E402, F401
import stress  # noqa: E402

assert sys.platform == "linux", "the door is built for Linux"


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


def test_private_copy_exports_no_sqlite():
    names = exported(lab.library_path())
    assert "lab_isolate" in names, "the listing works"
    assert [name for name in names if name.startswith("sqlite3") or "replicate_fcntl" in name] == []


@pytest.fixture(scope="module")
def tracer(tmp_path_factory):
    """The witness that is loaded into a process. A tracer from outside would need a permission."""
    library = tmp_path_factory.mktemp("tracer") / "trace.so"
    compiler = os.environ.get("CC") or "cc"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o", library, HERE / "trace.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


def trace(tracer, name, folder):
    """The calls of a scene's main thread that concern locks, as lines with the paths of descriptors."""
    log = folder / "trace"
    command = [sys.executable, HERE / "scenes.py", name, folder]
    environment = {**os.environ, "LD_PRELOAD": str(tracer), "REPLICATE_TRACE": str(log)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=HERE, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [line for line in log.read_text().splitlines() if re.search(r"<[^>]*app\.db(-shm)?>", line)]


def classic(lines):
    return [line for line in lines if re.search(r"F_(SETLK|SETLKW|GETLK)\b", line)]


def test_trace_sees_what_the_host_does(tracer, tmp_path):
    lines = trace(tracer, "d2_attach_keeps_index", tmp_path)
    assert len(classic(lines)) > 10, "locks of the process"
    assert [line for line in lines if line.startswith("close(") and line.endswith("= 0")], "closes"


def test_trace_engine_closes_only_under_the_whole_lock(tracer, tmp_path):
    lines = trace(tracer, "every_call_without_host", tmp_path)
    # The probe tries them out, on a file of its own.
    assert classic(lines) == [], "the engine set a lock of the process"
    owners, closes = {}, 0
    for line in lines:
        number, path = re.match(r"\w+\((\d+)<([^>]*)>", line).groups()
        if "F_OFD_SETLK" in line and "F_WRLCK" in line and "l_start=0, l_len=0" in line and line.endswith("= 0"):
            owners[path] = number
        elif "F_OFD_SETLK" in line and "F_UNLCK" in line and "l_start=0, l_len=0" in line:
            owners.pop(path, None)
        elif line.startswith("close("):
            closes += 1
            assert path in owners, f"closed without the lock: {line}"
            if owners[path] == number:
                del owners[path]
    assert owners == {}, "the owner is closed last"
    assert closes > 4, "the trace shows closes at all"


def test_trace_attaching_never_cuts_the_index(tracer, tmp_path):
    lines = trace(tracer, "d2_attach_keeps_index", tmp_path)
    cuts = [line for line in lines if line.startswith("ftruncate(") and "-shm>" in line]
    # The host's own first open; one more would be the engine's, under the host's mapping.
    assert len([line for line in cuts if ", 3)" in line]) == 1, cuts


SECONDS = float(os.environ.get("REPLICATE_STRESS_SECS", "15"))


@pytest.mark.parametrize("reopen, stays", [(1, False), (1, True), (2, False), (60, False)])
def test_stress_loses_nothing(reopen, stays, tmp_path):
    problems, report = stress.run(tmp_path, SECONDS, reopen, stays=stays)
    assert problems == [], report
    assert report["acknowledged"] > 50 * SECONDS and report["cycles"] > SECONDS, f"hardly any load: {report}"
    assert report["pinned"] > 0, f"no read mark was ever put to the test: {report}"
    print(report)


@pytest.mark.parametrize("reopen", [2, 60])
def test_negative_stress_without_isolation_fails(reopen, tmp_path):
    problems, report = stress.run(tmp_path, 15, reopen, isolate=False)
    assert problems != [], f"the harness is blind: {report}"
    print(problems[:5])


def test_killing_host_and_engine_loses_nothing(tmp_path):
    problems, acknowledged = stress.kill_rounds(tmp_path, 6, 5)
    assert problems == []
    assert acknowledged > 100
