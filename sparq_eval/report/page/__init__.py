"""The page: one self-contained HTML file to explore records in, without a network: curves, tables, needles, answers."""

from sparq_eval.report.page.write import PAGE, write_page

__all__ = ["PAGE", "write_page"]
