"""What questions are good for: rough boxes made tight, labels audited, objects followed."""
