"""The bench's baselines see the same keys and values as everything that is compared with them."""

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparq_eval.bench.case import Case, steps_of
from sparq_eval.bench.dense import PAGE, paged, products, run_flashinfer
from sparq_eval.step import Step


class Wrapper:
    """FlashInfer's decode wrapper as its documentation describes it, page by page."""

    def __init__(self, workspace: Tensor, layout: str, **_: Any) -> None:
        assert workspace.dtype == torch.uint8 and layout == "HND"

    def plan(self, indptr: Tensor, indices: Tensor, last: Tensor, *sizes: int, sm_scale: float, **dtypes: Any) -> None:
        self.spans = [indices[begin:end] for begin, end in itertools.pairwise(indptr)]
        self.sizes, self.scale = sizes, sm_scale
        assert (last == sizes[3]).all() and sizes[3] == PAGE

    def run(self, q: Tensor, caches: tuple[Tensor, Tensor]) -> Tensor:
        heads, kv_heads, D, _ = self.sizes
        outs = []
        for query, span in zip(q, self.spans, strict=True):
            k, v = (x[span].transpose(0, 1).reshape(kv_heads, -1, D) for x in caches)  # (H, S, D)
            weights = (query.view(kv_heads, -1, D) @ k.mT * self.scale).softmax(-1)
            outs.append((weights @ v).reshape(heads, D))
        return torch.stack(outs)


@pytest.mark.parametrize("G", [1, 4])
def test_pages_hold_the_same_keys_and_values(monkeypatch: pytest.MonkeyPatch, seed: int, G: int) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", SimpleNamespace(BatchDecodeWithPagedKVCacheWrapper=Wrapper))
    step = steps(G, 5 * PAGE)
    assert torch.allclose(run_flashinfer(step, paged(step)), products(step, None), atol=1e-5)


def test_lengths_that_fill_no_page_are_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", SimpleNamespace(BatchDecodeWithPagedKVCacheWrapper=Wrapper))
    with pytest.raises(ValueError, match=f"its pages hold {PAGE} positions, and S=63 is no multiple"):
        paged(steps(1, 63))


def steps(G: int, S: int) -> Step:
    return steps_of(Case(3, 2, G, 8, S, torch.float32, torch.device("cpu")), set())[None]
