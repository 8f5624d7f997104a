"""`python -m atedb.cli`."""

from atedb.cli.main import main

if __name__ == "__main__":
    main()
