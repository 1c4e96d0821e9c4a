"""`python -m dabdetr`: the command."""

from dabdetr.cli import main

if __name__ == "__main__":
    main(prog_name="dabdetr")
