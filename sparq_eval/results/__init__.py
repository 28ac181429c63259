"""The store of records: what was measured, under which identity, with one row per example."""

from sparq_eval.results.frames import Frames, load
from sparq_eval.results.record import Identity, Row
from sparq_eval.results.store import Entry, Store

__all__ = ["Entry", "Frames", "Identity", "Row", "Store", "load"]
