"""The report over run directories: what they say, with intervals and paired tests, as one page to read.

collect -> groups -> chapters (mathematics in significance, pictures in plots) -> contents -> page
"""
