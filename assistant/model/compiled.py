"""Loading a library that is compiled when the project is installed, if there is a C compiler."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from importlib.util import find_spec


def load_library(
    module: str, version: int, integer_functions: Sequence[str], agrees: Callable[[ctypes.CDLL], bool]
) -> tuple[ctypes.CDLL | None, str]:
    """Load a library by its module's name, and check it.

    `version` must equal the library's `interface_version`: an installation may have new sources and an old library.
    `integer_functions` return an int64. `agrees` computes something with the library and compares it with torch.

    Returns the library and an empty text; or None and the problem, which is empty if no library is installed.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return None, ""
    try:
        library = ctypes.CDLL(spec.origin)
        for name in integer_functions:
            getattr(library, name).restype = ctypes.c_int64
        found = ctypes.c_int64.in_dll(library, "interface_version").value
        if found != version:
            fault = f"interface version {found}"
        elif not agrees(library):
            fault = "different results"
        else:
            return library, ""
    except (OSError, AttributeError, ValueError) as error:  # not a library, one for another machine, or a very old one
        fault = str(error)
    return None, f"{spec.origin}: expected a compiled library of version {version} that matches torch, got {fault}"
