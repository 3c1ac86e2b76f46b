"""Accuracy of a classifier on images with noise, blur, weather and compression."""

from collections.abc import Mapping
import pathlib
from typing import TYPE_CHECKING, Any

from byoljax.config import Config, ConfigError, user_errors
from byoljax.report import table
from byoljax.tasks import evaluation
from byoljax.tasks.command import Argument, Command
from byoljax.workdir import run_dir, stored_config
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.protocols.extraction import EvalData

_SHEET, _SHOWN_SIDE = 'corruptions.png', 96


def run(config: Config, invocation: Invocation) -> int:
  """Corrupts test images in fifteen ways; see `configs/robustness.py`."""
  from byoljax.encoders import classifier
  from byoljax.protocols import answers, robustness

  fields = config.robustness
  with user_errors('robustness'):
    robustness.check(fields.corruptions, fields.strengths)
  where = classifier.find(config.classifier)
  made = classifier.load(where)
  home = pathlib.Path(invocation.workdir or _beside(where))
  source = stored_config.stored(made.origin.run['config'])
  if 'data' not in source:
    raise ConfigError(
      f"'{where}' was made from an encoder that is no run, which does not say how images are read: "
      'make it from the run itself.'
    )
  data = evaluation.data_of(config, source, config.batch_size, home)
  if not data.has_test:
    raise ConfigError(
      f'{data.train.name} has no test split, and the classifier may know its training images: put '
      'those to test on into a folder val, beside the others in train, or name another set with '
      '--data.name and --data.dir.'
    )
  if data.test.multi_label or answers.class_names(data) != made.classes:
    raise ConfigError(
      f'{data.test.name} has other classes than the classifier ({", ".join(made.classes[:5])}, '
      '...): name the set that it was trained on.'
    )
  size = config.image_size or made.encoder.preprocessing.image_size
  data = data._replace(image_size=size)
  with user_errors('robustness'):
    data = data._replace(test=robustness.some(data.test, fields.max_images, fields.seed))
  say(f'robustness of {where} on {data.test.size:,} test images of {data.test.name}')
  with user_errors('robustness'):
    result = robustness.robustness(
      made, data, kinds=fields.corruptions, strengths=fields.strengths, seed=fields.seed
    )
  run_dir.write_result(home / 'result.json', result, config, where)
  drawn = _draw(home / _SHEET, data, config)
  say(_text(result))
  say(f'result  {home / "result.json"}')
  if drawn:
    say(f'images  {home / _SHEET}')
  return 0


def _beside(where: pathlib.Path) -> pathlib.Path:
  """evals/linear-online-100/classifier -> evals/robustness-linear-online-100."""
  home = where.parent if where.name == 'classifier' else where
  return home.parent / f'robustness-{home.name}'


def _text(result: Mapping[str, Any]) -> str:
  rows = [
    {'corruption': row['corruption'].replace('_', ' ')} | row['by_strength'] | {'mean': row['top1']}
    for row in result['rows']
  ]
  strengths = list(result['rows'][0]['by_strength'])
  shown = table.format_table(
    rows,
    ['corruption', *strengths, 'mean'],
    formats=dict.fromkeys([*strengths, 'mean'], '{:.1%}'),
  )
  groups = ', '.join(f'{group} {value:.1%}' for group, value in result['by_group'].items())
  kept = '' if result['kept'] is None else f', {result["kept"]:.0%} of it'
  return (
    f'{shown}\n{groups}\ntop-1 {result["clean"]["top1"]:.2%} on clean images, '
    f'{result["corrupted"]:.2%} on corrupted ones{kept}'
  )


def _draw(path: pathlib.Path, data: 'EvalData', config: Config) -> bool:
  """One image in all ways; False where there is nothing to look at, as with other channels."""
  import jax
  import numpy as np

  from byoljax.data.augment import corruptions
  from byoljax.devices import hosts
  from byoljax.protocols import extraction, robustness
  from byoljax.report import sheet

  first = next(iter(extraction.eval_batches(data.test, data)))
  if not hosts.is_first_process() or first['image'].shape[-1] != 3:
    return False
  image, key = np.asarray(first['image'][:1]), jax.random.key(config.robustness.seed)
  kinds = robustness.check(config.robustness.corruptions, config.robustness.strengths)
  strengths = config.robustness.strengths
  columns = [
    [
      np.asarray(corruptions.corrupt(key[None], image, name=name, strength=strength))[0]
      for name in kinds
    ]
    for strength in strengths
  ]
  captions = [[name.replace('_', ' ') for name in kinds]] + [[''] * len(kinds)] * len(strengths)
  sheet.write(
    path, [image[0]] * len(kinds), columns, [f'strength {s}' for s in strengths],
    captions=captions, cell=_SHOWN_SIDE,
  )  # fmt: skip
  return True


COMMAND = Command(
  'robustness',
  'measure the accuracy of a classifier on corrupted images',
  run,
  (Argument('CLASSIFIER', 'directory', 'a run, an evaluation, or a classifier'),),
  task='robustness',
  recipe='robustness',
  field='classifier',
  workdir='robustness-... next to the classifier',
)
