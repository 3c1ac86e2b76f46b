"""`python -m byoljax.report runs/byol`: the same as `byoljax report runs/byol`."""

import sys

from byoljax import flags
from byoljax.report import contents


def main() -> int:
  """Writes the report of a run and says where it is; returns an exit status."""
  parser = flags.Parser(prog='python -m byoljax.report', description='One HTML page about a run.')
  parser.add_argument('run', metavar='RUN', help='directory of a run with a checkpoint')
  print(f'report  {contents.write(parser.parse_all(sys.argv[1:]).run)}')
  return 0


if __name__ == '__main__':
  sys.exit(flags.exit_status(main))
