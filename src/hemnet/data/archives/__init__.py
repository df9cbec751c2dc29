"""Published data sets: the catalogue, downloading and unpacking."""
