"""`python -m daybreak` is the command `daybreak`."""

from daybreak.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
