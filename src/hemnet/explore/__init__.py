"""The explorer: one page on which one looks at what EM does with photographs, pixel by pixel.

writing (from a run to a file) -> showing (which photographs), observing (what the EM layer does, as arrays),
rendering (the page, from explorer.html.jinja, explorer.css and explorer.js) with packing (arrays as text)
"""
