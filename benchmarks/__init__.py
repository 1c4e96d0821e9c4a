"""Our DAB-DETR and that of transformers side by side: equal weights, one run, ratios."""
