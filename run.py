"""The door: `python run.py` starts minibot. Everything is in `minibot/`; read `minibot/__init__.py` first."""

import sys

if sys.version_info < (3, 11):
    sys.exit("minibot needs Python 3.11 or newer; this is " + sys.version.split()[0])

from minibot.cli import main  # noqa: E402  the version is checked first, so that an old Python says so in one line

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
