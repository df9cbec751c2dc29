"""The report on run directories: scores with intervals and paired tests, figures and tables, on one page.

collect -> groups -> chapters/ (mathematics in significance, pictures in plots) -> contents -> page
"""
