"""The story of a report on benchmarks: rows, tables, plots."""

from collections.abc import Sequence
from pathlib import Path

from sparq_eval.progress import progress, say
from sparq_eval.report.bench.attention import attention_plots
from sparq_eval.report.bench.decode import decode_plots
from sparq_eval.report.bench.lines import assign_looks, name_lines
from sparq_eval.report.bench.published import Published
from sparq_eval.report.bench.roofline import intensity_plot, roofline_plots
from sparq_eval.report.bench.rows import bench_rows
from sparq_eval.report.bench.tables import write_rows, write_table4
from sparq_eval.report.chart import write_plot
from sparq_eval.results.bench import Bench


def write_benches(benches: Sequence[Bench], out: Path, published: Published) -> None:
    """Write all that the records give to `out`, in files whose names begin with `bench-`."""
    for bench in benches:
        if bench.note:
            say(f"note: benchmark {bench.key} has not all that was asked for: {bench.note}")
    attention, decode = bench_rows(benches, "attention"), bench_rows(benches, "decode")
    labels = [label for rows in (attention, decode) if len(rows) for label in name_lines(rows)]
    looks = assign_looks(labels)
    plots = [intensity_plot(attention)]
    if len(attention):
        write_rows(attention, "attention", out)
        write_table4(attention, published.attention, out)
        plots += [*attention_plots(attention, looks, published.attention), *roofline_plots(attention)]
    if len(decode):
        write_rows(decode, "decode", out)
        plots += decode_plots(decode, looks, published.decode)
    with progress("benchmarks", len(plots), "figures") as advance:
        for plot in plots:
            write_plot(plot, out)
            advance(1)
