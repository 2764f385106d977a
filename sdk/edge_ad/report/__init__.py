"""The conversion's report: its record (``report.json``) and the pages made from it."""
