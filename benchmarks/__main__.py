"""``python -m benchmarks``: what ``make bench`` runs."""

from benchmarks.compare import main

if __name__ == "__main__":
    main()
