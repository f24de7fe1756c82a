"""Which tokens of a training batch are computed, and who looks at whom.

What rows open with alike has the same hidden states, keys and values in each of them, since nothing behind a token is
looked at and there is no dropout. So where the loops of `fused` are there to attend to it, the rows are a
tree, of which every branch is computed once, and padding is not computed at all. Elsewhere what all rows open with is
computed once, and the rest lies in a grid, padding and all: a GPU would wait longer for any other order.

Shapes: B rows, N tokens, P of them shared by all rows of a grid, T columns of the grid, K targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""The target of a position that does not count; the default of torch's cross-entropy."""

ROUND_TO = 16
"""Sizes of a tree are filled up to a multiple of this. oneDNN makes its kernels anew for each size and does not give
back all of their memory, and it is a tenth slower at some odd sizes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tree:
    """Rows as paths through a tree of tokens."""

    paths: Tensor
    """(B, longest) int32, the tokens of each row in order, zeros behind them."""
    spans: Tensor
    """(B, 2) int32: the place of a row's first token that stands in no row before it, and the row's length."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """The N = P + B * T tokens are the shared ones and then the others, row by row."""

    n_rows: int
    n_shared: int
    """P. Every row has one token more at least; a row by itself shares nothing."""
    mask: Tensor | None
    """(T, P + T) bool, at which the tokens of a row look; the same for every row. None where nothing is shared."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout:
    """The N tokens of a batch in one list, and what counts in the loss."""

    input_ids: Tensor
    """(N,) int64. Some at the end may belong to no row, and only fill up."""
    positions: Tensor
    """(N,) int64."""
    n_positions: int
    """Tokens of the longest row."""
    rows: Tree | Grid
    wanted: Tensor
    """(K,) int64, the tokens that have a target: one for each different target that follows."""
    targets: Tensor
    """(K,) int64."""
    counts: Tensor
    """(B, K) float32, one where the target counts in the row, else zero."""

    def to(self, device: torch.device) -> Layout:
        """The same on another device."""
        moved: Layout = _moved(self, device, rows=_moved(self.rows, device))
        return moved


def _moved(value: Any, device: torch.device, **others: Any) -> Any:
    """A dataclass with its tensors on a device."""
    values = {field.name: getattr(value, field.name) for field in fields(value)}
    moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
    return replace(value, **moved, **others)


def lay_out(
    inputs: Sequence[tuple[int, ...]], targets: Sequence[tuple[int, ...]], *, pad_id: int, as_tree: bool = False
) -> Layout:
    """The layout of a batch of rows, none of them empty, and of their targets, one for every id or IGNORE_INDEX."""
    ids, paths, rows = _grow(inputs) if as_tree else _put_into_grid(inputs, pad_id)
    positions = len(ids) * [0]
    wanted: dict[tuple[int, int], int] = {}  # (token, target) -> which of the K
    counted: list[tuple[int, int]] = []
    for row, (path, row_targets) in enumerate(zip(paths, targets, strict=True)):
        for place, (token, target) in enumerate(zip(path, row_targets, strict=True)):
            positions[token] = place
            if target != IGNORE_INDEX:
                counted.append((row, wanted.setdefault((token, target), len(wanted))))
    fill, fill_wanted = (-len(ids) % ROUND_TO, -len(wanted) % ROUND_TO) if as_tree else (0, 0)
    counts = torch.zeros(len(inputs), len(wanted) + fill_wanted)
    counts[tuple(torch.tensor(counted, dtype=torch.int64).view(-1, 2).T)] = 1.0
    return Layout(
        input_ids=torch.tensor(ids + fill * [pad_id]),
        positions=torch.tensor(positions + fill * [0]),
        n_positions=max(map(len, inputs)),
        rows=rows,
        wanted=torch.tensor([token for token, _ in wanted] + fill_wanted * [0], dtype=torch.int64),
        targets=torch.tensor([target for _, target in wanted] + fill_wanted * [0], dtype=torch.int64),
        counts=counts,
    )


def _grow(inputs: Sequence[tuple[int, ...]]) -> tuple[list[int], list[list[int]], Tree]:
    """The ids of all tokens, which of them each row is, and the tree: each token once in what stands before it."""
    ids: list[int] = []
    tree: dict[tuple[int, int], int] = {}  # (token before, id) -> token
    paths, spans = [], []
    for row_ids in inputs:
        path, known, token = [], len(ids), -1
        for id_ in row_ids:
            token = tree.setdefault((token, id_), len(ids))
            if token == len(ids):
                ids.append(id_)
            path.append(token)
        paths.append(path)
        spans.append((sum(token < known for token in path), len(path)))
    longest = max(map(len, paths))
    filled = [path + (longest - len(path)) * [0] for path in paths]
    return ids, paths, Tree(paths=torch.tensor(filled, dtype=torch.int32), spans=torch.tensor(spans, dtype=torch.int32))


def _put_into_grid(inputs: Sequence[tuple[int, ...]], pad_id: int) -> tuple[list[int], list[list[int]], Grid]:
    """The ids of all tokens, which of them each row is, and the grid."""
    n_shared = min(_common_prefix(inputs), min(map(len, inputs)) - 1) if len(inputs) > 1 else 0
    n_columns = max(map(len, inputs)) - n_shared
    ids, paths = list(inputs[0][:n_shared]), []
    for row_ids in inputs:
        own = row_ids[n_shared:]
        paths.append([*range(n_shared), *range(len(ids), len(ids) + len(own))])
        ids += [*own, *((n_columns - len(own)) * [pad_id])]
    columns = torch.arange(n_shared + n_columns)
    mask = columns <= columns[n_shared:, None] if n_shared else None
    return ids, paths, Grid(n_rows=len(inputs), n_shared=n_shared, mask=mask)


def _common_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """How many ids all rows open with. The first and the last in order differ earliest."""
    first, last = min(rows), max(rows)
    pairs = zip(first, last, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(last)))
