"""The report on run directories: scores with intervals and paired tests, figures and tables, on one page.

write -> collect -> assemble (groups, chapters/ with significance and plots) -> page; contents has the
blocks of a page
"""
