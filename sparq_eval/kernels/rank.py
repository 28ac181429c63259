"""Step 1 of SparQ on a GPU (Triton): rank cached positions by r components of the query, list the k best.

Three steps, in which nothing is sorted and small batches use the whole device: choose the components of each head;
score chunks of positions, from a copy of the keys in which a component's positions lie side by side, and keep each
chunk's best on the chip, so that only these go to memory; merge the chunks' candidates of each head. The last is done
by the program that reads what was chosen, the first, for few heads, by every program that scores.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sparq_eval.kernels.select import HIGHEST, LOWEST, order, slots, threshold
from sparq_eval.step import Columns

PART = tl.constexpr(16)  # components read at a time where keys lie row by row: 32 bytes, what memory is read in
FEW = 64  # so many heads or less leave a device waiting for single programs: launches are saved, not work
ONE_WAVE = 264  # programs that a device runs at once, two on each multiprocessor
HELD = 16384  # candidates that a merging program holds at most; with more it reads them several times


@dataclass(frozen=True)
class Ranked:
    """positions: the best, -1 at unused places, in no order. covered: the weight that the approximation gives to them
    and to the query's own (alpha), by head; None where it was not asked for.
    """

    positions: Int[Tensor, "B H N"]
    covered: Float[Tensor, "B H G"] | None


@dataclass(frozen=True)
class Ranking:
    """What is ranked and how. own: whether the query's own position is left out, as it is attended in any case.

    local: so many positions before the query's own come first. scale: of the logits, beside the temperature.
    """

    r: int
    k: int
    local: int
    scale: float
    softcap: float | None
    covered: bool
    own: bool = True


@dataclass(frozen=True)
class Candidates:
    """What scoring left of each head (R of them, N candidates from chunks): scores by head of the group, positions (-1:
    none), and of each chunk the largest score and the sum of exponentials beside it.
    """

    score: Float[Tensor, "R h N"]
    position: Int[Tensor, "R N"]
    peak: Float[Tensor, "R h chunks"]
    mass: Float[Tensor, "R h chunks"]
    own: Float[Tensor, "R h"]
    heads: int
    how: Ranking
    first: Int[Tensor, "B"]
    stop: Int[Tensor, "B"]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.score, self.position, self.peak, self.mass, self.own

    @property
    def numbers(self) -> tuple[int, ...]:
        """k, local, N, chunks: how merging functions take them."""
        return self.how.k, self.how.local, self.position.shape[1], self.mass.shape[2]

    @property
    def held(self) -> int:
        """Candidates that a merging program holds at a time."""
        return min(HELD, max(256, triton.next_power_of_2(self.position.shape[1])))

    @property
    def warps(self) -> int:
        return max(4, min(16, self.held // 512))

    @property
    def constants(self) -> dict[str, int | bool]:
        return {
            "OWN": self.how.own, "COVERED": self.how.covered, "HEADS": self.heads, "HP": self.score.shape[1],
            "HELD": self.held, "WHOLE": self.held >= self.position.shape[1],
            "CHUNKS_P": triton.next_power_of_2(self.mass.shape[2]),
        }  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """How a scoring program is made: positions of its chunk, warps, components read at a time, registers a thread."""

    chunk: int
    warps: int
    unroll: int
    registers: int | None


def tile_for(rows: int, S: int, row_major: bool, heads: int) -> Tile:
    """Sizes that were fastest on an H100 (docs/log.md)."""
    if row_major:
        return Tile(512, 4, 1, None)
    if heads > 1:
        return Tile(1024, 4, 4, None)
    if rows * S <= 2**20:
        return Tile(2048, 8, 8, 96)
    return Tile(2048, 4, 8, 128)


def rank(
    q: Float[Tensor, "B H G D"],
    keys: Columns | Float[Tensor, "B H S D"],
    first: Int[Tensor, "B"],
    stop: Int[Tensor, "B"],
    how: Ranking,
) -> Candidates:
    """Score positions first..stop-1 of each example, and name all that may be among the k best.

    Scores are float32 sums of products, over a group of query heads the sum of their logits. Of equal scores any may be
    chosen. Behind `stop` a copy may hold anything.
    """
    B, H, G, D = q.shape
    row_major = isinstance(keys, Tensor)
    values, scale = (keys.mT, None) if isinstance(keys, Tensor) else (keys.values, keys.scale)
    S = values.shape[-1]
    # a group's logits are summed before the product with the keys, unless each head's are needed
    heads = G if how.covered or how.softcap is not None else 1
    tile = tile_for(B * H, S, row_major, heads)
    chunks = triton.cdiv(S, tile.chunk)
    few = B * H <= FEW
    fused = few and B * H * chunks <= ONE_WAVE
    # a chunk may name some more than k, which spares it the last steps of its search; few heads wait for the merging
    cap = min(how.k if few else how.k + how.k // 4, tile.chunk)
    N = chunks * cap

    def scratch(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(B * H, *shape, dtype=dtype, device=q.device)

    HP, DP = triton.next_power_of_2(heads), triton.next_power_of_2(D)
    index, weight, floor = scratch(DP, dtype=torch.int32), scratch(HP, DP), scratch(dtype=torch.int32)
    score, position = scratch(HP, N), scratch(N, dtype=torch.int32)
    peak, mass, own = scratch(HP, chunks), scratch(HP, chunks), scratch(HP)
    q, scale = q.contiguous(), q if scale is None else scale.contiguous()
    heads_of = {
        "SCALED": scale is not q, "ROW_MAJOR": row_major, "HEADS": heads, "HP": HP, "GP": triton.next_power_of_2(G),
        "DP": DP,
    }  # fmt: skip
    early = overlap(q)
    if not fused:
        component_kernel[(B * H,)](
            q, scale, index, weight, floor, G, D, how.r, how.scale, **heads_of, EARLY=bool(early), num_warps=1
        )
    score_kernel[(B * H, chunks)](
        q, scale, values, first, stop, index, weight, floor, score, position, peak, mass, own,
        H, G, D, S, how.r, how.k, how.local, how.scale, how.softcap or 0.0, *values.stride(), chunks,
        FUSED=fused, OWN=how.own, COVERED=how.covered, CAPPED=how.softcap is not None, **heads_of,
        CHUNK=tile.chunk, CAP=cap, CAP_P=triton.next_power_of_2(cap), UNROLL=tile.unroll,
        EARLY=bool(early), num_warps=tile.warps, maxnreg=tile.registers, **({} if fused else early),
    )  # fmt: skip
    return Candidates(score, position, peak, mass, own, heads, how, first, stop)


def overlap(q: Tensor) -> dict[str, bool]:
    """How to launch a kernel that may be made ready before the one before it has ended, if it can."""
    able = q.is_cuda and torch.cuda.get_device_capability(q.device) >= (9, 0)
    return {"launch_pdl": True} if able else {}


def merge(found: Candidates, B: int, H: int, G: int) -> Ranked:
    """The k best of the candidates."""
    k, device = found.how.k, found.score.device
    chosen = torch.empty(B, H, k, dtype=torch.int32, device=device)
    covered = torch.empty(B, H, found.heads, dtype=torch.float32, device=device)
    merge_kernel[(B * H,)](
        found.first, found.stop, *found.tensors, chosen, covered, H, *found.numbers, **found.constants,
        num_warps=found.warps,
    )  # fmt: skip
    return Ranked(chosen, covered.expand(B, H, G) if found.how.covered else None)


@triton.jit
def component_kernel(
    p_q, p_scale, p_index, p_weight, p_floor, G, D, r, scale,
    SCALED: tl.constexpr, ROW_MAJOR: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, GP: tl.constexpr,
    DP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    i_row = tl.program_id(0).to(tl.int64)
    choose_components(i_row, p_q, p_scale, p_index, p_weight, G, D, r, scale, SCALED, ROW_MAJOR, HEADS, HP, GP, DP)
    # scoring begins: no chunk has found anything yet
    tl.store(p_floor + i_row, LOWEST)


@triton.jit
def choose_components(
    i_row, p_q, p_scale, p_index, p_weight, G, D, r, scale,
    SCALED: tl.constexpr, ROW_MAJOR: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, GP: tl.constexpr,
    DP: tl.constexpr,
):  # fmt: skip
    """Write the r components largest in magnitude, summed over the group, and what each head weights them with."""
    o_g, o_d = tl.arange(0, GP), tl.arange(0, DP)
    # [GP, DP]
    b_q = tl.load(
        p_q + (i_row * G + o_g)[:, None] * D + o_d[None, :], mask=(o_g < G)[:, None] & (o_d < D)[None, :], other=0.0
    ).to(tl.float32)
    size = tl.sum(tl.abs(b_q), axis=0)  # [DP]
    keys = tl.where(o_d < D, order(size), LOWEST)
    chosen, slot = slots(keys, threshold(keys, r, r), r)
    part = tl.sum(tl.where(chosen[None, :], tl.abs(b_q), 0.0), axis=1)  # [GP]
    whole = tl.sum(tl.abs(b_q), axis=1)
    # nothing of this head chosen, or nothing there: its part is zero at any temperature
    coverage = tl.where(part > 0, part / tl.where(whole > 0, whole, 1.0), 1.0)
    b_w = b_q * (scale / tl.sqrt(coverage))[:, None]  # [GP, DP]
    if SCALED:
        b_w = b_w * tl.load(p_scale + i_row * D + o_d, mask=o_d < D, other=0.0)[None, :]
    # row-major keys are read whole, and what was not chosen weighs nothing
    b_w = tl.where(chosen[None, :], b_w, 0.0)
    slot, written = (o_d, o_d >= 0) if ROW_MAJOR else (slot, chosen)
    p_weight += i_row * HP * DP
    if HEADS == 1:
        tl.store(p_weight + slot, tl.sum(b_w, axis=0), mask=written)
    else:
        tl.store(p_weight + o_g[:, None] * DP + slot[None, :], b_w, mask=written[None, :])
    tl.store(p_index + i_row * DP + slot, o_d, mask=written)


@triton.jit
def score_kernel(
    p_q, p_scale, p_c, p_first, p_stop, p_index, p_weight, p_floor, p_score, p_position, p_peak, p_mass, p_own,
    H, G, D, S, r, k, local, scale, softcap, stride_b, stride_h, stride_d, stride_s, chunks,
    FUSED: tl.constexpr, SCALED: tl.constexpr, ROW_MAJOR: tl.constexpr, OWN: tl.constexpr, COVERED: tl.constexpr,
    CAPPED: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, GP: tl.constexpr, DP: tl.constexpr,
    CHUNK: tl.constexpr, CAP: tl.constexpr, CAP_P: tl.constexpr, UNROLL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Score a chunk, and write its candidates: all that may be among the k best of the head."""
    i_row, i_chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i_b, i_h = i_row // H, i_row % H
    first, stop = tl.load(p_first + i_b), tl.load(p_stop + i_b)
    N = chunks * CAP
    if EARLY:
        # the next kernel may be made ready; it waits for what this one writes, as this one does for the one before it
        tl.extra.cuda.gdc_launch_dependents()
        if not FUSED:
            tl.extra.cuda.gdc_wait()
    if FUSED:
        # every program of a head writes the same
        choose_components(i_row, p_q, p_scale, p_index, p_weight, G, D, r, scale, SCALED, ROW_MAJOR, HEADS, HP, GP, DP)
        # what other threads of this program wrote is read next
        tl.debug_barrier()
    p_index += i_row * DP
    p_weight += i_row * HP * DP
    p_score += i_row * HP * N + i_chunk * CAP
    p_position += i_row * N + i_chunk * CAP
    p_peak += i_row * HP * chunks + i_chunk
    p_mass += i_row * HP * chunks + i_chunk
    o_n = i_chunk * CHUNK + tl.arange(0, CHUNK)
    o_h, o_cap = tl.arange(0, HP), tl.arange(0, CAP_P)
    found = 0
    if (i_chunk * CHUNK < stop) & ((i_chunk + 1) * CHUNK > first):
        p_c += i_b * stride_b + i_h * stride_h
        acc = tl.zeros([HP, CHUNK], dtype=tl.float32)
        # S being a multiple of 16 this mask leaves loads 16 bytes wide; `stop` would not
        inside = o_n < S
        if ROW_MAJOR:
            for d in range(0, DP, PART):
                o_d = d + tl.arange(0, PART)
                # [CHUNK, PART]
                b_c = tl.load(
                    p_c + o_n[:, None].to(tl.int64) * stride_s + o_d[None, :] * stride_d,
                    mask=inside[:, None] & (o_d < D)[None, :], other=0.0,
                ).to(tl.float32)  # fmt: skip
                for h in tl.static_range(HEADS):
                    b_w = tl.load(p_weight + h * DP + o_d)
                    part = tl.sum(tl.where(b_w[None, :] != 0, b_c * b_w[None, :], 0.0), axis=1)  # [CHUNK]
                    acc += part[None, :] if HEADS == 1 else tl.where((o_h == h)[:, None], part[None, :], 0.0)
        else:
            for j in tl.range(0, r, loop_unroll_factor=UNROLL):
                d = tl.load(p_index + j).to(tl.int64)
                b_w = tl.load(p_weight + o_h * DP + j, mask=o_h < HEADS, other=0.0)
                # [1, CHUNK]
                b_c = tl.load(p_c + d * stride_d + o_n[None, :] * stride_s, mask=inside[None, :], other=0.0)
                acc += b_w[:, None] * b_c.to(tl.float32)
        if CAPPED:
            # tanh by the exponential, which does not overflow towards -1
            acc = softcap * (1 - 2 / (tl.exp(2 * acc / softcap) + 1))
        seen = (o_n >= first) & (o_n < stop)
        if COVERED:
            hidden = tl.where(seen[None, :], acc, float("-inf"))
            top = tl.max(hidden, axis=1)
            top = tl.where(top == float("-inf"), 0.0, top)
            tl.store(p_peak + o_h * chunks, top)
            tl.store(p_mass + o_h * chunks, tl.sum(tl.exp(hidden - top[:, None]), axis=1))
            if (stop - 1 >= i_chunk * CHUNK) & (stop - 1 < (i_chunk + 1) * CHUNK):
                tl.store(p_own + i_row * HP + o_h, tl.sum(tl.where((o_n == stop - 1)[None, :], acc, 0.0), axis=1))
        if OWN:
            seen = seen & (o_n < stop - 1)
        keys = tl.where(o_n >= stop - 1 - local, HIGHEST, order(tl.sum(acc, axis=0)))
        keys = tl.where(seen, keys, LOWEST)
        if CAP == CHUNK:
            taken, slot = seen, tl.cumsum(seen.to(tl.int32), axis=0) - 1
        else:
            floor = LOWEST + 1
            if not FUSED:
                # a chunk that has k keys of t or more shows that none below t is among the k best of the head
                floor = tl.maximum(tl.load(p_floor + i_row, volatile=True), floor)
            if tl.sum((keys >= floor).to(tl.int32), axis=0) > CAP:
                floor = threshold(keys, k, CAP)
                if not FUSED:
                    tl.atomic_max(p_floor + i_row, floor, sem="relaxed")
            taken, slot = slots(keys, floor, CAP)
        found = tl.sum(taken.to(tl.int32), axis=0)
        tl.store(p_position + slot, o_n, mask=taken)
        tl.store(p_score + o_h[:, None] * N + slot[None, :], acc, mask=taken[None, :] & (o_h < HEADS)[:, None])
    elif COVERED:
        tl.store(p_peak + o_h * chunks, tl.zeros([HP], dtype=tl.float32))
        tl.store(p_mass + o_h * chunks, tl.zeros([HP], dtype=tl.float32))
    tl.store(p_position + o_cap, -1, mask=(o_cap >= found) & (o_cap < CAP))


