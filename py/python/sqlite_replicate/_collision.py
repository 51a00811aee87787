"""A warning about another distribution that installs a package called ``replicate`` too.

Both write the same folder, so the one installed last is what ``import replicate`` finds, without a word.
"""

from __future__ import annotations

import warnings
from importlib import metadata


def warn_if_shadowed() -> None:
    """Warns if the other distribution is installed."""
    try:
        other = metadata.distribution("replicate")
    except metadata.PackageNotFoundError:
        return
    warnings.warn(
        f"the distribution 'replicate' {other.version} is installed beside 'sqlite-replicate', and both provide "
        "a package called replicate: write 'import sqlite_replicate', which is always this one",
        RuntimeWarning,
        stacklevel=3,
    )
