"""A finished run as the comparison sees it: its settings, its results, its metrics."""

from collections.abc import Iterable, Mapping
import json
import pathlib
from typing import Any, NamedTuple

from byoljax import config as config_lib
from byoljax.report import by_tap, evaluations
from byoljax.workdir import metrics

# Names of the baselines in `results.json`, by the network that an evaluation is asked for.
PIXELS = 'raw pixels'
_BASELINES = {'random': 'random initialization', 'pixels': PIXELS}
_LATER = ('knn', 'linear')


class Run(NamedTuple):
  """A finished run.

  Attributes:
    name: its directory's name.
    fields: its configuration, by dotted name.
    results: encoder -> {'knn': {'top1', ...}, 'linear': {'top1', ...}}, each as far as it is known.
    rows: its metrics.
    taps: task -> rows of its evaluations by tap, where there are any.
    finetuned: results of fine-tuning, where there are any; see `evaluations.finetuned`.
    recipe: its name with its options, 'simclr:folder_small'.
    fingerprint: of its images.
  """

  name: str
  fields: dict[str, Any]
  results: dict[str, Any]
  rows: list[dict[str, float]]
  taps: dict[str, list[dict[str, Any]]]
  finetuned: list[dict[str, Any]]
  recipe: str = ''
  fingerprint: str = ''

  @property
  def method(self) -> str:
    """The name under which the trained encoder's results stand."""
    return self.fields['method.name']

  @property
  def data(self) -> str:
    """What it was trained and evaluated on, for a person: 'cifar10', 'photos (folder)'."""
    return evaluations.data_title(self.fields['data.name'], self.fields.get('data.dir', ''))


def load(workdir: pathlib.Path) -> Run:
  """Reads a run; what was evaluated after it, of its last evaluated step, completes its results.

  Raises:
    ValueError: it has no results at all.
  """
  try:
    about = json.loads((workdir / 'config.json').read_text())
    fields = config_lib.flatten(about['config'])
    results = _results(workdir, fields['method.name'])
    assert fields['method.name'] in results
  except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
    raise ValueError(
      f"'{workdir}' has no final results: a complete run with evals.final=true has them, and "
      '`byoljax knn` and `byoljax linear` add them to any run.'
    ) from error
  return Run(
    workdir.name,
    fields,
    results,
    metrics.read(workdir),
    by_tap.newest(workdir),
    evaluations.finetuned(workdir),
    recipe_name(about.get('recipe', '')),
    str(about.get('data_fingerprint', '')),
  )


def recipe_name(recipe: str) -> str:
  """'simclr:folder_small' for '.../configs/simclr.py:folder_small', wherever that lies."""
  path, colon, options = str(recipe).partition(':')
  return f'{pathlib.PurePath(path).stem}{colon}{options}'


def training_seconds(rows: Iterable[Mapping[str, Any]]) -> float | None:
  """How long a run has trained by its metrics, all attempts together; None where they do not say.

  Each attempt has a clock of its own, and is known by the time of its first step.
  """
  attempts = {
    row.get('time/first_step_s'): row['time/elapsed_s'] for row in rows if 'time/elapsed_s' in row
  }
  return sum(attempts.values()) if attempts else None


def _results(workdir: pathlib.Path, method: str) -> dict[str, Any]:
  """Of `results.json`, and of later evaluations of the embedding on the run's own data."""
  path = workdir / 'results.json'
  final: dict[str, Any] = json.loads(path.read_text())['result'] if path.exists() else {}
  # Evaluations of something else, such as a saved classifier, have no step.
  later = [
    each
    for each in evaluations.stored(workdir)
    if each['config'].get('task') in _LATER and each['step'].isdecimal()
  ]
  for each in sorted(later, key=lambda each: int(each['step'])):
    config = each['config']
    own = evaluations.is_of_own_data(config) and config.get('tap', 'embedding') == 'embedding'
    network = config.get('network')
    name = method if network == 'online' else _BASELINES.get(str(network))
    if own and name and 'top1' in each['result']:
      kind = config['task']
      if path.exists() and kind in final.get(name, {}):
        continue  # What the run itself found stands.
      final.setdefault(name, {})[kind] = each['result']
  return final
