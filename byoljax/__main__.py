"""`python -m byoljax`: the command `byoljax`; see `byoljax.cli`."""

import sys

from byoljax import cli

if __name__ == '__main__':
  sys.exit(cli.run())
