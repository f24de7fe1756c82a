"""Which tokens of a training batch are computed, and where they lie: each token, in what stands before it, once.

What rows open with alike has the same hidden states, keys and values in each of them, since nothing behind a token is
looked at and there is no dropout. So the rows are a tree, of which every branch is computed once, and padding is not
computed at all. Attention alone works on rows: the tokens are put into a grid for it, and taken out again.

Shapes: B rows, N tokens, P of them shared by all rows, U others, T columns of the grid, K targets, W any width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100
"""The target of a position that does not count; the default of torch's cross-entropy."""

ROUND_TO = 16
"""Sizes are filled up to a multiple of this on a processor. oneDNN makes its kernels anew for each size and does not give
back all of their memory, and it is a tenth slower at some odd sizes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout:
    """The N = P + U tokens of a batch in one list, the shared ones first, and what counts in the loss."""

    input_ids: Tensor
    """(N,) int64."""
    positions: Tensor
    """(N,) int64."""
    n_positions: int
    """Tokens of the longest row."""
    n_rows: int
    n_shared: int
    """P, what all rows open with. Every row has one token more at least; a row by itself shares nothing."""
    n_columns: int
    """T: the grid has B * T cells, row by row, for what stands behind the shared tokens."""
    mask: Tensor | None
    """(T, P + T) bool, which keys a cell looks at; the same for every row. None where nothing is shared."""
    token_of: Tensor | None
    """(B * T,) int64, which of the U tokens stands in a cell; in an empty one any. None where the U are the cells."""
    cell_of: Tensor
    """(U',) int64, the cell of each token that stands in one; behind them may be some that only fill up."""
    repeated: Tensor
    """(2, R) int64: further cells of tokens that stand in several, and these tokens."""
    wanted: Tensor
    """(K,) int64, the tokens that have a target: one for each different target that follows."""
    targets: Tensor
    """(K,) int64."""
    counts: Tensor
    """(B, K) float32, one where the target counts in the row, else zero."""

    def to(self, device: torch.device) -> Layout:
        """The same on another device."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return Layout(**(values | moved))

    def to_grid(self, tokens: Tensor) -> Tensor:
        """tokens (U, W) -> cells (B * T, W)."""
        if self.token_of is None:
            return tokens
        cells: Tensor = _ToGrid.apply(tokens, self)  # type: ignore[no-untyped-call]
        return cells

    def from_grid(self, cells: Tensor) -> Tensor:
        """cells (B * T, W) -> tokens (U, W)."""
        if self.token_of is None:
            return cells
        tokens: Tensor = _FromGrid.apply(cells, self)  # type: ignore[no-untyped-call]
        return tokens


class _ToGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, layout: Layout) -> Tensor:
        assert layout.token_of is not None
        ctx.layout, ctx.n_tokens = layout, len(tokens)
        return tokens.index_select(0, layout.token_of)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layout: Layout = ctx.layout
        found = _filled_up(gradient.index_select(0, layout.cell_of), ctx.n_tokens)
        cells, tokens = layout.repeated
        return found.index_add_(0, tokens, gradient.index_select(0, cells)), None


class _FromGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, layout: Layout) -> Tensor:
        ctx.layout, ctx.n_cells = layout, len(cells)
        return _filled_up(cells.index_select(0, layout.cell_of), len(layout.input_ids) - layout.n_shared)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layout: Layout = ctx.layout
        found = gradient.new_zeros(ctx.n_cells, gradient.shape[1])
        return found.index_copy_(0, layout.cell_of, gradient[: len(layout.cell_of)]), None


def _filled_up(tokens: Tensor, size: int) -> Tensor:
    """(U', W) -> (U, W) with zeros at the end."""
    return F.pad(tokens, (0, 0, 0, size - len(tokens)))


def lay_out(
    inputs: Sequence[tuple[int, ...]], targets: Sequence[tuple[int, ...]], *, pad_id: int, in_grid: bool = False
) -> Layout:
    """The layout of a batch of rows, none of them empty, and of their targets, one for every id or IGNORE_INDEX.

    With `in_grid` only what all rows open with is computed once, and the cells of the grid are computed as they are:
    a GPU would wait longer for the putting in and out.
    """
    n_shared = min(_common_prefix(inputs), min(map(len, inputs)) - 1) if len(inputs) > 1 else 0
    n_columns = max(map(len, inputs)) - n_shared
    n_columns += 0 if in_grid else -n_columns % ROUND_TO
    n_cells = len(inputs) * n_columns
    ids, positions = list(inputs[0][:n_shared]), list(range(n_shared))
    if in_grid:
        ids += n_cells * [pad_id]
        positions += len(inputs) * list(range(n_shared, n_shared + n_columns))
    tree: dict[tuple[int, int], int] = {}  # (token before, id) -> token
    wanted: dict[tuple[int, int], int] = {}  # (token, target) -> which of the K
    counted: list[tuple[int, int]] = []
    token_of, cell_of, repeated = n_cells * [0], [], []
    for row, (row_ids, row_targets) in enumerate(zip(inputs, targets, strict=True)):
        token = -1
        for place, (id_, target) in enumerate(zip(row_ids, row_targets, strict=True)):
            cell, before = row * n_columns + place - n_shared, token
            if place < n_shared:
                token = place
            elif in_grid:
                token = n_shared + cell
                ids[token] = id_
            else:
                token = tree.setdefault((before, id_), len(ids))
                token_of[cell] = token - n_shared
                if token == len(ids):
                    ids.append(id_)
                    positions.append(place)
                    cell_of.append(cell)
                else:
                    repeated.append((cell, token - n_shared))
            if target != IGNORE_INDEX:
                counted.append((row, wanted.setdefault((token, target), len(wanted))))
    fill, fill_wanted = (0, 0) if in_grid else (-len(ids) % ROUND_TO, -len(wanted) % ROUND_TO)
    counts = torch.zeros(len(inputs), len(wanted) + fill_wanted)
    counts[tuple(torch.tensor(counted, dtype=torch.int64).view(-1, 2).T)] = 1.0
    columns = torch.arange(n_shared + n_columns)
    return Layout(
        input_ids=torch.tensor(ids + fill * [pad_id]),
        positions=torch.tensor(positions + fill * [0]),
        n_positions=max(map(len, inputs)),
        n_rows=len(inputs),
        n_shared=n_shared,
        n_columns=n_columns,
        mask=columns <= columns[n_shared:, None] if n_shared else None,
        token_of=None if in_grid else torch.tensor(token_of),
        cell_of=torch.tensor(cell_of, dtype=torch.int64),
        repeated=torch.tensor(repeated, dtype=torch.int64).view(-1, 2).T,
        wanted=torch.tensor([token for token, _ in wanted] + fill_wanted * [0], dtype=torch.int64),
        targets=torch.tensor([target for _, target in wanted] + fill_wanted * [0], dtype=torch.int64),
        counts=counts,
    )


def _common_prefix(rows: Sequence[tuple[int, ...]]) -> int:
    """How many ids all rows open with. The first and the last in order differ earliest."""
    first, last = min(rows), max(rows)
    pairs = zip(first, last, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(last)))
