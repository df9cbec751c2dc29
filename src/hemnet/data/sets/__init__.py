"""The data sets: one reader class for each on-disk layout, with its classes, colours and split lists."""
