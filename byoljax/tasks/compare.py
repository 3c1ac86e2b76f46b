"""Several runs in one table and one plot."""

import argparse

from byoljax.config import user_errors
from byoljax.tasks.command import Argument, Command


def run(options: argparse.Namespace) -> int:
  """Prints the table of finished runs; see `byoljax.report.compare`."""
  from byoljax.report import compare

  with user_errors():
    compare.run(options.run, options.out)
  return 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--out', default='', help='folder for table.md, table.csv and scores.png')


COMMAND = Command(
  'compare',
  'put several runs in one table and one plot',
  run,
  (Argument('RUN', 'directory', 'directories of finished runs', many=True),),
  add_flags=_add_flags,
)
