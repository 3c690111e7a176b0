"""The report of a run: a page, its pictures and its numbers (`page.build_report`)."""
