"""How fast a recipe trains here, and what limits it."""

import json
import pathlib

from byoljax import config as config_lib
from byoljax.config import Config, ConfigError, user_errors
from byoljax.devices import hosts
from byoljax.tasks import data as data_lib
from byoljax.tasks.command import RECIPE, Command
from byoljax.version import versions
from byoljax.workdir import activity, places, run_dir
from byoljax.workdir.files import write_json
from byoljax.workdir.run_dir import Invocation, say


def run(config: Config, invocation: Invocation) -> int:
  """Times input, step and training of a configuration here; see `byoljax.plan.timing`."""
  from byoljax.encoders import given_networks
  from byoljax.plan import timing, timing_report

  if 'method' not in config or 'bench' not in config:
    raise ConfigError(f'{invocation.recipe} trains no encoder: name a recipe that does.')
  timing.check(config)
  workdir = pathlib.Path(invocation.workdir or run_dir.default_workdir(invocation.recipe))
  places.require_folder(workdir)  # Before minutes of measuring.
  source = data_lib.open_split(config, 'pretrain', None)
  given = given_networks.load(config)
  with activity.doing('timing the input, the step and both'):
    found = timing.measure(config, source, given)
  say(timing_report.text(found))
  path = workdir / 'bench.json'
  if hosts.is_first_process():
    with user_errors():
      workdir.mkdir(parents=True, exist_ok=True)
    setting = {'recipe': invocation.recipe, 'config': json.loads(config_lib.to_json(config))}
    write_json(path, {'result': found, **setting, 'versions': versions()})
  say(f'result  {path}')
  return 0


COMMAND = Command(
  'bench',
  'time the input pipeline and the train step of a recipe',
  run,
  (RECIPE,),
  task='bench',
  workdir='runs/<recipe>',
  overrides=(('task', 'bench'),),
)
