"""The runs of a directory as a table: what trains, how far it is, how good, how large."""

import argparse
import json
import time

from byoljax.config import expanded
from byoljax.tasks.command import Argument, Command
from byoljax.workdir import listing
from byoljax.workdir.listing import Listed

DIRECTORY = Argument('DIR', 'directory', 'that holds runs (default: runs)', default='runs')


def run(options: argparse.Namespace) -> int:
  """Prints the table; it starts in a moment, because nothing here imports JAX."""
  from byoljax.report import table

  found = listing.listed(expanded(options.dir))
  key, descending = listing.ORDERS[options.sort]
  found.sort(key=key, reverse=descending != options.reverse)
  if options.json:
    print(json.dumps([each._asdict() for each in found], indent=2))
    return 0
  if not found:
    print(f"no runs in '{options.dir}' and {listing.DEPTH} levels of folders below it")
    return 0
  now = time.time()
  rows = [_row(each, now) for each in found]
  print(table.format_table(rows, list(rows[0]), formats={'best k-NN': '{:.1%}', 'loss': '{:.4g}'}))
  return 0


def _row(run: Listed, now: float) -> dict[str, str | float | None]:
  share = '' if not run.total or run.step >= run.total else f' ({run.step / run.total:.0%})'
  of = '' if run.total is None else f' of {run.total:,}'
  return {
    'run': run.name,
    'recipe': run.recipe,
    'status': run.status,
    'step': f'{run.step:,}{of}{share}',
    'best k-NN': run.best,
    'loss': run.loss,
    'size': human_size(run.bytes),
    'changed': ago(now - run.changed),
  }


def human_size(count: int) -> str:
  """'980 kB', '12.5 MB', '3.1 GB'."""
  number, unit = count / 1000, 'kB'
  for unit in ('kB', 'MB', 'GB', 'TB'):
    if number < 999.5 or unit == 'TB':
      break
    number /= 1000
  return f'{number:.1f} {unit}' if number < 99.95 and unit != 'kB' else f'{number:.0f} {unit}'


def ago(seconds: float) -> str:
  """'12 s ago', '3 min ago', '5 h ago', '12 d ago'."""
  for length, unit in ((86400, 'd'), (3600, 'h'), (60, 'min')):
    if seconds >= length:
      return f'{seconds // length:.0f} {unit} ago'
  return f'{max(seconds, 0):.0f} s ago'


def _add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--sort', choices=list(listing.ORDERS), default='name',
    help='numbers and times: the largest first (default: name)',
  )  # fmt: skip
  parser.add_argument('--reverse', action='store_true', help='reverse the order')
  parser.add_argument('--json', action='store_true', help='print everything that is known, as JSON')


COMMAND = Command(
  'runs',
  'list the runs in a directory, finished or training',
  run,
  (DIRECTORY,),
  add_flags=_add_flags,
)
