"""Packed batches: which tokens of a training batch are computed, and which tokens attend to which.

Rows that start with the same tokens have the same hidden states, keys and values there, because attention is causal and
the model has no dropout. Two arrangements compute such tokens only once:

- `PrefixTree`, on a processor with the compiled loops of `fused`: the rows are paths through a tree of tokens. Each
  branch is computed once, and padding is not computed at all.
- `PaddedRows`, elsewhere: the prefix that all rows share is computed once, and the rest lies in a padded grid. On a
  GPU any other arrangement takes more time.

Shapes: B rows, N tokens, P shared prefix tokens of a grid, T columns of the grid, K target positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""Target of a position that does not count in the loss; the default of torch's cross-entropy."""

ROUND_TO = 16
"""Sizes of a tree are rounded up to a multiple of this. oneDNN compiles its kernels for each size and does not free all
of their memory, and some odd sizes are a tenth slower."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrefixTree:
    """Rows as paths through a tree of tokens."""

    paths: Tensor
    """(B, longest) int32: the tokens of each row in order, padded with zeros."""
    spans: Tensor
    """(B, 2) int32: for each row, the index in its path of the first token that no earlier row has, and its length."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PaddedRows:
    """A shared prefix and a padded grid: the N = P + B * T tokens are the shared ones, then the rest row by row."""

    n_rows: int
    n_shared: int
    """P. Every row has at least one token more; a single row shares nothing."""
    mask: Tensor | None
    """(T, P + T) bool: the positions that each column attends to, the same for every row. None if P is 0."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedBatch:
    """The N tokens of a batch in one list, and the targets that count in the loss."""

    input_ids: Tensor
    """(N,) int64. Tokens at the end may belong to no row; they only round up the size."""
    positions: Tensor
    """(N,) int64."""
    n_positions: int
    """Tokens of the longest row."""
    rows: PrefixTree | PaddedRows
    target_positions: Tensor
    """(K,) int64: tokens that have a target, once for each different target."""
    targets: Tensor
    """(K,) int64."""
    target_mask: Tensor
    """(B, K) float32: 1 where the target counts in that row, else 0."""

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on another device."""
        moved: PackedBatch = _moved(self, device, rows=_moved(self.rows, device))
        return moved


def _moved(value: Any, device: torch.device, **others: Any) -> Any:
    """A dataclass with its tensors on a device."""
    values = {field.name: getattr(value, field.name) for field in fields(value)}
    moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
    return replace(value, **moved, **others)


def pack(
    inputs: Sequence[tuple[int, ...]], targets: Sequence[tuple[int, ...]], *, pad_id: int, as_tree: bool = False
) -> PackedBatch:
    """Pack rows of token ids. No row may be empty; `targets` has an id or IGNORE_INDEX for every input id."""
    ids, paths, rows = _build_tree(inputs) if as_tree else _build_grid(inputs, pad_id)
    positions = len(ids) * [0]
    target_index: dict[tuple[int, int], int] = {}  # (token, target) -> index among the K
    counted: list[tuple[int, int]] = []  # (row, index among the K)
    for row, (path, row_targets) in enumerate(zip(paths, targets, strict=True)):
        for position, (token, target) in enumerate(zip(path, row_targets, strict=True)):
            positions[token] = position
            if target != IGNORE_INDEX:
                counted.append((row, target_index.setdefault((token, target), len(target_index))))
    fill, target_fill = (-len(ids) % ROUND_TO, -len(target_index) % ROUND_TO) if as_tree else (0, 0)
    target_mask = torch.zeros(len(inputs), len(target_index) + target_fill)
    target_mask[tuple(torch.tensor(counted, dtype=torch.int64).view(-1, 2).T)] = 1.0
    return PackedBatch(
        input_ids=torch.tensor(ids + fill * [pad_id]),
        positions=torch.tensor(positions + fill * [0]),
        n_positions=max(map(len, inputs)),
        rows=rows,
        target_positions=torch.tensor([token for token, _ in target_index] + target_fill * [0], dtype=torch.int64),
        targets=torch.tensor([target for _, target in target_index] + target_fill * [0], dtype=torch.int64),
        target_mask=target_mask,
    )


def row_tokens(rows: PrefixTree | PaddedRows, lengths: Sequence[int]) -> list[Tensor]:
    """The indices among the N tokens of every row's tokens, in order: int64, one tensor (length,) for each row."""
    if isinstance(rows, PrefixTree):
        return [path[:length].long() for path, length in zip(rows.paths, lengths, strict=True)]
    n_shared = rows.n_shared
    n_columns = max(lengths) - n_shared
    shared = torch.arange(n_shared)
    starts = range(n_shared, n_shared + rows.n_rows * n_columns, n_columns)
    return [
        torch.cat([shared, torch.arange(start, start + length - n_shared)])
        for start, length in zip(starts, lengths, strict=True)
    ]


def _build_tree(inputs: Sequence[tuple[int, ...]]) -> tuple[list[int], list[list[int]], PrefixTree]:
    """The ids of all tokens, the path of each row, and the tree: equal prefixes share their tokens."""
    ids: list[int] = []
    children: dict[tuple[int, int], int] = {}  # (parent token, id) -> token
    paths, spans = [], []
    for row_ids in inputs:
        path, n_known, token = [], len(ids), -1
        for id_ in row_ids:
            token = children.setdefault((token, id_), len(ids))
            if token == len(ids):
                ids.append(id_)
            path.append(token)
        paths.append(path)
        spans.append((sum(token < n_known for token in path), len(path)))
    longest = max(map(len, paths))
    padded = [path + (longest - len(path)) * [0] for path in paths]
    tree = PrefixTree(paths=torch.tensor(padded, dtype=torch.int32), spans=torch.tensor(spans, dtype=torch.int32))
    return ids, paths, tree


def _build_grid(inputs: Sequence[tuple[int, ...]], pad_id: int) -> tuple[list[int], list[list[int]], PaddedRows]:
    """The ids of all tokens, the path of each row, and the grid."""
    pairs = zip(min(inputs), max(inputs), strict=False)  # in sorted order, the first and the last row differ earliest
    n_common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    n_shared = min(n_common, min(map(len, inputs)) - 1) if len(inputs) > 1 else 0
    n_columns = max(map(len, inputs)) - n_shared
    ids, paths = list(inputs[0][:n_shared]), []
    for row_ids in inputs:
        own = row_ids[n_shared:]
        paths.append([*range(n_shared), *range(len(ids), len(ids) + len(own))])
        ids += [*own, *((n_columns - len(own)) * [pad_id])]
    columns = torch.arange(n_shared + n_columns)
    mask = columns <= columns[n_shared:, None] if n_shared else None
    return ids, paths, PaddedRows(n_rows=len(inputs), n_shared=n_shared, mask=mask)
