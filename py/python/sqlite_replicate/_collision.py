"""A warning about another distribution that installs a package called ``replicate`` too.

Both write the same folder, so the one installed last is what ``import replicate`` finds, without a word.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from typing import Optional

# Looking at names costs a fifth of importing `importlib.metadata`, in every program that imports this.
_INSTALLED = re.compile(r"replicate-(?P<version>[^-]+)(-.*)?\.(dist-info|egg-info)", re.IGNORECASE)


def warn_if_shadowed() -> None:
    """Warns if the other distribution is installed."""
    version = _other_version()
    if version is not None:
        warnings.warn(
            f"the distribution 'replicate' {version} is installed beside 'sqlite-replicate', and both provide "
            "a package called replicate: write 'import sqlite_replicate', which is always this one",
            RuntimeWarning,
            stacklevel=3,
        )


def _other_version() -> Optional[str]:
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue  # a zip file, or a folder that does not exist
        for name in names:
            match = _INSTALLED.fullmatch(name)
            if match:
                return match["version"]
    return None
