"""What is said beyond chance: laws that hold for any scores, and numbers worked out by hand."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, binomtest

from sparq_eval.errors import UserError
from sparq_eval.results.frames import Frames
from sparq_eval.statistics import COMPARISONS, HEADLINE, between, compare, headline
from sparq_eval.statistics.headline import crossing
from sparq_eval.statistics.significance import flip_signs

Setting = tuple[str, int]  # method and k


def made(
    scores: Mapping[Setting, np.ndarray], cluster: np.ndarray | None = None, upward: bool = True, **changes: str
) -> Frames:
    """Frames of made-up scores, [N] each; the setting k moves k / 1024 of dense. nan: the example is missing."""
    records, samples = [], []
    for (method, k), score in scores.items():
        there = np.flatnonzero(~np.isnan(score))
        settings = {} if method == "dense" else {"k": k}
        names = {"model": "m", "task": "t", "variant": "", "method": method, "settings": json.dumps(settings)}
        names |= {"key": f"{method}-{k}"} | changes
        counts = {
            "r": None,
            "k": settings.get("k"),
            "local": None,
            "samples": len(there),
            "value": (score[there] / len(there)).sum(),
        }
        truth = {"metric": "score", "higher_is_better": upward, "active": True}
        records.append(names | counts | truth | {"counted_ratio": 1.0 if method == "dense" else k / 1024})
        names_of = cluster if cluster is not None else np.full(len(score), "")
        rows = {"index": there, "id": there.astype(str), "score": score[there], "cluster": names_of[there]}
        samples.append(pd.DataFrame(rows).assign(**names))
    return Frames(pd.DataFrame(records), pd.concat(samples, ignore_index=True))


def coins(seed: int, n: int = 200, p: float = 0.6) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < p).astype(float)


def noise(seed: int, n: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(5, 1, n)


@pytest.mark.parametrize("score", [coins(1), noise(1), np.zeros(30), np.ones(1), np.full(3, 2.5)], ids=str)
def test_identical_scores_do_not_differ(score: np.ndarray) -> None:
    [row] = compare(made({("dense", 0): score, ("h2o", 8): score})).to_dict("records")
    assert row["difference"] == 0 and row["p"] == row["q"] == 1 and not row["better"] and not row["worse"]
    assert (row["gained"], row["lost"]) == (0, 0) and np.isnan(row["more"]) and not row["low"] > 0


def test_a_flag_needs_the_test_and_the_interval() -> None:
    """Eight losses, one of them far larger: the signs are no chance, and the mean's interval has 0 in it."""
    dense = np.full(8, 50.0)
    few, many = dense - np.array([200, 1, 1, 1, 1, 1, 1, 1]), dense - np.arange(20, 28)
    uneven, even = compare(made({("dense", 0): dense, ("h2o", 8): few, ("h2o", 9): many})).to_dict("records")
    assert uneven["q"] < 0.05 and uneven["low"] < 0 < uneven["high"] and not uneven["worse"]
    assert even["q"] < 0.05 and even["high"] < 0 and even["worse"]


@pytest.mark.parametrize(("a", "b"), [(coins(1), coins(2)), (noise(1), noise(2))])
@pytest.mark.parametrize("clustered", [False, True])
def test_swapping_two_settings_negates(a: np.ndarray, b: np.ndarray, clustered: bool) -> None:
    frames = made(
        {("h2o", 8): a, ("sparq", 4): b}, np.repeat(np.arange(len(a) // 4), 4).astype(str) if clustered else None
    )
    [one], [other] = (between(frames, *keys).to_dict("records") for keys in (("h2o", "sparq"), ("sparq", "h2o")))
    assert one["difference"] == pytest.approx(a.mean() - b.mean()) and one["difference"] == -other["difference"]
    assert (one["p"], one["gained"], one["lost"]) == (other["p"], other["lost"], other["gained"])
    width = one["high"] - one["low"]
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]), abs=0.05 * width)
    assert (one["better"], one["worse"]) == (other["worse"], other["better"]) and one["more"] is not other["more"]


def test_a_constant_added_to_both_changes_nothing() -> None:
    dense, other = noise(1), noise(2)
    plain, moved = (compare(made({("dense", 0): dense + c, ("h2o", 8): other + c})) for c in (0.0, 128.0))
    numbers = ["difference", "low", "high", "p", "q", "more"]
    np.testing.assert_allclose(plain[numbers].astype(float), moved[numbers].astype(float), rtol=1e-9)


