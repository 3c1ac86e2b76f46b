"""A run's encoder on Hugging Face's hub, as `byoljax export` writes it."""

import argparse
import pathlib
import tempfile

from byoljax.config import expanded, user_errors
from byoljax.tasks import export
from byoljax.tasks.command import Argument, Command
from byoljax.workdir.run_dir import say


def run(options: argparse.Namespace) -> int:
  """Exports to a temporary folder and uploads that; a folder that is one already goes as it is."""
  from byoljax.weights import exported, hub

  hub.check_name(options.repository)
  api = hub.client()  # Before minutes of exporting.
  given = expanded(options.run)
  if exported.is_one(given):
    export.require_usual_network(options.network, f"'{options.run}' is an exported folder")
  with tempfile.TemporaryDirectory(prefix='byoljax-push-') as scratch:
    folder = given
    if not exported.is_one(given):
      folder = export.write(options.run, options.network, pathlib.Path(scratch) / 'export')
    with user_errors():
      exported.about(folder, options.run)  # Whoever fetches it could not load it.
    export.tell(folder)
    message = options.message or f'Encoder of {given.resolve().name}'
    url = hub.push(api, folder, options.repository, private=options.private, message=message)
  say(f"pushed  {url}  (byoljax.load('{hub.PREFIX}{options.repository}'))")
  return 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--network', default='online', help='online or target (default: online)')
  parser.add_argument('--private', action='store_true', help='make a new repository private')
  parser.add_argument('--message', default='', help='the commit message')


COMMAND = Command(
  'push',
  "upload a run's encoder to Hugging Face's hub",
  run,
  (
    Argument('RUN', 'directory', 'a run, one of its checkpoints/<step>, or an exported folder'),
    Argument('REPOSITORY', 'name', 'owner/name on the hub'),
  ),
  add_flags=_add_flags,
)
