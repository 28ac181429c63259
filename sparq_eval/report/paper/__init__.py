"""The figures and tables of the paper (arXiv 2312.04985), each from records, with what it is made of."""

from sparq_eval.report.paper.story import draw_figures

__all__ = ["draw_figures"]
