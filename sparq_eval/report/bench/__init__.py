"""Benchmarks in the forms of the paper: tables, micro-benchmarks, rooflines, tokens of whole models."""

from sparq_eval.report.bench.write import write_benches

__all__ = ["write_benches"]
