#!/usr/bin/env python3
"""Restores a sealed replica with nothing but `age` and Python's standard library.

    restore_by_hand.py FOLDER IDENTITY_FILE OUTPUT

FOLDER is the replica, copied from its store with any tool; IDENTITY_FILE holds the private key, in the form of
`age-keygen` and `replicate keygen`; `-` for a plain replica. This is for the day when no release of `replicate` is at
hand: it is slow, trusts age for integrity instead of the checksums of the files, and does not ask who has made them.
"""

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ltx")


def opened(path: Path, identity: str) -> bytes:
    """The LTX file in an object, if it is the one that its name says."""
    data = path.read_bytes()
    if data.startswith(b"age-encryption.org/") == (identity == "-"):
        raise SystemExit(f"{path} is {'sealed' if identity == '-' else 'not sealed'}")
    if identity != "-":
        data = subprocess.run(["age", "-d", "-i", identity, str(path)], check=True, stdout=subprocess.PIPE).stdout
    if f"{data[16:24].hex()}-{data[24:32].hex()}.ltx" != path.name:
        raise SystemExit(f"{path} is another file than its name says")
    return data


def lz4_block(data: bytes) -> bytes:
    """An LZ4 block, decompressed."""
    out, at = bytearray(), 0

    def length(nibble: int, at: int) -> tuple[int, int]:
        if nibble == 15:
            while True:
                nibble, at = nibble + data[at], at + 1
                if data[at - 1] != 255:
                    break
        return nibble, at

    while at < len(data):
        token, at = data[at], at + 1
        literals, at = length(token >> 4, at)
        out += data[at : at + literals]
        at += literals
        if at >= len(data):
            break
        distance, at = int.from_bytes(data[at : at + 2], "little"), at + 2
        match, at = length(token & 15, at)
        for _ in range(match + 4):
            out.append(out[-distance])
    return bytes(out)


def pages(ltx: bytes) -> "tuple[int, int, dict[int, bytes]]":
    """Page size, pages of the database, and the pages in the file (core/docs/FORMAT.md)."""
    if ltx[:4] != b"LTX1":
        raise SystemExit("not an LTX file")
    size, commit = int.from_bytes(ltx[8:12], "big"), int.from_bytes(ltx[12:16], "big")
    found, at = {}, 100
    while True:
        number, flags, at = int.from_bytes(ltx[at : at + 4], "big"), ltx[at + 5], at + 6
        if number == 0:
            return size, commit, found
        page = b""
        if flags & 1:
            length = int.from_bytes(ltx[at : at + 4], "big")
            page, at = lz4_block(ltx[at + 4 : at + 4 + length]), at + 4 + length
        else:
            at += 15 if ltx[at + 4] & 8 else 7  # with or without the length of the page
            while (length := int.from_bytes(ltx[at : at + 4], "little")) != 0:
                stored, length = length >> 31, length & 0x7FFFFFFF
                block = ltx[at + 4 : at + 4 + length]
                page, at = page + (block if stored else lz4_block(block)), at + 4 + length
            at += 8
        if len(page) != size:
            raise SystemExit(f"page {number} is damaged")
        found[number] = page


def chosen(folder: Path) -> "list[Path]":
    """The files to apply, in order: a whole image, then always what leads furthest without a gap."""
    files = [(path, NAME.fullmatch(path.name)) for path in folder.rglob("*.ltx")]
    spans = [(int(m[1], 16), int(m[2], 16), path) for path, m in files if m]
    plan, reached = [], 0
    # The newest image; then whatever goes on from there.
    for first, last, path in sorted(spans, key=lambda span: span[1], reverse=True):
        if first == 1 and re.fullmatch("9|0009", path.parent.name):
            plan, reached = [path], last
            break
    while steps := [span for span in spans if span[0] <= reached + 1 and span[1] > reached]:
        _, reached, path = max(steps, key=lambda span: (span[1], span[0]))
        plan.append(path)
    if not plan:
        raise SystemExit("there is no backup that begins at the first transaction")
    if beyond := max(span[1] for span in spans) - reached:
        raise SystemExit(f"{beyond} transactions at the end do not follow: files are missing")
    return plan


def main(folder: str, identity: str, output: str) -> None:
    if Path(output).exists():
        raise SystemExit(f"{output} exists")
    database, size, commit = {}, 0, 0
    for path in chosen(Path(folder)):
        size, commit, found = pages(opened(path, identity))
        database.update(found)
    part = Path(output + ".part")
    try:
        with open(part, "wb") as file:
            for number in range(1, commit + 1):
                file.write(database.get(number, bytes(size)))
        with closing(sqlite3.connect(part)) as check:
            if (answer := check.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                raise SystemExit(f"the restored database is damaged: {answer}")
        part.rename(output)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
