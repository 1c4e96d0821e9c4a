"""The race of the family: members alike in all but their own part, and its claims."""
