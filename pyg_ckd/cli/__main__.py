"""Lets ``python -m pyg_ckd.cli`` stand for the command ``pyg-ckd``."""

import sys

from pyg_ckd.cli import main

if __name__ == "__main__":
    sys.exit(main())
