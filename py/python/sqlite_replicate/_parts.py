"""The tuples of the native module, for type checkers. Nothing imports this when the package runs."""

import os
from typing import Optional, Union

ErrorParts = tuple[int, str, Optional[str], Optional[str]]
StatusParts = tuple[int, int, bool, str, Optional[ErrorParts], Optional[int], int, list[str]]
StopParts = tuple[bool, int, int, Optional[ErrorParts]]
RestoreParts = tuple[int, int, int, int, int, int, str, float]
LtxParts = tuple[int, int, int, int, Optional[int], int, str]
EventParts = tuple[str, list[tuple[str, Union[int, str, float, ErrorParts]]]]
Delivery = Union[tuple[int, str, str, int, str], tuple[int, Optional[EventParts]]]
Pairs = list[tuple[str, str]]
Path = Union[str, "os.PathLike[str]"]
