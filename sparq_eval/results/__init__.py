"""The store of records: what was measured, under which identity, a row an example; what was timed; what was seen."""

from sparq_eval.results.analysis import Analysis, load_analyses
from sparq_eval.results.bench import Bench, load_benches
from sparq_eval.results.bench_rows import AttentionRow, DecodeRow
from sparq_eval.results.frames import Frames, load
from sparq_eval.results.record import Identity, Row
from sparq_eval.results.store import Entry, Store

__all__ = [
    "Analysis",
    "AttentionRow",
    "Bench",
    "DecodeRow",
    "Entry",
    "Frames",
    "Identity",
    "Row",
    "Store",
    "load",
    "load_analyses",
    "load_benches",
]
