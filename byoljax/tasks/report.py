"""One HTML page about a run."""

import argparse

from byoljax.tasks.command import Argument, Command
from byoljax.workdir.run_dir import say


def run(options: argparse.Namespace) -> int:
  """Writes the page anew, with the evaluations that there are now."""
  from byoljax.report import contents

  say(f'report  {contents.write(options.run)}')
  return 0


COMMAND = Command(
  'report',
  'write one HTML page about a run',
  run,
  (Argument('RUN', 'directory', 'the directory of a run with a checkpoint'),),
)
