"""`python -m byoljax.report runs/byol`: the same as `byoljax report runs/byol`."""

import sys

from byoljax import cli

if __name__ == '__main__':
  sys.exit(cli.run(['report', *sys.argv[1:]]))
