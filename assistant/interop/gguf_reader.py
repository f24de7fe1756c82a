"""The package `gguf`'s reader of GGUF files, which also refuses a file whose counts are larger than the file.

The package itself reads empty values after the end of a file, as often as a damaged count says: without an end, and
with 20 GB of memory after five minutes.
"""

from __future__ import annotations

from typing import Any

from gguf import GGUFReader
from numpy.typing import DTypeLike, NDArray

MAX_VALUES = 1 << 22
"""Values in a file that is read. A value takes half a kilobyte of memory. Llama 3's vocabulary has a million."""


class BoundedReader(GGUFReader):
    """Reads the settings and the tensors of a file, as GGUFReader does.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, IndexError, RecursionError: the file is damaged.
    """

    values = 0

    def _get(self, offset: int, dtype: DTypeLike, count: int = 1, *args: Any, **options: Any) -> NDArray[Any]:
        """Every value of the file is read by this method."""
        value: NDArray[Any] = super()._get(offset, dtype, count, *args, **options)
        self.values += 1
        if len(value) < count:
            raise ValueError(f"{count} values at byte {offset} of {len(self.data)}")
        if self.values > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values")
        return value
