"""A finished run as the comparison sees it: its settings, its results, its metrics."""

from collections.abc import Iterable, Mapping
import json
import math
import pathlib
from typing import Any, NamedTuple

from byoljax import config as config_lib
from byoljax.report import by_tap, evaluations
from byoljax.workdir import description, metrics, steps, stored_config

# Names of the baselines in `results.json`, by the network that an evaluation is asked for.
PIXELS = 'raw pixels'
_BASELINES = {'random': 'random initialization', 'pixels': PIXELS}
# What results depend on although it is not the training's.
_PROTOCOLS = {
  'knn': ('evals.knn.k', 'evals.knn.temperature', 'evals.image_size'),
  'linear': ('evals.linear.', 'evals.image_size'),
}


class Run(NamedTuple):
  """A finished run.

  Attributes:
    name: its directory's name.
    fields: its configuration, by dotted name; see `stored_config`.
    results: encoder -> {'knn': {'top1', ...}, 'linear': {'top1', ...}}, each as far as it is known.
    rows: its metrics.
    taps: task -> rows of its evaluations by tap, where there are any.
    finetuned: results of fine-tuning, where there are any; see `evaluations.finetuned`.
    recipe: its name with its options, 'simclr:folder_small'.
    fingerprint: of its images.
    older: kind of its results -> the step that they are of, where it has a newer checkpoint.
    protocol: by which it was evaluated, by dotted name of the fields.
  """

  name: str
  fields: dict[str, Any]
  results: dict[str, Any]
  rows: list[dict[str, float]]
  taps: dict[str, list[dict[str, Any]]]
  finetuned: list[dict[str, Any]]
  recipe: str = ''
  fingerprint: str = ''
  older: Mapping[str, int] = {}
  protocol: Mapping[str, Any] = {}

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
    ValueError: there is no run, or it has no results at all.
  """
  if not (workdir / 'config.json').is_file():
    there = 'is no run' if workdir.exists() else 'does not exist'
    raise ValueError(
      f"'{workdir}' {there}: name directories of runs, as `byoljax runs` lists them."
    )
  try:
    about = json.loads((workdir / 'config.json').read_text())
    fields = config_lib.flatten(stored_config.completed(about['config']))
    results, older, protocol = _results(workdir, about['config'])
    assert fields['method.name'] in results
  except (OSError, AssertionError, *evaluations.ODD) as error:
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
    description.short_recipe(str(about.get('recipe', ''))),
    str(about.get('data_fingerprint', '')),
    older,
    protocol,
  )


def training_seconds(rows: Iterable[Mapping[str, Any]]) -> float | None:
  """How long a run has trained by its metrics, all attempts together; None where they do not say.

  Each attempt has a clock of its own, and is known by the time of its first step.
  """
  attempts = {
    row.get('time/first_step_s'): row['time/elapsed_s'] for row in rows if 'time/elapsed_s' in row
  }
  return sum(attempts.values()) if attempts else None


def _protocol(config: Mapping[str, Any], kind: str, **changed: Any) -> dict[str, Any]:
  """What scores of this kind depend on; `changed` is the evaluation's own part of it."""
  evals = {**config.get('evals', {}), **changed}
  fields = config_lib.flatten(stored_config.completed({**config, 'evals': evals}))
  return {name: fields[name] for name in fields if name.startswith(_PROTOCOLS.get(kind, ()))}


def _results(
  workdir: pathlib.Path, run: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, int], dict[str, Any]]:
  """(results, older, protocol) of a `Run` by its configuration.

  Of `results.json` and of later evaluations of the embedding on the run's own data, those of the
  newest step; of one step, what the run itself found stands, then what has the run's protocol.
  """
  final, method = evaluations.final(workdir), run['method']['name']
  last = math.inf if final.step is None else final.step
  found = {
    (name, kind): ((last, True, True), scores, _protocol(run, kind))
    for name, kinds in final.results.items()
    for kind, scores in kinds.items()
  }
  for each in evaluations.stored(workdir):
    config, kind = each['config'], each['config'].get('task')
    own = evaluations.is_of_own_data(config) and config.get('tap', 'embedding') == 'embedding'
    network = config.get('network')
    name = method if network == 'online' else _BASELINES.get(str(network))
    # Evaluations of something else, such as a saved classifier, have no step.
    if (
      kind in _PROTOCOLS and own and name and each['step'].isdecimal() and 'top1' in each['result']
    ):
      protocol = _protocol(run, kind, **{kind: config.get(kind, {})})
      rank = int(each['step']), False, protocol == _protocol(run, kind)
      if rank >= found.get((name, kind), (rank,))[0]:
        found[name, kind] = rank, each['result'], protocol
  newest = steps.latest_finished(workdir) or 0
  results, older, used = {}, {}, {}
  for (name, kind), ((step, *_), scores, protocol) in found.items():
    results.setdefault(name, {})[kind] = scores
    if name == method:
      used |= protocol
      older |= {kind: int(step)} if step < newest else {}
  return results, older, used
