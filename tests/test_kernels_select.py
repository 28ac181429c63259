"""The selection that the Triton kernels share, called by a kernel of its own."""

import pytest
import torch
from kernel_cases import DEVICE, poisoned, quiet
from torch import Tensor
from triton import jit
from triton import language as tl

from sparq_eval.kernels.select import HIGHEST, LOWEST, order, slots, threshold, unorder

pytestmark = quiet
N = 256


@jit
def select_kernel(p_x, p_kind, p_taken, p_slot, p_limit, want, most, N: tl.constexpr):
    o = tl.arange(0, N)
    kind = tl.load(p_kind + o)
    keys = tl.where(kind == 1, HIGHEST, tl.where(kind == -1, LOWEST, order(tl.load(p_x + o))))
    limit = threshold(keys, want, most)
    taken, slot = slots(keys, limit, most)
    tl.store(p_taken + o, taken.to(tl.int32))
    tl.store(p_slot + o, slot)
    tl.store(p_limit, limit)


@jit
def order_kernel(p_x, p_key, p_back, N: tl.constexpr):
    o = tl.arange(0, N)
    key = order(tl.load(p_x + o))
    tl.store(p_key + o, key)
    tl.store(p_back + o, unorder(key))


def select(x: Tensor, kind: Tensor, want: int, most: int) -> tuple[Tensor, Tensor]:
    """Which entries are taken, and their places. kind: 1 is taken in any case, -1 is not there."""
    with poisoned():
        taken, slot = (torch.empty(N, dtype=torch.int32, device=DEVICE) for _ in range(2))
        limit = torch.empty(1, dtype=torch.int32, device=DEVICE)
        select_kernel[(1,)](x.to(DEVICE), kind.to(DEVICE), taken, slot, limit, want, most, N)
    assert not ((taken != 0) & (taken != 1)).any()
    return taken.bool().cpu(), slot.cpu()


def check(x: Tensor, kind: Tensor, want: int, most: int) -> None:
    """Between `want` and `most` are taken, each to a place of its own, and none left out is larger than one taken."""
    taken, slot = select(x, kind, want, most)
    number = int(taken.sum())
    assert want <= number <= most
    assert sorted(slot[taken].tolist()) == list(range(number))
    assert not taken[kind == -1].any()
    value = x.double().masked_fill(kind == 1, torch.inf)
    left, value = value[~taken & (kind >= 0)], value[taken]
    assert number == 0 or len(left) == 0 or left.max() <= value.min()


VALUES = {
    "mixed signs": lambda: torch.randn(N),
    "positive, of all sizes": lambda: torch.randn(N).mul(20).exp(),
    "negative, of all sizes": lambda: -torch.randn(N).mul(20).exp(),
    "tiny, around zero": lambda: torch.randn(N) * 1e-40,
    "all equal": lambda: torch.full((N,), torch.randn(1).item()),
    "all zero, of both signs": lambda: torch.zeros(N) * torch.randn(N).sign(),
    "few values": lambda: torch.randint(-3, 3, (N,)).float(),
    "one large among equals": lambda: torch.zeros(N).index_fill(0, torch.randint(N, (1,)), 3e38),
    "infinities": lambda: (
        torch.randn(N).masked_fill(torch.rand(N) < 0.2, torch.inf).masked_fill(torch.rand(N) < 0.2, -torch.inf)
    ),
    "nothing but infinities": lambda: torch.randn(N).sign() * torch.inf,
}


@pytest.mark.parametrize("values", VALUES)
def test_the_largest_are_taken_each_to_a_place_of_its_own(values: str, seed: int) -> None:
    x, everything = VALUES[values](), torch.zeros(N, dtype=torch.int32)
    for want in (0, 1, 63, N - 1, N):
        check(x, everything, want, want)
    check(x, everything, 63, 80)


@pytest.mark.parametrize("values", VALUES)
def test_what_is_not_there_is_not_taken_and_what_is_taken_in_any_case_comes_first(values: str, seed: int) -> None:
    x = VALUES[values]()
    kind = torch.multinomial(torch.tensor([0.3, 0.4, 0.3]), N, replacement=True).int() - 1
    there, first = int((kind >= 0).sum()), int((kind == 1).sum())
    for want, more in ((0, 0), (0, 20), (first // 2, 0), (first, 0), (first + 9, 0), (first + 9, 20), (there, 0)):
        check(x, kind, want, want + more)


def test_where_nothing_is_there_nothing_is_taken(seed: int) -> None:
    check(torch.randn(N), torch.full((N,), -1, dtype=torch.int32), 0, 0)


def test_what_is_no_number_ends_too(seed: int) -> None:
    x = torch.randn(N).masked_fill(torch.rand(N) < 0.3, torch.nan)
    taken, slot = select(x, torch.zeros(N, dtype=torch.int32), 63, 63)
    assert sorted(slot[taken].tolist()) == list(range(63))


def test_keys_sort_as_what_they_stand_for(seed: int) -> None:
    x = torch.cat(
        [torch.randn(N - 4) * 10.0 ** torch.randint(-30, 30, (N - 4,)), torch.tensor([0, -1e-45, 3e38, -3e38])]
    )
    key, back = torch.zeros(N, dtype=torch.int32, device=DEVICE), torch.zeros(N, device=DEVICE)
    order_kernel[(1,)](x.to(DEVICE), key, back, N)
    assert x[key.cpu().argsort()].equal(x.sort().values)
    assert back.cpu().equal(x)
