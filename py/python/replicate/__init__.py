"""The package ``sqlite_replicate`` under its short name: both names are the same module.

The code is not here, because another distribution writes a package of this name into the same folder.
"""

import sys

from sqlite_replicate import *  # noqa: F403
from sqlite_replicate import __all__ as __all__, __version__ as __version__

for _name, _module in list(sys.modules.items()):
    if _name == "sqlite_replicate" or _name.startswith("sqlite_replicate."):
        sys.modules[__name__ + _name[len("sqlite_replicate") :]] = _module
