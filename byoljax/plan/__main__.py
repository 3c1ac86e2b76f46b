"""`python -m byoljax.plan`; see `byoljax.plan.command`."""

import sys

from byoljax.plan import command

if __name__ == '__main__':
  sys.exit(command.main())
