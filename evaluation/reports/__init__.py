"""What scored answers show: the report, comparisons of runs, the index of runs; terminal, Markdown, HTML, CSV
and JUnit.

What never comes in: asking a judge, and anything that prints.
"""
