"""Pages as PNG files: predictions, attention, confusion, learning curves."""

import matplotlib as mpl

mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
# Names of images and classes are no formulas: one with two dollars could fail to be drawn.
mpl.rcParams["text.parse_math"] = False
