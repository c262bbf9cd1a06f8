"""Commands of `cli.py` by what they are about. Like it, they import late, because `--help` answers at once."""
