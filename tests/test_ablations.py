"""Laws of SparQ's options for ablations: temperatures, what ranks positions, and the grid that has them."""

import math
from dataclasses import replace

import pytest
import torch
from test_methods import step_of
from test_protocol import composed
from tiny import CONFIGS, DEVICE, Letters, naive_logits, tiny_model, tiny_requests

from sparq_eval.errors import UserError
from sparq_eval.evaluate.backend import Kernels
from sparq_eval.evaluate.expand import Setting
from sparq_eval.evaluate.settings import read_settings
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import shape_of
from sparq_eval.hf.selfcheck import self_check
from sparq_eval.kernels import cpu
from sparq_eval.methods import Dense, Method, Shape, SparQ
from sparq_eval.methods.sparq import TEMPERATURES, components, projection
from sparq_eval.ops import logits
from sparq_eval.step import Step

PLAIN = SparQ(r=3, k=6, reallocate=True)
OPTIONS = [
    replace(PLAIN, temperature="sqrt_d"),
    replace(PLAIN, temperature="sqrt_r", rank_by="weights"),
    replace(PLAIN, temperature="none"),
    replace(PLAIN, score="low_rank"),
    replace(PLAIN, score="low_rank", reallocate=False),
    replace(PLAIN, score="oracle"),
]


def named(method: SparQ) -> str:
    return str(Setting("sparq", method)).replace("sparq r=3 k=6 ", "").replace("sparq k=6 ", "")


def engine_of(kind: str) -> tuple[Engine, list[Method]]:
    return Engine(tiny_model(kind), Letters()), [method.resolve(shape_of(CONFIGS[kind])) for method in OPTIONS]


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_scoring_at_once_is_decoding_step_by_step_and_both_are_the_obvious_way(kind: str) -> None:
    engine, methods = engine_of(kind)
    requests = tiny_requests([25, 12], forced=[6, 4])
    quick, slow = engine.answer(requests, methods), engine.answer(requests, methods, stepwise=True)
    for method, fast, steps in zip(methods, quick, slow, strict=True):
        for request, one, other in zip(requests, fast, steps, strict=True):
            logprobs = naive_logits(engine.model, method, request, request.forced).log_softmax(dim=-1)
            naive = logprobs.gather(-1, torch.tensor(request.forced, device=DEVICE)[:, None]).sum().item()
            assert one.loglikelihood == pytest.approx(naive, abs=1e-3), method
            assert other.loglikelihood == pytest.approx(naive, abs=1e-3), method
            assert one.traffic == pytest.approx(other.traffic)


def test_answers_do_not_depend_on_company() -> None:
    engine, methods = engine_of("gqa")
    requests = tiny_requests([30, 9], steps=5)
    together = engine.answer(requests, methods)
    for n, method in enumerate(methods):
        for b, request in enumerate(requests):
            assert engine.answer([request], [method])[0][0].tokens == together[n][b].tokens


@pytest.mark.parametrize("method", OPTIONS, ids=named)
def test_with_an_unlimited_budget_an_option_is_dense_attention(method: SparQ) -> None:
    engine = Engine(tiny_model("mqa with soft caps and windows"), Letters())
    assert self_check(engine, tiny_requests([40, 9], steps=3), [method])["not_checked"] == []


def obvious(method: SparQ, step: Step) -> torch.Tensor:
    """The output of one step of one option in float64, position by position, from the paper's formulas."""
    B, H, G, _, D = step.q.shape
    q, k, v = (x.double() for x in (step.q[:, :, :, 0], step.k, step.v))
    out = torch.zeros(B, H, G, D, dtype=torch.float64)
    for b in range(B):
        seen = step.visible.mask[b, 0].nonzero().flatten().tolist()
        for h in range(H):
            largest = components(step.q, method.r)[b, h, 0, 0].tolist()
            W = projection(H, D, method.r, torch.device("cpu"))[h].double()
            a = torch.zeros(G, len(seen), dtype=torch.float64)
            for g in range(G):
                query = q[b, h, g]
                share = sum(abs(query[i]) for i in largest) / query.abs().sum()
                tau = {"coverage": (D * share) ** 0.5, "sqrt_d": D**0.5, "sqrt_r": method.r**0.5, "none": 1}
                for place, s in enumerate(seen):
                    exact = query @ k[b, h, s] / D**0.5
                    part = sum(query[i] * k[b, h, s, i] for i in largest) / tau[method.temperature]
                    low = (query @ W) @ (k[b, h, s] @ W) / D**0.5
                    a[g, place] = {"query": part, "low_rank": low, "oracle": exact}[method.score]
            ranked = (a.softmax(dim=1) if method.rank_by == "weights" else a).sum(dim=0)
            ranked[len(seen) - 1 - (method.local or 0) :] = math.inf
            best = ranked.topk(min(method.k + 1, len(seen))).indices
            for g in range(G):
                chosen = torch.tensor(seen)[best]
                mixed = (k[b, h, chosen] @ q[b, h, g] / D**0.5).softmax(dim=0) @ v[b, h, chosen]
                alpha = a[g].softmax(dim=0)[best].sum() if method.reallocate else 1
                out[b, h, g] = alpha * mixed + (1 - alpha) * v[b, h, seen].mean(dim=0)
    return out


@pytest.mark.parametrize("method", [PLAIN, *OPTIONS], ids=named)
def test_a_step_is_what_the_formulas_say(method: SparQ) -> None:
    step = step_of(T=1, S=30)
    attended, _ = method.attend(step, None)
    torch.testing.assert_close(attended.out[:, :, :, 0], obvious(method, step).float(), atol=1e-5, rtol=1e-5)


