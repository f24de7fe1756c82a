"""Packed batches written out by hand: a tree of shared prefixes, and a grid with one shared prefix."""

from __future__ import annotations

from assistant.model.packing import IGNORE_INDEX, PackedBatch, PaddedRows, PrefixTree, pack

NO = IGNORE_INDEX


def target_pairs(batch: PackedBatch) -> list[tuple[int, int]]:
    """Return (token, target) of all K targets."""
    return list(zip(batch.target_positions.tolist(), batch.targets.tolist(), strict=True))


def test_a_tree_computes_shared_prefixes_once() -> None:
    """All rows start with 1, and two of them continue with 2. The last of the 16 slots only round up the size."""
    inputs = [(1, 2, 3, 4), (1, 2, 5), (1, 7)]
    targets = [(NO, NO, 4, 9), (NO, 5, 9), (NO, 4)]
    batch = pack(inputs, targets, pad_id=9, as_tree=True)
    assert batch.input_ids.tolist() == [1, 2, 3, 4, 5, 7, *(10 * [9])]
    assert batch.positions.tolist()[:6] == [0, 1, 2, 3, 2, 1]
    assert batch.n_positions == 4
    assert isinstance(batch.rows, PrefixTree)
    assert batch.rows.paths.tolist() == [[0, 1, 2, 3], [0, 1, 4, 0], [0, 5, 0, 0]]
    assert batch.rows.spans.tolist() == [[0, 4], [2, 3], [1, 2]]
    assert target_pairs(batch)[:5] == [(2, 4), (3, 9), (1, 5), (4, 9), (5, 4)]
    assert batch.target_mask.shape == (3, 16)
    assert batch.target_mask.tolist()[0][:5] == [1, 1, 0, 0, 0]


def test_equal_rows_of_a_tree_share_their_targets() -> None:
    inputs, targets = [(1, 2, 4), (1, 2, 4), (3,)], [(NO, 4, 9), (NO, 4, 9), (9,)]
    batch = pack(inputs, targets, pad_id=9, as_tree=True)
    assert batch.target_mask[:, :3].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert isinstance(batch.rows, PrefixTree)
    assert batch.rows.spans.tolist() == [[0, 3], [3, 3], [0, 1]]


def test_a_grid_computes_the_common_prefix_once() -> None:
    batch = pack([(1, 2, 3, 4), (1, 2, 5)], [(NO, NO, 4, 9), (NO, 5, 9)], pad_id=9)
    assert batch.input_ids.tolist() == [1, 2, 3, 4, 5, 9]
    assert batch.positions.tolist() == [0, 1, 2, 3, 2, 0]
    assert isinstance(batch.rows, PaddedRows)
    assert (batch.rows.n_rows, batch.rows.n_shared) == (2, 2)
    assert batch.rows.mask is not None
    assert batch.rows.mask.tolist() == [[True, True, True, False], [True, True, True, True]]
    assert target_pairs(batch) == [(2, 4), (3, 9), (1, 5), (4, 9)]
    assert batch.target_mask.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
