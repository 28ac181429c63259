"""What a sparse attention method costs in quality and saves in memory traffic (SparQ Attention, arXiv 2312.04985)."""

__version__ = "0.1.0"
