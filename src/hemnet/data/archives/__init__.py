"""Data sets as they are published: the catalogue, downloading and unpacking."""
