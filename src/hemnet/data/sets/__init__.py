"""The data sets: a reader class per layout on disk, with its classes, colours and splits."""
