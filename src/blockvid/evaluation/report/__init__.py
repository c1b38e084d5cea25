"""Reports that people read: one file each, that needs nothing else."""

from blockvid.evaluation.report.page import REPORT, report, write_report

__all__ = ["REPORT", "report", "write_report"]
