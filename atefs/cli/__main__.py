"""`python -m atefs.cli`."""

from atefs.cli.main import main

if __name__ == "__main__":
    main()
