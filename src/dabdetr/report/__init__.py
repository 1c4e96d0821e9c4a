"""What a run leaves to look at: numbers as JSON and CSV, figures as PNG, one page of all."""
