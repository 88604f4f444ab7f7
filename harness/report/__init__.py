"""What is shown. Looks only at records, never runs anything.

``harness.report.page.write_report`` writes the report of one or several runs; ``harness.report.summary.summary_tables``
gives the tables for the end of a run in the terminal.
"""
