"""Sets of caches that the calls of a runner go round, so that none finds in a processor's own cache what it reads.

How many follows from what the runner moves, not from what the caches hold: a sparse method reads a small part of them.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import psutil
import torch

from sparq_eval.bench.case import Case, steps_of
from sparq_eval.step import Step

TIMES = 4  # what all sets together move is so many times what the processor's own cache holds
MOST = 64
SHARE = 0.5  # of the free memory, for all sets of a case
USUAL = 2**26  # bytes of a processor's own cache where nothing is known of it
CPU = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass
class Sets:
    """Steps on fresh random caches, each with queries of its own, by the copy of the keys that they have.

    They are drawn when a runner first needs so many, and kept for the others. Empty where there is no memory for one.
    """

    case: Case
    copies: Collection[str]
    drawn: list[dict[str | None, Step]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.own = own_cache(self.case.device)
        self.room = int(SHARE * free_memory(self.case.device) / set_bytes(self.case, self.copies))

    def enough(self, moved: float) -> list[dict[str | None, Step]]:
        """Sets for a runner that moves so many bytes in a call."""
        number = count(moved, self.own, self.room)
        while len(self.drawn) < number:
            try:
                self.drawn.append(steps_of(self.case, set(self.copies)))
            except torch.OutOfMemoryError:
                break
        return self.drawn[:number]


def count(moved: float, own: int, room: int) -> int:
    """How many sets: as many as move TIMES what the processor's own cache holds, if there is room for them."""
    return max(1, min(ceil(TIMES * own / moved), MOST, room))


def set_bytes(case: Case, copies: Collection[str]) -> int:
    """Keys, values and second copies of a step, about."""
    keys = case.B * case.H * case.S * case.D
    return keys * (
        2 * case.dtype.itemsize + sum(1 if copy in ("fp8", "int8") else case.dtype.itemsize for copy in copies)
    )


def free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def own_cache(device: torch.device) -> int:
    """Bytes of the last cache before memory."""
    if device.type == "cuda":
        return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)) or USUAL
    sizes = [size_of(path.read_text()) for path in CPU.glob("index*/size")]
    return max(sizes, default=USUAL)


def size_of(text: str) -> int:
    """Bytes of a size as Linux writes it: 32768K."""
    text = text.strip()
    return int(text[:-1]) * UNITS[text[-1]] if text[-1:] in UNITS else int(text)
