"""Analyses in the forms of the paper: Figures 4, E1 and E2, and Table 1."""

from sparq_eval.report.analysis.draw import draw_analyses, draw_fig4, draw_figE1, draw_figE2, draw_table1, newest

__all__ = ["draw_analyses", "draw_fig4", "draw_figE1", "draw_figE2", "draw_table1", "newest"]
