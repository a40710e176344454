"""``python -m bootstrap``: the program from a checkout."""

from .cli import entry

entry()