def test_temperatures_change_no_selection_of_a_single_head_but_the_weight_it_claims() -> None:
    step = step_of(T=1, S=40)
    step = replace(step, q=step.q[:, :, :1])
    outs = [replace(PLAIN, temperature=name, reallocate=False).attend(step, None)[0].out for name in TEMPERATURES]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0])
    claims = {name: replace(PLAIN, temperature=name).scores(step).softmax(-1).amax() for name in TEMPERATURES}
    assert claims["sqrt_d"] < claims["sqrt_r"] < claims["none"]


def test_an_oracle_knows_the_true_weights() -> None:
    step = step_of(T=1, S=40)
    assert torch.equal(SparQ(score="oracle").scores(step), logits(step))


def test_a_projection_keeps_all_where_it_has_all_dimensions_and_is_another_for_each_head() -> None:
    step = step_of(T=1, S=40)
    torch.testing.assert_close(SparQ(r=8, score="low_rank").scores(step), logits(step))
    first, second = projection(2, 8, 3, torch.device("cpu"))
    torch.testing.assert_close(first.T @ first, torch.eye(3))
    assert not torch.allclose(first, second)


def test_traffic_is_that_of_the_papers_ablation() -> None:
    D, S, k = 8, 60, 16
    shape = Shape(4, 1, D)
    expected = {
        SparQ(r=3, k=k, score="low_rank", reallocate=False): S * 3 + 2 * k * D + 3 * D,
        SparQ(r=3, k=k, temperature="sqrt_r", reallocate=True): S * 3 + 2 * k * D + 5 * D,
        SparQ(k=k, score="oracle", reallocate=True): 2 * k * D + 4 * D,
        SparQ(k=k, score="oracle", reallocate=False): 2 * k * D + 2 * D,
    }
    engine = Engine(tiny_model("mha"), Letters())
    for method, [answer] in zip(expected, engine.answer(tiny_requests([S], steps=2), list(expected)), strict=True):
        assert method.transfers(S, shape) == expected[method]
        assert answer.traffic.counted == expected[method] * 4 * 3, method
    assert SparQ(k=k, score="oracle").transfers_as_printed(S, shape) == 2 * k * D + 4 * D


def test_defaults_leave_a_record_as_it_was() -> None:
    old = {"r": 32, "k": 128, "local": 32, "reallocate": True, "rank_by": "logits"}
    assert SparQ(reallocate=True).settings == old
    assert SparQ(reallocate=True, temperature="none").settings == old | {"temperature": "none"}
    oracle = SparQ(r=64, reallocate=True, score="oracle")
    assert oracle.settings == {name: value for name, value in old.items() if name != "r"} | {"score": "oracle"}
    assert oracle == SparQ(r=0.25, reallocate=True, score="oracle").resolve(Shape(4, 1, 8))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": "warm"}, "temperature=warm: coverage, sqrt_d, sqrt_r, none"),
        ({"score": "best"}, "score=best: query, low_rank, oracle"),
        ({"score": "oracle", "temperature": "sqrt_r"}, "temperature=sqrt_r: score=oracle has no other than coverage"),
        ({"score": "low_rank", "copy": "fp8"}, "copy=fp8: score=low_rank has no other than same"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SparQ(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", OPTIONS, ids=named)
def test_there_is_no_kernel_of_an_option_and_it_says_so(method: SparQ) -> None:
    shape, device = Shape(4, 1, 8), torch.device("cpu")
    with pytest.raises(UserError, match=f"^backend=kernel: the kernel ranks as SparQ does, not with {method.ablation}"):
        Kernels("kernel", device, shape).check([method])
    assert Kernels("kernel", device, shape)(method) is None
    assert Kernels("auto", torch.device("cuda"), shape)(method) is None
    with pytest.raises(ValueError, match="this kernel ranks as SparQ does"):
        cpu.attend(method, step_of(T=1, S=40), None)


@pytest.mark.parametrize("model", ["llama2-7b", "smollm2-135m"])
def test_the_ablation_grid_has_the_settings_of_figure_7(model: str) -> None:
    chosen = ["grid=ablations", "method=[dense,sparq]", f"model={model}", "task=[squad,repetition]"]
    shape = Shape(32, 1, 128) if model == "llama2-7b" else Shape(3, 3, 64)
    found = {setting.resolve(shape).method for setting in read_settings(composed(*chosen)).settings}
    on, d = shape.groups == 1, shape.head_size
    wanted: set[Method] = {Dense()}
    wanted |= {SparQ(r=share * d // 16, k=128, reallocate=on) for share in (1, 2, 4, 8)}
    wanted |= {SparQ(r=d // 8, k=k, score="low_rank", reallocate=False) for k in (128, 256, 512)}
    wanted |= {SparQ(k=k, score="oracle", reallocate=on) for k in (32, 64, 128, 256)}
    wanted |= {SparQ(r=r, k=128, reallocate=True, temperature=t) for r in (d // 4, d // 2) for t in TEMPERATURES}
    wanted |= {SparQ(r=r, k=128, reallocate=False) for r in (d // 4, d // 2)}
    wanted |= {SparQ(r=r, k=k, reallocate=on) for r in (d // 8, d // 4, d // 2) for k in (32, 64, 128, 256)}
    assert wanted <= found
    assert len(found - wanted) == 3  # the projection at the other r
