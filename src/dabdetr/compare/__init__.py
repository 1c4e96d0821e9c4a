"""``dabdetr compare``: training of several models on the same data and seeds, and their results."""
