"""The paper's figures and tables by name: what each shows, and what draws it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sparq_eval.report.paper import ablations, kernels, length, needle, table2, table3, tokens, tradeoff
from sparq_eval.report.paper.drawing import Drawing
from sparq_eval.report.paper.sources import Sources


@dataclass(frozen=True)
class Entry:
    """draw None: of the analyses, which draw for themselves."""

    title: str
    draw: Callable[[Sources], Drawing] | None = None


CATALOGUE = {
    "fig1": Entry("Score against transfers, one model", tradeoff.figure_1),
    "fig2": Entry("Roofline of attention", kernels.figure_2),
    "fig3": Entry("Share of a token's time that attention takes", tokens.figure_3),
    "fig4": Entry("Attention's weights, queries, and how SparQ approximates them"),
    "fig6": Entry("Score over the length of prompts", length.figure_6),
    "fig7": Entry("SparQ's parts: ranking, temperature, budgets", ablations.figure_7),
    "fig8": Entry("Micro-benchmarks of attention over positions", kernels.figure_8),
    "fig9": Entry("Tokens of whole models on CPUs", partial(tokens.end_to_end, gpu=False)),
    "fig10": Entry("Tokens of whole models on GPUs", partial(tokens.end_to_end, gpu=True)),
    "figA1": Entry("Score against transfers, Llama", partial(tradeoff.family, figure="figA1")),
    "figA2": Entry("Score against transfers, Mistral and Gemma", partial(tradeoff.family, figure="figA2")),
    "figA3": Entry("Score against transfers, Pythia and small models", partial(tradeoff.family, figure="figA3")),
    "figA4": Entry("Needles found over length and depth", needle.figure_a4),
    "figC1": Entry("Arithmetic intensity of decoding", kernels.figure_c1),
    "figD1": Entry("Time of a dense token over positions", tokens.figure_d1),
    "figE1": Entry("Queries' components over layers and heads"),
    "figE2": Entry("How many of the top positions SparQ finds, over layers and heads"),
    "figF1": Entry("Micro-benchmarks of attention over batches and budgets", kernels.figure_f1),
    "table1": Entry("How values vary: correlation ratio"),
    "table2": Entry("Scores at shares of dense's transfers", table2.table_2),
    "table3": Entry("Needles found in each bin of lengths", table3.table_3),
    "table4": Entry("SparQ's implementations at one size", kernels.table_4),
}
