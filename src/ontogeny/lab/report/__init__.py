"""REPORT: one page that says what was asked, what was measured, and what it was worth."""

from ontogeny.lab.report.page import write_report

__all__ = ["write_report"]
