"""Run the checks."""

from benchmarks.compatibility import main

if __name__ == "__main__":
    main()
