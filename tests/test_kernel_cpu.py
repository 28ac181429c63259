"""The CPU kernel of SparQ against its twin in float64, on inputs that are new each time; a failure shows their seed."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparq_eval.kernels import cpu, find_kernel
from sparq_eval.kernels.rows import bags_of_narrow
from sparq_eval.methods import Dense, FlexGen, LMInfinite, Shape, SparQ
from sparq_eval.methods.method import Attended
from sparq_eval.methods.sparq import Kept, approximate
from sparq_eval.ops import Prompt, narrow
from sparq_eval.step import Columns, Step, Visible

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
D = 32


def make(
    B: int,
    H: int,
    G: int,
    S: int,
    k: int,
    dtype: torch.dtype = torch.float32,
    copy: str = "same",
    room: int = 0,
    pad: int = 0,
    window: int | None = None,
) -> Step:
    """A step whose k heaviest positions leave no doubt, with room behind its keys and `pad` padded ones before."""
    # queries of a group look the same way, so that all of them find the heavy keys
    common = F.normalize(torch.randn(B, H, 1, 1, D), dim=-1) * D**0.5
    q = (common + 0.3 * torch.randn(B, H, G, 1, D)).to(dtype)
    keys, values = (torch.randn(B, H, S + room, D) for _ in range(2))
    seen = min(S - pad, window or S)
    heavy = torch.rand(B, H, seen).topk(min(k, seen), dim=-1).indices + S - seen
    keys.scatter_(
        2, heavy[..., None].expand(-1, -1, -1, D), (1.5 * common[:, :, 0]).expand(-1, -1, heavy.shape[-1], -1)
    )
    keys, values = keys.to(dtype), values.to(dtype)
    valid = torch.ones(B, S, dtype=torch.bool)
    valid[0, :pad] = False
    scale = keys.float().abs().amax(dim=2) / 127 if copy == "int8" else None
    columns = Columns(narrow(keys, copy, scale).mT.contiguous()[..., :S], scale) if copy != "none" else None
    return Step(q, keys[:, :, :S], values[:, :, :S], Visible(valid, 1, window), D**-0.5, columns=columns)


def twin(method: SparQ, step: Step, state: Kept | None) -> Attended:
    exact = replace(step, q=step.q.double(), k=step.k.double(), v=step.v.double(), columns=None)
    return method.attend(exact, state)[0]


def state_of(method: SparQ, step: Step) -> Kept | None:
    """What a prompt of all positions but the last would have left."""
    if step.k.shape[2] == 1:
        return Kept(torch.zeros_like(step.k[:, :, 0], dtype=torch.float32), step.columns and step.columns.scale)
    before = step.visible.valid[:, :-1]
    prompt = Prompt(step.q, step.k[:, :, :-1], step.v[:, :, :-1], Visible(before, 1, step.visible.window), step.scale)
    state = method.prefill(prompt)
    return state._replace(scale=step.columns.scale) if state is not None and step.columns is not None else state


def away(ours: Tensor, right: Tensor) -> float:
    """The largest relative distance of an example."""
    assert ours.shape == right.shape
    distance = (ours.double() - right.double()).flatten(1).norm(dim=1) / right.double().flatten(1).norm(dim=1)
    return distance.max().item()


def check(method: SparQ, step: Step, state: Kept | None) -> None:
    (ours, after), right = cpu.attend(method, step, state), twin(method, step, state)
    assert ours.out.dtype == step.v.dtype
    assert away(ours.out, right.out) < CLOSE[step.q.dtype]
    assert ours.selected.equal(right.selected)
    # float64 is wider, and a copy of it narrower
    assert ours.moved.equal(method.moved(step, right.selected))
    expected = method.attend(replace(step, columns=None), state)[1]
    assert (after is None) == (expected is None)
    for mine, its in zip(after or (), expected or (), strict=True):
        assert mine is its is None or mine.equal(its)


@pytest.mark.parametrize("S", [1, 2, 63, 1000, 1024])
@pytest.mark.parametrize("G", [1, 4])
@pytest.mark.parametrize("copy", ["same", "fp8", "int8", "none"])
@pytest.mark.parametrize("dtype", CLOSE)
def test_kernel_equals_its_twin_in_float64(dtype: torch.dtype, copy: str, G: int, S: int, seed: int) -> None:
    for rank_by in ("logits", "weights"):
        method = SparQ(r=12, k=16, local=0, reallocate=random.random() < 0.5, rank_by=rank_by, copy=copy)
        step = make(2, 3, G, S, 16, dtype, copy, room=random.choice([0, 1, 24]), pad=S // 3)
        check(method, step, state_of(method, step))


@pytest.mark.parametrize("reallocate", [True, False])
@pytest.mark.parametrize("window", [None, 1, 7, 300, 2000])
def test_windows_caps_and_sinks_are_the_twins(window: int | None, reallocate: bool, seed: int) -> None:
    for pad in (0, 200, 598):
        step = make(2, 2, 2, 600, 16, pad=pad, window=window)
        step = replace(step, softcap=20.0, sinks=torch.randn(2, 2))
        method = SparQ(r=12, k=16, local=0, reallocate=reallocate)
        check(method, step, state_of(method, step))


@pytest.mark.parametrize("k", [599, 600, 10_000])
def test_everything_is_attended_where_k_allows_it(k: int, seed: int) -> None:
    for pad in (0, 200):
        step = make(2, 2, 2, 600, 16, pad=pad)
        check(SparQ(r=3, k=k, reallocate=True), step, None)


def test_a_place_inside_the_buffer_is_the_end_of_what_is_seen(seed: int) -> None:
    for place in (0, 99, 500, 599):
        for window in (None, 50):
            step = make(2, 2, 1, 600, 16, window=window)
            # heavy keys may lie behind the place, which leaves fewer of them: all that count are counted
            visible = Visible(step.visible.valid, 1, window, torch.tensor(place))
            method = SparQ(r=D, k=16, local=0, reallocate=True)
            ours, _ = cpu.attend(method, replace(step, visible=visible), None)
            end = place + 1
            cut = replace(step, k=step.k[:, :, :end], v=step.v[:, :, :end], columns=None)
            right = twin(method, replace(cut, visible=Visible(step.visible.valid[:, :end], 1, window)), None)
            assert away(ours.out, right.out) < 1e-5
            assert ours.selected.equal(right.selected)
            assert ours.moved.equal(right.moved)


@pytest.mark.parametrize("rank_by", ["logits", "weights"])
@pytest.mark.parametrize("G", [1, 2])
def test_no_position_left_out_scores_above_a_chosen_one(G: int, rank_by: str, seed: int) -> None:
    S = size = 250
    q, k = torch.randn(1, 3, G, 1, size), torch.randn(1, 3, S, size)
    # each position marks a component of its own
    v = torch.eye(S).expand(1, 3, S, size)
    step = Step(q, k, v, Visible(torch.ones(1, S, dtype=torch.bool), 1), size**-0.5)
    method = SparQ(r=40, k=20, local=4, reallocate=False, rank_by=rank_by)
    ours, _ = cpu.attend(method, replace(step, columns=Columns(k.mT.contiguous())), None)
    chosen = (ours.out > 0).all(dim=2).squeeze(2)  # (B, H, S)
    assert chosen.sum(dim=-1).eq(21).all()
    assert chosen[..., -5:].all()
    ranked = method.rank(approximate(step, 40)).squeeze(2)[..., :-5]
    least = ranked.masked_fill(~chosen[..., :-5], torch.inf).amin(dim=-1)
    most = ranked.masked_fill(chosen[..., :-5], -torch.inf).amax(dim=-1)
    assert (most <= least + 1e-5).all()


@pytest.mark.parametrize("S", [1, 5, 64, 1000, 5003])
@pytest.mark.parametrize("values", [2, 40, 10**6])
def test_the_n_largest_are_found_among_ties_too(values: int, S: int, seed: int) -> None:
    for n in {1, min(S, 7), S // 2 + 1, S}:
        ranked = torch.randint(values, (2, 3, S)).float()
        ranked[0, :, : S // 3] = -torch.inf
        ranked[1, :, -1] = torch.inf
        index = cpu.best(ranked, n)
        assert all(len(set(row.tolist())) == n for row in index.flatten(0, 1))
        assert ranked.gather(-1, index).sort().values.equal(ranked.topk(n).values.sort().values)


def test_among_equal_keys_any_will_do(seed: int) -> None:
    step = make(2, 2, 2, 1000, 0)
    # three kinds of position, alike in key and value
    kind = torch.randint(3, (1000,))
    k, v = step.k[:, :, kind], step.v[:, :, kind]
    step = replace(step, k=k, v=v, columns=Columns(k.mT.contiguous()))
    for k_ in (1, 40, 500):
        check(SparQ(r=8, k=k_, local=0, reallocate=True), step, None)


@pytest.mark.parametrize("copy", ["same", "int8", "none"])
@pytest.mark.parametrize("k", [1, 16, 400])
def test_what_padding_holds_changes_nothing(k: int, copy: str, seed: int) -> None:
    clean = make(2, 2, 2, 300, min(k, 16), copy=copy, room=20, pad=299)
    S, hidden = clean.k.shape[2], ~clean.visible.valid[:, None, :, None]
    for garbage in (torch.nan, torch.inf, 3e38):
        # the tensors again, as parts of larger ones that are all garbage
        spoiled_k, spoiled_v = (
            torch.cat([x.masked_fill(hidden, garbage), torch.full_like(x, garbage)], dim=2)[:, :, :S]
            for x in (clean.k, clean.v)
        )
        columns = clean.columns
        if columns is not None:
            worst = -128 if copy == "int8" else garbage
            values = columns.values.masked_fill(hidden.mT, worst)
            columns = replace(columns, values=torch.cat([values, torch.full_like(values, worst)], dim=3)[..., :S])
        spoiled = replace(clean, k=spoiled_k, v=spoiled_v, columns=columns)
        for reallocate in (True, False):
            method = SparQ(r=8, k=k, local=0, reallocate=reallocate, copy=copy)
            right, ours = (cpu.attend(method, step, None)[0] for step in (clean, spoiled))
            torch.testing.assert_close(ours.out, right.out)
            assert ours.selected.equal(right.selected)


@pytest.mark.parametrize("k", [4, 400])
def test_an_example_that_sees_nothing_gets_zeros(k: int, seed: int) -> None:
    step = make(2, 2, 2, 300, 4, pad=300)
    method = SparQ(r=8, k=k, local=0, reallocate=True)
    ours, _ = cpu.attend(method, step, None)
    assert ours.out[0].eq(0).all()
    assert ours.selected[0].eq(0).all()
    assert away(ours.out[1:], twin(method, step, None).out[1:]) < 1e-5


def test_only_what_is_read_can_spoil_a_result(seed: int) -> None:
    step = make(1, 2, 1, 300, 16)
    method = SparQ(r=8, k=16, local=0, reallocate=True)
    right, _ = cpu.attend(method, step, None)
    k = step.k.clone()
    light = right.out.new_tensor([(step.q[0, h, 0, 0] @ k[0, h].T).argmin() for h in range(2)]).long()
    least = step.q.abs().argmin(dim=-1).view(2)
    k[0, torch.arange(2), light, least] = torch.inf
    ours, _ = cpu.attend(method, replace(step, k=k, columns=Columns(k.mT.contiguous())), None)
    assert ours.out.equal(right.out)


def test_a_key_infinitely_far_away_is_as_good_as_hidden(seed: int) -> None:
    step = make(2, 2, 1, 300, 16)
    k = step.k.clone()
    k[0, :, 3] = -torch.inf * step.q[0, :, 0, 0].sign()
    valid = step.visible.valid.clone()
    valid[0, 3] = False
    method = SparQ(r=8, k=16, local=0, reallocate=False)
    ours, _ = cpu.attend(method, replace(step, k=k, columns=Columns(k.mT.contiguous())), None)
    right, _ = cpu.attend(method, replace(step, visible=Visible(valid, 1)), None)
    torch.testing.assert_close(ours.out, right.out)


@pytest.mark.parametrize("copy", ["fp8", "int8"])
def test_a_key_infinitely_far_away_spoils_no_narrow_copy(copy: str, seed: int) -> None:
    step = make(2, 2, 1, 300, 16, copy="none")
    near = step.k[0].norm(dim=-1).argmin(dim=-1)  # (H,): no peak is this key's
    k, heads = step.k.clone(), torch.arange(2)
    at = step.q[0, :, 0, 0].abs().argmax(dim=-1)
    k[0, heads, near, at] = -torch.inf * step.q[0, heads, 0, 0, at].sign()
    method = SparQ(r=D, k=16, local=0, reallocate=True, copy=copy)
    scale = Prompt(step.q, k, step.v, step.visible, step.scale).key_peaks / 127 if copy == "int8" else None
    check(method, replace(step, k=k, columns=Columns(narrow(k, copy, scale).mT.contiguous(), scale)), Kept(scale=scale))


def test_every_number_of_fp8_and_none_is_read_as_torch_reads_it() -> None:
    every = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)
    rows, index = every.view(256, 1).repeat(1, 3), torch.arange(256)[:, None]
    weights, visible = torch.ones(256, 1, 1), Visible(torch.ones(1, 1, dtype=torch.bool), 1)
    ours = bags_of_narrow(rows, index, weights, visible)
    torch.testing.assert_close(ours[:, 0], rows.float(), equal_nan=True, rtol=0, atol=0)
    assert ours.isnan().any(dim=-1).sum() == 2


@pytest.mark.parametrize("copy", ["same", "fp8"])
@pytest.mark.parametrize("first", [0, 1, 700, 1024])
@pytest.mark.parametrize("room", [1100, 2048, 1500, 3072])
def test_columns_may_lie_anywhere_in_a_larger_buffer(room: int, first: int, copy: str, seed: int) -> None:
    S = min(1000, room - first)
    step = make(2, 2, 2, S, 16, copy=copy)
    assert step.columns is not None
    buffer = torch.zeros(3, 2, D, room).to(step.columns.values.dtype)
    values = buffer[1:, :, :, first : first + S]
    values.copy_(step.columns.values)
    check(SparQ(r=8, k=16, local=0, copy=copy), replace(step, columns=Columns(values)), None)


def test_keys_and_values_may_lie_head_beside_head(seed: int) -> None:
    step = make(2, 3, 1, 300, 16)
    k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (step.k, step.v))
    check(SparQ(r=8, k=16, local=0), replace(step, k=k, v=v), None)


@pytest.mark.parametrize("copy", ["same", "int8"])
def test_the_running_mean_stays_right_over_steps(copy: str, seed: int) -> None:
    whole = make(2, 2, 1, 310, 0, copy=copy, pad=50)
    method = SparQ(r=D, k=16, reallocate=True, copy=copy)
    assert whole.columns is not None
    state: Kept | None = None
    for end in range(300, 311):
        visible = Visible(whole.visible.valid[:, :end], 1)
        columns = replace(whole.columns, values=whole.columns.values[..., :end])
        step = replace(whole, q=torch.randn_like(whole.q), k=whole.k[:, :, :end], v=whole.v[:, :, :end])
        step = replace(step, visible=visible, columns=columns)
        state = state or state_of(method, step)
        ours, state = cpu.attend(method, step, state)
        anew, _ = cpu.attend(method, step, Kept(None, whole.columns.scale))
        torch.testing.assert_close(ours.out, anew.out)


def test_a_query_of_zeros_gives_numbers(seed: int) -> None:
    step = make(1, 2, 2, 300, 16)
    ours, _ = cpu.attend(SparQ(r=3, k=5, reallocate=True), replace(step, q=torch.zeros_like(step.q)), None)
    assert ours.out.isfinite().all()


def test_what_the_kernel_cannot_do_is_refused(seed: int) -> None:
    step = make(1, 2, 2, 300, 16)
    assert step.columns is not None
    two = replace(step, q=step.q.expand(-1, -1, -1, 2, -1))
    across = replace(step.columns, values=step.k.mT)
    for method, wrong, words in (
        (SparQ(), two, "one token at a time; got 2"),
        (SparQ(), replace(step, columns=None), r"step\.columns is missing"),
        (SparQ(copy="fp8"), step, "float8_e4m3fn; got torch.float32"),
        (SparQ(copy="int8"), replace(step, columns=Columns(step.columns.values.to(torch.int8))), "need a scale"),
        (SparQ(), replace(step, columns=across), "rows that are whole"),
    ):
        with pytest.raises(ValueError, match=words):
            cpu.attend(replace(method, r=3, k=5, local=1), wrong, None)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_more_components_than_a_head_has_are_refused_before_a_kernel_reads_them(device: str) -> None:
    if device == "cuda":
        pytest.importorskip("triton", reason="triton cannot be installed here")
    find_kernel(SparQ(r=64, k=8), torch.device(device), Shape(2, 1, 64))
    with pytest.raises(ValueError, match=r"^r=65: the kernel of SparQ reads at most the head size, 64$"):
        find_kernel(SparQ(r=65, k=8), torch.device(device), Shape(2, 1, 64))


def test_large_groups_have_a_kernel_on_a_gpu_where_the_sum_of_their_logits_ranks() -> None:
    pytest.importorskip("triton", reason="triton cannot be installed here")
    gpu, small, large = torch.device("cuda"), Shape(1, 16, 64), Shape(1, 17, 64)
    for method in (SparQ(), Dense(), LMInfinite()):
        find_kernel(method, gpu, large)
    for method in (SparQ(rank_by="weights"), SparQ(reallocate=True), FlexGen()):
        find_kernel(method, gpu, small)
        with pytest.raises(ValueError, match="ranks by at most 16 heads of a group, not 17"):
            find_kernel(method, gpu, large)
