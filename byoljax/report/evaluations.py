"""What was evaluated of a run after its training, as tables for the report and the comparison.

Every evaluation leaves `evals/<name>/result.json` beside the run: its numbers and its protocol.
Evaluations that look at several taps of the network are in `by_tap`.
"""

from collections.abc import Callable, Mapping
import json
import pathlib
from typing import Any, NamedTuple

from byoljax.workdir import steps, stored_config
from byoljax.workdir.files import opened

Rows = list[dict[str, Any]]
# What reading a result raises that is not as expected: being written, or of another version.
ODD = (LookupError, TypeError, ValueError, AttributeError)
STARTS = {'online': 'online network', 'target': 'target network', 'random': 'from scratch'}


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """What a file of a run says; {} where it is not there or damaged."""
  try:
    with opened(path) as file:
      found = json.load(file)
  except (OSError, ValueError, RecursionError):
    return {}
  return found if isinstance(found, dict) else {}


class Final(NamedTuple):
  """What a run found at its end, and of which step.

  Attributes:
    results: encoder -> {'knn': scores, 'linear': scores, 'own': scores}; {} without any.
    step: of the checkpoint; None where an older version did not store it.
    is_newest: whether no newer checkpoint is there, as of a run that was extended.
  """

  results: dict[str, Any]
  step: int | None
  is_newest: bool

  @property
  def heading(self) -> str:
    """Of the table."""
    step = 'Last step' if self.step is None else f'Step {self.step:,}'
    return f'{step}, beside what it has to beat'


def final(run: pathlib.Path) -> Final:
  """What `results.json` of a run says."""
  found = read_json(run / 'results.json')
  results, step = found.get('result'), found.get('step')
  step = step if isinstance(step, int) else None
  is_newest = step is None or (steps.latest_finished(run) or 0) <= step
  return Final(results if isinstance(results, dict) else {}, step, is_newest)


def stored(run: pathlib.Path) -> list[dict[str, Any]]:
  """Every readable result of a run's later evaluations, by directory; [] without any."""
  found = []
  for path in sorted(run.glob('evals/*/result.json')):
    each = read_json(path)
    try:
      read = pathlib.Path(each['checkpoint'])
      parts = each['result'], each['config'], each['config'].get('data', {})
      if all(isinstance(part, dict) for part in parts):
        found.append({'result': each['result'], 'config': each['config'],
                      'read': read, 'step': read.name})  # fmt: skip
    except ODD:
      continue
  return found


def tables(run: pathlib.Path) -> dict[str, Rows]:
  """Title -> rows of text, for everything that there is; what is not as expected is left out."""
  made: dict[str, Rows] = {}
  for each in stored(run):
    try:
      title, rows_of = _SHOWN.get(each['config'].get('task'), ('Later evaluations', _one))
      rows = rows_of(each)
    except ODD:
      continue
    if rows:
      made.setdefault(title, []).extend(rows)
  return made


def finetuned(run: pathlib.Path) -> Rows:
  """Every fine-tuning of a run, of each the one from the newest step.

  Returns:
    {'labels', 'on': the data, 'protocol', 'start', 'settings' of `config.finetune`, and of a score
    'top1' (or 'map11'), 'mean_per_class', 'majority' in [0, 1]}.
  """
  scores = ('top1', 'map11', 'mean_per_class', 'majority')
  found = [
    each
    for each in stored(run)
    if each['config'].get('task') == 'finetune' and each['step'].isdecimal()
  ]
  newest: dict[tuple[str, str], dict[str, Any]] = {}
  for each in sorted(found, key=lambda each: int(each['step'])):
    try:
      protocol = each['config']['finetune'].get('protocol', '')
      # Fields that an older one lacks have the values that it was made with.
      config = stored_config.completed(each['config'], f'finetune:{protocol}')
      same = json.dumps({name: config.get(name) for name in _FINE_TUNING}, sort_keys=True)
      newest |= {
        (same, start): {
          'labels': config['labels'],
          'on': evaluated_on(config),
          'protocol': protocol,
          'start': STARTS.get(start, start),
          'settings': config['finetune'],
        }
        | {name: result[name] for name in scores if name in result}
        for start, result in each['result'].items()
      }
    except ODD:
      continue
  return list(newest.values())


# What tells fine-tunings of a run apart, but for the checkpoint.
_FINE_TUNING = ('labels', 'split_seed', 'data', 'image_size', 'finetune')


def is_of_own_data(config: Mapping[str, Any]) -> bool:
  """Whether an evaluation was made on the run's own data, at their size there."""
  data = config.get('data', {})
  return not (data.get('name') or data.get('dir') or config.get('image_size'))


def evaluated_on(config: Mapping[str, Any]) -> str:
  """What an evaluation was made on, for a table: 'photos (folder)', 'the same data, 64 px'."""
  name, where = (config.get('data', {}).get(field, '') for field in ('name', 'dir'))
  title = data_title(name, where) if name else pathlib.PurePath(where).stem or 'the same data'
  return f'{title}, {config["image_size"]} px' if config.get('image_size') else title


def data_title(name: str, where: str) -> str:
  """What data are called in tables: 'cifar10', 'photos (folder)'."""
  from byoljax.data.sources.catalog import LOCAL

  return f'{pathlib.PurePath(where).stem} ({name})' if name in LOCAL and where else name


