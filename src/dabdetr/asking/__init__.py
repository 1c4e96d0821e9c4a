"""Uses of questions: snapping rough boxes, auditing labels, tracking objects."""
