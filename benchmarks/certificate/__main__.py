"""Run the certificate."""

from benchmarks.certificate import main

if __name__ == "__main__":
    main()
