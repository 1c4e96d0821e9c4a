"""A run's report: numbers as JSON and CSV, figures as PNG, and all of it as one page."""