def test_the_same_records_give_the_same_numbers_and_order_does_not_matter() -> None:
    frames = made({("dense", 0): noise(1), ("h2o", 8): noise(2), ("h2o", 4): noise(3)})
    shuffled = replace(frames, samples=frames.samples.sample(frac=1, random_state=3))
    pd.testing.assert_frame_equal(compare(frames), compare(shuffled))
    pd.testing.assert_frame_equal(headline(frames), headline(shuffled))


def test_direction_decides_what_is_better() -> None:
    lower = noise(1) - 1
    for upward in (True, False):
        [row] = compare(made({("dense", 0): noise(1), ("h2o", 8): lower}, upward=upward)).to_dict("records")
        assert row["difference"] == pytest.approx(-1) and row["high"] < 0
        assert (row["better"], row["worse"]) == (not upward, upward)
        assert (row["gained"], row["lost"]) == ((0, 60) if upward else (60, 0))


def test_only_shared_examples_count() -> None:
    dense, other = noise(1), noise(1) + 1
    dense[:10], other[-5:] = np.nan, np.nan
    [row] = compare(made({("dense", 0): dense, ("h2o", 8): other})).to_dict("records")
    assert row["samples"] == 45 and row["difference"] == pytest.approx(1)


def test_a_score_that_is_not_finite_and_a_missing_dense_say_nothing() -> None:
    bad = noise(2)
    bad[3] = np.inf
    frames = made({("dense", 0): noise(1), ("h2o", 8): bad})
    without = Frames(frames.records[1:], frames.samples[frames.samples["method"] == "h2o"])
    for one in (frames, without):
        table = compare(one)
        assert list(table.columns) == COMPARISONS
        assert table[["difference", "low", "high", "p", "q", "more"]].isna().all(axis=None)
        assert not table[["better", "worse"]].any(axis=None)
        [line] = headline(one).to_dict("records")
        assert np.isnan(line["compression"]) and line["verdict"] in ("not shown", "no dense")


def test_mcnemar_is_the_binomial_test_of_what_flipped() -> None:
    dense = np.repeat([1.0, 0.0], 20)
    other = dense.copy()
    other[:9], other[20:22] = 0, 1  # 9 lost, 2 gained
    [row] = compare(made({("dense", 0): dense, ("h2o", 8): other})).to_dict("records")
    assert (row["test"], row["lost"], row["gained"]) == ("McNemar", 9, 2)
    by_hand = 2 * (1 + 11 + 55) / 2**11  # no more than 2 of 11, on either side
    assert row["p"] == pytest.approx(by_hand) == pytest.approx(binomtest(2, 11).pvalue)


def test_sign_flips_are_exact_for_few_clusters_and_near_it_for_many() -> None:
    assert flip_signs(np.array([[1.0], [2.0], [3.0]])) == pytest.approx(2 / 8)
    flips = np.concatenate([np.ones(22), -np.ones(8), np.zeros(50)])[:, None]
    assert flip_signs(flips)[0] == pytest.approx(binomtest(8, 30).pvalue, abs=4 * np.sqrt(0.016 / 10_000))
    assert flip_signs(np.ones((13, 1)))[0] == 2 / 2**13


def test_clusters_that_agree_widen_the_interval_and_raise_p() -> None:
    drift = np.random.default_rng(5).normal(0.2, 1, 30)
    dense = np.zeros(120)
    other = dense + np.repeat(drift, 4) + np.random.default_rng(6).normal(0, 0.1, 120)
    scores = {("dense", 0): dense, ("h2o", 8): other}
    alone, together = (compare(made(scores, c)).iloc[0] for c in (None, np.repeat(np.arange(30), 4).astype(str)))
    assert (alone["clusters"], together["clusters"]) == (120, 30)
    assert together["high"] - together["low"] > 1.6 * (alone["high"] - alone["low"])
    assert together["p"] > alone["p"] and together["difference"] == pytest.approx(alone["difference"])


