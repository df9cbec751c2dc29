"""A package outside of hemnet: a backbone, a head, a reader, a loss and a callback of one's own."""
