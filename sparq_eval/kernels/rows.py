"""Rows of a tensor's memory summed by weight, as torch's embedding bag does it on a CPU: nothing is gathered first."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sparq_eval.step import Visible

BLOCK = 2**20  # narrow elements that are made wide at once: few enough for a cache, many for each call
NO_NUMBER = 0x7F  # in float8 e4m3, beside its sign


def scratch(visible: Visible, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory that the layers of a step use one after another: fresh memory costs as much as the work in it."""
    return visible.once((name, tuple(shape), dtype), lambda: torch.empty(tuple(shape), dtype=dtype))


class Table(NamedTuple):
    """A tensor's memory as rows of equal width, wherever it starts.

    first: the row with the first element of each example and head. step: rows from one entry of dimension 2 to the
    next. skip: elements of a row before the tensor's own.
    """

    rows: Shaped[Tensor, "rows W"]
    first: Int[Tensor, "B H 1"]
    step: int
    skip: int


def as_table(x: Shaped[Tensor, "B H M L"], width: int) -> Table:
    """x without a copy. Raises ValueError where x does not lie in rows of this width."""
    strides = [x.stride(dim) if x.shape[dim] > 1 else 0 for dim in range(3)]
    L = x.shape[3]
    if (L > 1 and x.stride(3) != 1) or any(stride % width for stride in strides):
        raise ValueError(f"keys, values and columns must lie in rows that are whole; got strides {x.stride()}")
    example, head, step = (stride // width for stride in strides)
    number = ceil(L / width) + sum((size - 1) * stride // width for size, stride in zip(x.shape, strides, strict=False))
    # the last row may reach beyond the memory: then all rows start earlier
    start, end = int(x.storage_offset()), x.untyped_storage().nbytes() // x.itemsize
    skip = max(0, start + number * width - end)
    if skip > start:
        raise ValueError(f"keys, values and columns must lie in rows that are whole; got {end} elements in all")
    rows = x.as_strided((number, width), (width, 1), start - skip)
    first = torch.arange(x.shape[0])[:, None, None] * example + torch.arange(x.shape[1])[:, None] * head
    return Table(rows, first, step, skip)


def bags(
    rows: Float[Tensor, "rows W"], index: Int[Tensor, "bags R"], weights: Float[Tensor, "bags G R"]
) -> Float[Tensor, "bags G W"]:
    """Rows of a table summed by weight."""
    G, R = weights.shape[1:]
    every = index[:, None].expand(-1, G, -1).reshape(-1, R)
    return F.embedding_bag(every, rows, mode="sum", per_sample_weights=weights.flatten(0, 1)).unflatten(0, (-1, G))


def bags_of_narrow(
    rows: Shaped[Tensor, "rows W"], index: Int[Tensor, "bags R"], weights: Float[Tensor, "bags G R"], visible: Visible
) -> Float[Tensor, "bags G W"]:
    """The same for int8 and float8, which are made wide a few at a time."""
    R, W = index.shape[1], rows.shape[1]
    int8 = rows.dtype == torch.int8
    # from float16, see below, torch is quick to float32 and slow to bfloat16
    weights = weights if int8 else weights.float()
    some = max(1, BLOCK // (R * W))
    chosen, shifted, wide = (
        scratch(visible, "narrow", (some * R, W), dtype) for dtype in (torch.int8, torch.int16, weights.dtype)
    )
    sums = []
    for i, w in zip(index.split(some), weights.split(some), strict=True):
        n = i.numel()
        torch.index_select(rows.view(torch.int8), 0, i.flatten(), out=chosen[:n])
        if int8:
            wide[:n].copy_(chosen[:n])
        else:
            # torch converts float8 one by one; shifted by 7, without the second copy of its sign, it is a float16
            bits = shifted[:n].copy_(chosen[:n]).bitwise_left_shift_(7).bitwise_and_(~0x4000)
            wide[:n].copy_(bits.view(torch.float16))
            # but for what is no number; looked for in all first, as marking it costs more than all the rest
            if (chosen[:n] & NO_NUMBER).max() == NO_NUMBER:
                wide[:n].masked_fill_(chosen[:n] & NO_NUMBER == NO_NUMBER, torch.nan)
        sums.append(torch.bmm(w, wide[:n].unflatten(0, (-1, R))))
    # that float16 is 256 times smaller
    return torch.cat(sums) if int8 else torch.cat(sums).mul_(256)