@triton.jit
def merge_kernel(
    p_first, p_stop, p_score, p_position, p_peak, p_mass, p_own, p_chosen, p_covered, H, k, local, N, chunks,
    OWN: tl.constexpr, COVERED: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, HELD: tl.constexpr,
    WHOLE: tl.constexpr, CHUNKS_P: tl.constexpr,
):  # fmt: skip
    i_row = tl.program_id(0).to(tl.int64)
    first, stop = tl.load(p_first + i_row // H), tl.load(p_stop + i_row // H)
    merge_row(i_row, first, stop, p_score, p_position, p_peak, p_mass, p_own, p_chosen, p_covered, k, local, N, chunks,
              OWN, COVERED, HEADS, HP, HELD, WHOLE, CHUNKS_P)  # fmt: skip


@triton.jit
def merge_row(
    i_row, first, stop, p_score, p_position, p_peak, p_mass, p_own, p_chosen, p_covered, k, local, N, chunks,
    OWN: tl.constexpr, COVERED: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, HELD: tl.constexpr,
    WHOLE: tl.constexpr, CHUNKS_P: tl.constexpr,
):  # fmt: skip
    """List the best candidates of all chunks, and add up the weight that the approximation gives them."""
    want = tl.minimum(k, tl.maximum(stop - first - (1 if OWN else 0), 0))
    p_score += i_row * HP * N
    p_position += i_row * N
    p_chosen += i_row * k
    o_n, o_h, o_c = tl.arange(0, HELD), tl.arange(0, HP), tl.arange(0, CHUNKS_P)
    top = tl.zeros([HP], dtype=tl.float32)
    found = tl.zeros([HP], dtype=tl.float32)
    total = tl.zeros([HP], dtype=tl.float32)
    if COVERED:
        # [HP, CHUNKS]
        o_p = (i_row * HP + o_h)[:, None] * chunks + o_c[None, :]
        b_mass = tl.load(p_mass + o_p, mask=(o_c < chunks)[None, :], other=0.0)
        # a chunk of which nothing is seen has no peak
        b_peak = tl.load(p_peak + o_p, mask=b_mass > 0, other=float("-inf"))
        top = tl.max(b_peak, axis=1)
        top = tl.where(top == float("-inf"), 0.0, top)
        total = tl.sum(b_mass * tl.exp(b_peak - top[:, None]), axis=1)
        if OWN & (stop > first):
            found = tl.exp(tl.load(p_own + i_row * HP + o_h) - top)
    if WHOLE:
        keys, b_p = load_keys(p_score, p_position, o_n, N, stop, local, HEADS)
        taken, slot = slots(keys, threshold(keys, want, want), want)
        tl.store(p_chosen + slot, b_p, mask=taken)
        if COVERED:
            found += weigh(p_score, o_n, N, taken, top, o_h, HEADS)
    else:
        # more than a program can hold: the threshold by digits of 8 bits, from counts of each digit
        limit, before = digits(p_score, p_position, N, want, stop, local, HEADS, HELD)
        above_count, equal_count = 0, 0
        for n in range(0, N, HELD):
            keys, b_p = load_keys(p_score, p_position, n + o_n, N, stop, local, HEADS)
            above, equal = keys > limit, keys == limit
            scan = tl.cumsum(above.to(tl.int32) + (equal.to(tl.int32) << 16), axis=0)
            slot = tl.where(above, above_count + (scan & 0xFFFF) - 1, before + equal_count + (scan >> 16) - 1)
            taken = (above | (equal & (slot < want))) & (b_p >= 0)
            tl.store(p_chosen + slot, b_p, mask=taken)
            above_count += tl.sum(above.to(tl.int32), axis=0)
            equal_count += tl.sum(equal.to(tl.int32), axis=0)
            if COVERED:
                found += weigh(p_score, n + o_n, N, taken, top, o_h, HEADS)
    for n in range(want, k, HELD):
        tl.store(p_chosen + n + o_n, -1, mask=n + o_n < k)
    if COVERED:
        tl.store(p_covered + i_row * HEADS + o_h, found / tl.where(total > 0, total, 1.0), mask=o_h < HEADS)


@triton.jit
def load_keys(p_score, p_position, o_n, N, stop, local, HEADS: tl.constexpr):
    """Keys of candidates and their positions, -1 where there is none."""
    b_p = tl.load(p_position + o_n, mask=o_n < N, other=-1)
    total = tl.zeros(o_n.shape, dtype=tl.float32)
    for h in tl.static_range(HEADS):
        # whether there is a candidate or not: this load need not wait for the positions
        total += tl.load(p_score + h * N + o_n, mask=o_n < N, other=0.0)
    keys = tl.where(b_p >= stop - 1 - local, HIGHEST, order(total))
    return tl.where(b_p >= 0, keys, LOWEST), b_p


@triton.jit
def weigh(p_score, o_n, N, taken, top, o_h, HEADS: tl.constexpr):
    """By head, the sum of the exponentials of the taken candidates' scores."""
    found = tl.zeros(top.shape, dtype=tl.float32)
    for h in tl.static_range(HEADS):
        b_s = tl.load(p_score + h * N + o_n, mask=taken, other=float("-inf"))
        own_top = tl.sum(tl.where(o_h == h, top, 0.0), axis=0)
        found += tl.where(o_h == h, tl.sum(tl.exp(b_s - own_top), axis=0), 0.0)
    return found


@triton.jit
def digits(p_score, p_position, N, want, stop, local, HEADS: tl.constexpr, HELD: tl.constexpr):
    """The key of the `want`-th best candidate, and how many are better."""
    o_n, o_b = tl.arange(0, HELD), tl.arange(0, 256)
    prefix = tl.zeros([], dtype=tl.uint32)
    left = want
    for place in tl.static_range(4):
        shift = 24 - 8 * place
        counts = tl.zeros([256], dtype=tl.int32)
        for n in range(0, N, HELD):
            keys, b_p = load_keys(p_score, p_position, n + o_n, N, stop, local, HEADS)
            u = keys.to(tl.uint32, bitcast=True) ^ 0x80000000
            alike = b_p >= 0
            if place > 0:
                alike = alike & ((u >> (shift + 8)) == prefix)
            counts += tl.histogram(((u >> shift) & 255).to(tl.int32), 256, mask=alike)
        # how many have this digit or a larger one
        reach = tl.sum(counts, axis=0) - tl.cumsum(counts, axis=0) + counts
        # the largest digit that reaches what is wanted; where nothing is wanted, the largest of all
        digit = tl.max(tl.where(reach >= left, o_b, 0), axis=0)
        left -= tl.sum(tl.where(o_b > digit, counts, 0), axis=0)
        prefix = (prefix << 8) | digit.to(tl.uint32)
    return (prefix ^ 0x80000000).to(tl.int32, bitcast=True), want - left
