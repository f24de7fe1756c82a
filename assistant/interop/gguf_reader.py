"""The package `gguf`'s reader of GGUF files, which also refuses a file whose counts are larger than the file.

The package itself reads empty values after the end of a file, as often as a damaged count says: without an end, and
with 6 GB of memory after a minute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, ReaderField
from numpy.typing import DTypeLike, NDArray

MAX_VALUES = 1 << 21
"""Values in a file that is read. A value takes half a kilobyte of memory. A file of Llama 3 has a million."""


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

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == GGUFValueType.ARRAY:
            length = int(self._get(orig_offs + 4, np.uint64)[0])  # after the type of the items
            if self.values + length > MAX_VALUES:
                raise ValueError(f"an array of {length:,} values")
        return super()._get_field_parts(orig_offs, raw_type)

    def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
        for field in fields:
            offset = int(field.parts[-1][0])
            if offset > len(self.data):  # The package's sum of two offsets would start again from zero.
                raise ValueError(f"a tensor at byte {offset} of {len(self.data)}")
        super()._build_tensors(start_offs, fields)
