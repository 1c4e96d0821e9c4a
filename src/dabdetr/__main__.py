"""Runs the command line as ``python -m dabdetr``."""

from dabdetr.cli import main

if __name__ == "__main__":
    main(prog_name="dabdetr")
