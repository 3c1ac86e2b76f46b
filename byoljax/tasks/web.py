"""A page that follows the runs of a directory, for a browser on this computer."""

import argparse
import functools

from byoljax.config import expanded
from byoljax.tasks.command import Command
from byoljax.tasks.runs import DIRECTORY

PORT = 8321


def run(options: argparse.Namespace) -> int:
  """Serves the page until it is stopped; nothing here imports JAX."""
  from byoljax.web import server

  directory = expanded(options.dir)
  server.serve(directory, options.port, functools.partial(print, flush=True))
  return 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--port',
    type=int,
    default=PORT,
    help=f'0: any free port (default: {PORT})',
  )


COMMAND = Command(
  'web',
  'serve a live page of the runs in a directory, to this computer only',
  run,
  (DIRECTORY,),
  add_flags=_add_flags,
  endless=True,
)
