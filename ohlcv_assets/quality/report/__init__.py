"""The report on a verdict: pages of one file each, which load nothing from anywhere.

Lives here: a package: what a page says (findings.py), how a bar beside its neighbours looks (charts.py), and the pages
(pages.py, the templates). Does not: what is right or wrong (quality/verdict.py, quality/expectations.py), or where a page
is kept (quality/results.py). Whatever came from outside, a symbol's name for one, is escaped.
"""
