"""Figures as PNG files: predictions, attention, confusion matrices, learning curves."""

import matplotlib as mpl

mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
# Names of images and classes are plain text; one with two dollar signs would be parsed as a formula.
mpl.rcParams["text.parse_math"] = False
