"""What is shown. Looks only at records, never runs anything.

The way in is ``harness.report.page``: ``write_report`` writes the report of one or several runs, ``summary_tables``
gives the tables for the end of a run in the terminal.
"""
