"""`dabdetr bench`: one model in every runtime and precision, timed side by side on own images."""