def _one(each: Mapping[str, Any]) -> Rows:
  """An evaluation with one headline."""
  from byoljax.evals.headlines import HEADLINES

  result, config = each['result'], each['config']
  name = next((name for name in HEADLINES if name in result), None)
  if name is None:
    return []
  protocol = config.get(config.get('task', ''), {})
  return [
    {
      'evaluation': config.get('task', ''),
      'protocol': str(protocol.get('protocol', '')) if isinstance(protocol, dict) else '',
      'network': str(config.get('network', '')),
      'tap': str(config.get('tap', 'embedding')),
      'on': evaluated_on(config),
      'step': each['step'],
      'metric': HEADLINES[name].heading,
      'result': HEADLINES[name].form.format(result[name]),
    }
    | _balance(result)
  ]


def _balance(result: Mapping[str, Any]) -> dict[str, str]:
  """What stands beside an accuracy, as far as it is known."""
  shown = {'balanced': 'mean_per_class', 'largest class': 'majority'}
  return {title: f'{result[name]:.1%}' for title, name in shown.items() if name in result}


def _finetune(each: Mapping[str, Any]) -> Rows:
  config = each['config']
  return [
    {
      'labels': config['labels'],
      'images': f'{result["train_examples"]:,}',
      'on': evaluated_on(config),
      'start': STARTS.get(start, start),
      'result': f'{result.get("top1", result.get("map11")):.1%}',
      **_balance(result),
      'base_lr': f'{result["base_lr"]:g}',
      'length': result['length'],
      'protocol': config['finetune'].get('protocol', ''),
    }
    for start, result in each['result'].items()
  ]


def _few_labels(each: Mapping[str, Any]) -> Rows:
  from byoljax.evals.scores import METRICS

  return [
    {
      'labels': row['labels'],
      'images': f'{row["examples"]:,}',
      'on': evaluated_on(each['config']),
      'network': str(each['config'].get('network', '')),
      'classifier': str(each['config'].get('few_labels', {}).get('classifier', 'logistic')),
    }
    | {
      METRICS[name]: f'{row[name]:.1%}'
      + (f' ± {row[f"{name}_sd"]:.1%}' if row.get(f'{name}_sd') is not None else '')
      for name in METRICS
      if name in row
    }
    | _balance({'majority': each['result']['majority']} if 'majority' in each['result'] else {})
    for row in each['result'].get('rows', ())
  ]


def _transfer(each: Mapping[str, Any]) -> Rows:
  from byoljax.evals.headlines import titled

  made = []
  for row in each['result'].get('rows', ()):
    metric = titled(row['metric'])
    numbers = {name: value for name, value in row.items() if isinstance(value, float)}
    made.append(
      {'data set': row['data set'], 'metric': metric.heading}
      | {name: metric.form.format(value) for name, value in numbers.items()}
    )
  return made


def _dense(each: Mapping[str, Any]) -> Rows:
  """Of outputs at every pixel: a row for each start, frozen or trained along."""
  from byoljax.protocols.dense_protocol import KINDS, MODE_TITLES

  config = each['config']
  first = each['result']['rows'][0]  # None is what is not known.
  (results,) = (kind.results for kind in KINDS.values() if kind.headline in first)
  return [
    {
      'on': evaluated_on(config),
      'images': f'{row["train_examples"]:,}',
      'start': STARTS.get(row['start'], row['start']),
      'encoder': MODE_TITLES[row['mode']],
      **{
        title: form.format(row[name])
        for name, (title, form) in results.items()
        if row[name] is not None
      },
      'protocol': config[config['task']].get('protocol', ''),
    }
    for row in each['result']['rows']
  ]


def _detect(each: Mapping[str, Any]) -> Rows:
  from byoljax.evals.detection import METRICS

  return [
    {
      'on': evaluated_on(each['config']),
      'images': f'{result["train_images"]:,}',
      'start': STARTS.get(name, name),
      'encoder': 'frozen' if result['frozen'] else 'fine-tuned',
    }
    | {
      title: f'{result[metric]:.1%}'
      for metric, title in METRICS.items()
      if isinstance(result.get(metric), float) and result[metric] == result[metric]
    }
    for name, result in each['result'].items()
  ]


def _robustness(each: Mapping[str, Any]) -> Rows:
  """A row for each corruption, below that of clean images."""
  result, where = each['result'], each['read']
  about = {
    'on': evaluated_on(each['config']),
    'images': f'{result["test_examples"]:,}',
    'classifier': where.parent.name if where.name == 'classifier' else where.name,
  }
  clean = {'corruption': 'none', 'by_strength': {}, 'top1': result['clean']['top1']}
  strengths = result['rows'][0]['by_strength']

  def accuracy(row: Mapping[str, Any], strength: str) -> str:
    return f'{row["by_strength"][strength]:.1%}' if strength in row['by_strength'] else ''

  return [
    about
    | {'corruption': row['corruption'].replace('_', ' ')}
    | {f'strength {strength}': accuracy(row, strength) for strength in strengths}
    | {'mean': f'{row["top1"]:.1%}'}
    for row in (clean, *result['rows'])
  ]


def _nothing(each: Mapping[str, Any]) -> Rows:
  del each
  return []  # `by_tap` shows it.


# Tasks with tables of their own: title, rows.
_SHOWN: dict[str, tuple[str, Callable[[Mapping[str, Any]], Rows]]] = {
  'finetune': ('Fine-tuning, beside training from scratch', _finetune),
  'detect': ('Detection, beside training from scratch', _detect),
  'few_labels': ('Few labels, frozen features', _few_labels),
  'segment': ('Segmentation, frozen and fine-tuned', _dense),
  'depth': ('Depth, frozen and fine-tuned', _dense),
  'transfer': ('Transfer', _transfer),
  'robustness': ('Accuracy on corrupted images', _robustness),
  'layers': ('', _nothing),
  'hypersphere': ('', _nothing),
  'collapse': ('', _nothing),
}