@pytest.mark.parametrize("kind", ["clustered", "few clusters", "rare flips"])
def test_the_interval_holds_the_truth_19_times_of_20(kind: str) -> None:
    chance, held, times, n = np.random.default_rng(7), 0, 300, 60
    clusters = {"clustered": 20, "few clusters": 4}.get(kind, n)
    cluster = np.repeat(np.arange(clusters), n // clusters).astype(str)
    for _ in range(times // 10):
        scores, flips = {("dense", 0): np.ones(n)}, 0.03
        for k in range(10):
            if clusters < n:  # clusters agree, and many of them are skewed
                drift = chance.gamma(4, 0.5, clusters) if clusters > 4 else chance.normal(2, 1, clusters)
                gap = np.repeat(drift, n // clusters) + chance.normal(0, 0.5, n)
            else:
                gap = -(chance.random(n) < flips).astype(float)
            scores["h2o", k + 1] = 1 + gap
        truth = 2.0 if clusters < n else -flips
        found = compare(made(scores, cluster))
        held += int(found["low"].le(truth + 1e-12).mul(found["high"] >= truth - 1e-12).sum())
    low, high = binom.ppf([0.001, 0.999], times, 0.95)
    assert low <= held and (kind == "rare flips" or held <= high), held / times


def test_percentiles_reach_as_far_as_students_t_where_clusters_are_few() -> None:
    widths = []
    for seed in range(30):
        gap = np.random.default_rng(seed).normal(0, 1, 12)
        [row] = compare(made({("dense", 0): np.zeros(12), ("h2o", 8): gap})).to_dict("records")
        widths.append((row["high"] - row["low"]) / (gap.std(ddof=1) / np.sqrt(12)))
    assert np.mean(widths) == pytest.approx(2 * 2.201, rel=0.05)  # t with 11 degrees of freedom


def test_what_a_form_of_a_method_reaches_is_no_headline_of_the_method() -> None:
    scores = {("dense", 0): coins(1, 400), ("sparq", 512): coins(1, 400), ("sparq", 256): coins(2, 400)}
    alone = headline(made(scores))
    frames = made(scores | {("sparq", 8): coins(1, 400)})
    for frame in (frames.records, frames.samples):
        frame.loc[frame["key"] == "sparq-8", "settings"] = json.dumps({"k": 8, "score": "oracle"})
    beside = headline(frames).set_index("form")
    assert beside.index.to_list() == ["sparq", "sparq score=oracle"] and set(beside["method"]) == {"sparq"}
    pd.testing.assert_frame_equal(beside.loc[["sparq"]].reset_index(), alone, check_like=True)
    assert beside["compression"]["sparq"] < 4 and beside["compression"]["sparq score=oracle"] == pytest.approx(128)


@pytest.mark.parametrize("n", [1, 4, 30, 300])
def test_no_flip_at_all_leaves_the_exact_bound(n: int) -> None:
    [row] = compare(made({("dense", 0): coins(1, n), ("h2o", 8): coins(1, n)})).to_dict("records")
    assert (row["low"], row["high"]) == pytest.approx((0.025 ** (1 / n) - 1, 1 - 0.025 ** (1 / n)), rel=0.01)


@pytest.mark.parametrize("n", [4, 8, 16, 34])
def test_intervals_hold_the_truth_where_examples_are_only_lost(n: int) -> None:
    """Of all that can be seen, those whose interval has the true loss in it come to 95 % at least, whatever it is."""
    lost = {("h2o", count + 1): np.arange(n) >= count for count in range(n + 1)}
    rows = compare(made({("dense", 0): np.ones(n)} | {key: value.astype(float) for key, value in lost.items()}))
    low, high = (rows.sort_values("difference", ascending=False)[name].to_numpy() for name in ("low", "high"))
    for loss in np.linspace(0.002, 0.998, 250):
        inside = (low <= -loss) & (-loss <= high)
        assert binom.pmf(np.arange(n + 1), n, loss)[inside].sum() >= 0.95


def test_q_is_of_one_task_and_never_below_p() -> None:
    scores = {("dense", 0): noise(0), **{("h2o", k): noise(0) + 0.3 * noise(k) - 1.4 for k in range(1, 6)}}
    one, two = made(scores), made(scores, task="u")
    both = compare(Frames(pd.concat([one.records, two.records]), pd.concat([one.samples, two.samples])))
    assert (both["q"] >= both["p"]).all() and both["p"].between(0, 1).all()
    assert both["q"][:5].to_list() == compare(one)["q"].to_list() == both["q"][5:].to_list()


def test_as_many_examples_as_promised_tell_two_settings_apart_four_times_of_five() -> None:
    gap, chance = 0.5, np.random.default_rng(8)
    error = np.full(40, gap)
    error[::2] = gap + 4
    error[1::2] = gap - 4  # mean 0.5, spread 4
    [row] = compare(made({("dense", 0): np.zeros(40), ("h2o", 8): error})).to_dict("records")
    needed = 40 + int(row["more"])
    assert needed == pytest.approx(2.802**2 * 4**2 / 0.5**2 * 40 / 39, rel=0.01)
    means = chance.normal(gap, 4, (400, needed)).mean(axis=1) * np.sqrt(needed) / 4
    assert (np.abs(means) > 1.96).mean() == pytest.approx(0.8, abs=0.06)


BUDGETS = (512, 256, 128, 64)


def falling(losses: tuple[float, ...], upward: bool = True, n: int = 400, method: str = "h2o") -> Frames:
    """Dense around 100, and a curve that loses so much at each of BUDGETS, with a spread of 1."""
    chance = np.random.default_rng(9)
    dense = chance.normal(100, 5, n)
    sign = 1 if upward else -1
    curve = {
        (method, k): dense - sign * (loss + chance.normal(0, 1, n)) for k, loss in zip(BUDGETS, losses, strict=True)
    }
    return made({("dense", 0): dense} | curve, upward=upward)


@pytest.mark.parametrize("upward", [True, False])
def test_the_headline_is_where_the_end_of_the_interval_meets_the_margin(upward: bool) -> None:
    frames = falling((0.0, 0.5, 2.0, 4.0), upward)
    table = headline(frames)
    [row] = table.to_dict("records")
    dense = frames.records["value"].iloc[0]
    assert list(table.columns) == HEADLINE and row["verdict"] == "shown"
    assert row["margin"] == pytest.approx(0.01 * dense)
    ends = compare(frames)["low" if upward else "high"].abs()
    share = (row["margin"] - ends[1]) / (ends[2] - ends[1])
    assert row["compression"] == pytest.approx(4 * 2**share)
    assert row["low"] < row["compression"] < row["high"] and row["high"] / row["low"] < 1.5


def test_a_larger_margin_never_shows_less() -> None:
    frames = falling((0.2, 0.6, 0.5, 3.0))
    found = [headline(frames, margin).iloc[0] for margin in (0.1, 0.3, 0.5, 0.7, 1, 2, 3, 4)]
    reached = [row["compression"] if row["verdict"] != "not shown" else 1.0 for row in found]
    assert reached == sorted(reached) and reached[0] == 1 and reached[-1] == pytest.approx(16)
    assert [row["verdict"] for row in found][:: len(found) - 1] == ["not shown", "beyond the grid"]


def test_what_scores_as_dense_does_is_beyond_the_grid() -> None:
    for score in (noise(1), coins(1, 500)):
        [row] = headline(made({("dense", 0): score, **{("h2o", k): score for k in BUDGETS}})).to_dict("records")
        assert row["verdict"] == "beyond the grid" and row["compression"] == row["high"] == pytest.approx(16)


def test_no_more_is_shown_than_is_so() -> None:
    """The true curve loses 1 per halving of the budget, so that a margin of 1 % of 200 is met at a compression of 8."""
    chance, times, beyond = np.random.default_rng(10), 60, 0
    for _ in range(times):
        dense = chance.normal(200, 5, 50)
        curve = {("h2o", k): dense - loss - chance.normal(0, 1.5, 50) for loss, k in enumerate((512, 256, 128, 64))}
        [row] = headline(made({("dense", 0): dense} | curve)).to_dict("records")
        assert row["verdict"] == "shown"
        beyond += row["compression"] > 8
        assert row["low"] <= row["compression"] <= row["high"]
    assert beyond <= binom.ppf(0.999, times, 0.025)


def test_few_examples_show_nothing_even_where_none_flips() -> None:
    score = coins(1, 60)
    [row] = headline(made({("dense", 0): score, **{("h2o", k): score for k in BUDGETS}})).to_dict("records")
    assert row["verdict"] == "not shown" and np.isnan(row["compression"]) and "may lose 0.0" in row["note"]
    assert row["margin"] == 0.01


def test_a_walk_ends_at_the_first_budget_that_fails() -> None:
    log = np.log([2.0, 4.0, 8.0, 16.0])
    bounds = np.array([[0, -3, 0, 0], [-3, 0, 0, 0], [0, 0, 0, 0], [0, np.nan, 0, 0], [0, 0, 0, -2.0]])
    expected = [2 * 2 ** (1 / 3), 0, 16, 2, 8 * 2**0.5]
    assert np.exp(crossing(log, bounds, 1.0)) == pytest.approx(expected)


def test_the_best_of_a_methods_lines_counts() -> None:
    good, bad = falling((0.0, 0.2, 0.3, 0.4)), falling((3.0, 4.0, 5.0, 6.0))
    records, samples = good.records, good.samples
    other = bad.records[1:].assign(key=bad.records["key"] + "-sink", settings='{"k": 1, "sink": 4}')
    rows = bad.samples[bad.samples["method"] == "h2o"]
    rows = rows.assign(key=rows["key"] + "-sink", settings='{"k": 1, "sink": 4}')
    both = Frames(pd.concat([records.assign(settings="{}"), other]), pd.concat([samples, rows]))
    [row], [alone] = headline(both).to_dict("records"), headline(good).to_dict("records")
    assert row["compression"] == alone["compression"] == pytest.approx(16) and "sink" not in row["note"]


def test_the_best_of_many_lines_shows_no_more_than_is_so() -> None:
    """Each of eight lines loses just more than the margin; without a correction 14 in 100 repetitions show one."""
    chance, times, shown = np.random.default_rng(11), 100, 0
    for _ in range(times):
        dense = chance.normal(200, 5, 40)
        lines = {("h2o", k): dense - 2.01 - chance.normal(0, 1, 40) for k in range(1, 9)}
        frames = made({("dense", 0): dense} | lines)
        settings = [json.dumps({"sink": place}) for place in range(len(frames.records))]
        [row] = headline(replace(frames, records=frames.records.assign(settings=settings, r=1, k=1))).to_dict("records")
        shown += row["verdict"] != "not shown"
    assert shown <= binom.ppf(0.99, times, 0.025)


def test_a_draw_that_passes_nowhere_counts_as_no_compression() -> None:
    """The largest budget passes by a hair, so that half of the draws do not show even that."""
    frames = falling((0.89, 4.0, 5.0, 6.0))
    [row] = headline(frames).to_dict("records")
    assert row["verdict"] == "shown" and row["compression"] == pytest.approx(2, rel=0.1) and row["low"] == 1


def test_what_moves_no_less_than_dense_is_no_compression() -> None:
    score = noise(1)
    [row] = headline(made({("dense", 0): score, ("over", 2048): score, ("over", 1024): score})).to_dict("records")
    assert row["verdict"] == "no compression" and np.isnan(row["compression"])
    [row] = headline(made({("dense", 0): score, ("over", 2048): score - 9, ("over", 256): score})).to_dict("records")
    assert row["verdict"] == "beyond the grid" and row["compression"] == pytest.approx(4)


def test_dense_at_the_bottom_of_the_scale_has_nothing_to_lose() -> None:
    [row] = headline(made({("dense", 0): np.zeros(900), ("h2o", 8): np.zeros(900)})).to_dict("records")
    assert row["verdict"] == "nothing to lose" and np.isnan(row["compression"])


def test_what_left_nothing_out_or_was_not_counted_is_no_budget() -> None:
    frames = made({("dense", 0): noise(1), ("h2o", 8): noise(1)})
    for change in ({"active": False}, {"counted_ratio": np.nan}):
        [row] = headline(replace(frames, records=frames.records.assign(**change))).to_dict("records")
        assert row["verdict"] == "no transfers"


def test_two_settings_are_found_by_the_beginning_of_their_keys_or_refused() -> None:
    frames = made({("dense", 0): noise(1), ("h2o", 8): noise(2), ("h2o", 16): noise(3)})
    pd.testing.assert_frame_equal(
        between(frames, "h2o-8", "dense").drop(columns="q"),
        compare(Frames(frames.records[:2], frames.samples[frames.samples["key"] != "h2o-16"])).drop(columns="q"),
        check_dtype=False,
    )
    for keys, why in (
        (("h2o", "dense"), "2 records"),
        (("x", "dense"), "0 records"),
        (("dense", "dense"), "one setting"),
    ):
        with pytest.raises(UserError, match=why):
            between(frames, *keys)


def test_scores_beyond_all_numbers_are_nan_and_no_warning() -> None:
    huge = np.full(20, 1.5e308) * np.where(np.arange(20) % 3, 1, -1)
    frames = made({("dense", 0): huge, ("h2o", 8): -huge, ("h2o", 4): noise(1, 20)})
    assert compare(frames)[["low", "high"]].isna().any(axis=None) and len(headline(frames)) == 1


def test_a_large_table_takes_seconds() -> None:
    scores = {("dense", 0): coins(0, 4000), **{("h2o", k): coins(k, 4000) for k in range(1, 20)}}
    frames = made(scores, np.repeat(np.arange(2000), 2).astype(str))
    start = time.process_time()
    compare(frames)
    headline(frames)
    assert time.process_time() - start < 6
