"""Reports that people read: one file each, that needs nothing else."""

from blockvid.evaluation.report.comparison import PAGE, comparison_page, write_comparison
from blockvid.evaluation.report.page import REPORT, report, write_report

__all__ = ["PAGE", "REPORT", "comparison_page", "report", "write_comparison", "write_report"]
