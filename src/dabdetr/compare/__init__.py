"""``dabdetr compare``: models trained on the same data with the same seeds, in one table."""
