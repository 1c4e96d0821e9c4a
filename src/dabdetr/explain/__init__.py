"""Explanations of detections: the trace of every layer as numbers, then figures and a page."""
