"""REPORT: pages that say what was asked, what was measured, and what it was worth. Start at ``page.write_report``."""
