"""Tables, findings and trade-off plots, drawn from records alone: `python -m sparq_eval.report RESULTS --out OUT`."""

from sparq_eval.report.findings import Findings, find
from sparq_eval.report.terminal import terminal_table
from sparq_eval.report.write import report_run, write_report

__all__ = ["Findings", "find", "report_run", "terminal_table", "write_report"]
