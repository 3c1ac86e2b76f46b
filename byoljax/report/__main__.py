"""`python -m byoljax.report runs/byol`: the same as `byoljax report runs/byol`."""

import sys

from byoljax.devices import stop


def main() -> int:
  """Writes the report of a run and says where it is; returns an exit status."""
  from byoljax import flags

  return flags.exit_status(_main)


def _main() -> int:
  from byoljax import flags
  from byoljax.report import contents

  parser = flags.Parser(prog='python -m byoljax.report', description='One HTML page about a run.')
  parser.add_argument('run', metavar='RUN', help='directory of a run with a checkpoint')
  print(f'report  {contents.write(parser.parse_all(sys.argv[1:]).run)}')
  return 0


if __name__ == '__main__':
  stop.run_program(main)
