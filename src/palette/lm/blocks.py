"""Rows of a batch by the adapter that each goes through, in blocks of one size: a batched product each.

A matrix is read once for its block, where a copy for every row would not fit into a processor's cache.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """The rows of a batch in blocks of one size that each go through one adapter."""

    adapter: Tensor
    """(blocks,) number of each block's adapter"""
    rows: Tensor | None
    """(blocks · size,) the row at each place, any where a block is not full; None: as they are"""
    back: Tensor | None
    """(rows,) the place of each row"""

    def through(self, inputs: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """(rows, tokens, out): every row of the inputs (rows, tokens, in) times its block's matrices.

        Args:
            a, b: (blocks, in, rank) and (blocks, rank, out).
        """
        where = inputs.device
        x = inputs if self.rows is None else inputs.index_select(0, self.rows.to(where))
        product = (x.reshape(len(a), -1, x.shape[-1]) @ a @ b).view(len(x), x.shape[1], -1)
        return product if self.back is None else product.index_select(0, self.back.to(where))


def blocks_of(group: Tensor) -> Blocks:
    """As many rows to a block as an adapter has on average: at most twice as many places as rows.

    Args:
        group: (rows,) number of each row's adapter.
    """
    adapter, own, counts = group.unique(return_inverse=True, return_counts=True)
    size = -(-len(group) // len(adapter))
    if size == 1:
        return Blocks(group, None, None)
    blocks = (counts + size - 1) // size
    order = own.argsort(stable=True)
    rank = torch.arange(len(group)) - (counts.cumsum(0) - counts)[own[order]]
    back, rows = torch.empty_like(order), order.new_zeros(int(blocks.sum()) * size)
    back[order] = ((blocks.cumsum(0) - blocks) * size)[own[order]] + rank
    rows[back] = torch.arange(len(group))
    each = adapter.repeat_interleave(blocks)
    if torch.equal(back, torch.arange(len(rows))):
        return Blocks(each, None, None)
    return Blocks(each, rows, back)
