"""The results as a page in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

# What others have published of the same kind of work, and what we want.
BARS = """\
Published by others, not measured here:

- lightly, BYOL, ResNet-18, CIFAR-10, batch 512, float32, one A6000: 1,539 images/s of whole
  training with a k-NN pass in each epoch (from the 108.3 minutes for 200 epochs in the table of its
  documentation). To be compared with the whole training.
- stable-pretraining, Barlow Twins, ViT-S/16, 224 px, batch 256, bfloat16, one H200: 871 images/s
  with the augmentation on the GPU, 342 with it on the CPU (its authors). To be compared with the
  step with augmentation. Our goal: at least 2,600.
- FFCV-SSL, ResNet-50, 224 px, one GPU: about 1,020 images/s (its authors). To be compared with
  BYOL's step with augmentation.

Our goal for ResNet-18 at 32 px: at least 25 % of the peak in bfloat16.
"""
Row = dict[str, Any]


def _number(value: float | None, digits: int = 3) -> str:
  if value is None:
    return ''
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:#.{digits}g}'.rstrip('.')


def _rate(found: Row) -> str:
  low, high = found['quartiles']
  return f'{_number(found["img_per_s"])} [{_number(low)}, {_number(high)}]'


def _gb(count: int | None) -> str:
  return '' if count is None else _number(count / 1e9)


def _share(value: float | None) -> str:
  return '' if value is None else f'{value:.1%}'


def _step(found: Row) -> Iterable[Sequence[str]]:
  yield (
    _rate(found), _share(found['share_of_bf16_peak']), _share(found['share_of_bandwidth']),
    _number(found['flops_per_image'] / 1e9),
    _number(found['compile_s']), _gb(found['planned_bytes']), _gb(found['peak_bytes']),
    _number(found['first_loss'], 5),
  )  # fmt: skip


def _training(found: Row) -> Iterable[Sequence[str]]:
  for way in ('resident', 'host'):
    yield way, _rate(found[way]), _share(found[way]['wait'])


def _augment(found: Row) -> Iterable[Sequence[str]]:
  for name, median in found['median_per_image'].items():
    yield name, _number(median['us']), _number(1e6 / median['us'])


def _knn(found: Row) -> Iterable[Sequence[str]]:
  for way, each in found.items():
    low, high = each['quartiles']
    yield way, f'{_number(each["s"])} [{_number(low)}, {_number(high)}]', _number(each['first_s'])


def _trace(found: Row) -> Iterable[Sequence[str]]:
  yield 'all', _number(found['us']), _number(found['calls']), f'busy {found["busy"]:.1%}'
  for row in found['kernels']:
    name = f'`{row["name"][:90]}`'
    yield name, _number(row['us']), _number(row['calls']), _share(row['share'])


def _torch(found: Row) -> Iterable[Sequence[str]]:
  for variant, each in found.items():
    yield (
      variant, _rate(each), _number(each['first_step_s']), _gb(each['peak_bytes']),
      _number(each['first_loss'], 5),
    )  # fmt: skip


def _accuracy(found: Row) -> Iterable[Sequence[str]]:
  top1 = [f'{100 * found[name]:.2f}' for name in ('knn', 'linear')]
  yield found['length'], _number(found['train_s']), *top1


# part -> title, columns, rows of what was found
PARTS: dict[str, tuple[str, tuple[str, ...], Callable[[Row], Iterable[Sequence[str]]]]] = {
  'step': (
    'Train step',
    ('images/s [quartiles]', 'of the bf16 peak', 'of the bandwidth', 'GFLOP per image',
     'compiled in s', 'planned GB', 'peak GB', 'first loss'),
    _step,
  ),
  'torch': (
    'The same step in PyTorch',
    ('run as', 'images/s [quartiles]', 'first step, s', 'peak GB', 'first loss'),
    _torch,
  ),
  'training': (
    'Whole training', ('data', 'images/s [quartiles]', 'waiting for data'), _training,
  ),
  'augment': ('Augmentation alone', ('operator', 'µs per image', 'images/s'), _augment),
  'knn': ('k-NN', ('way', 's [quartiles]', 'first time, s'), _knn),
  'trace': ('Trace of a step', ('kernel', 'µs per step', 'calls', 'share'), _trace),
  'accuracy': (
    'Accuracy on CIFAR-10', ('length', 'training, s', 'k-NN, %', 'linear, %'), _accuracy,
  ),
}  # fmt: skip


def page(results: dict[str, Any]) -> str:
  """All tables, with what was not run and why.

  Args:
    results: 'command', 'quick', 'seconds', and the 'jobs' in order: each a 'part' and a 'name' with
      what was 'found', or why it was 'not_run', or how it 'failed'.
  """
  facts = next((job['found']['facts'] for job in results['jobs'] if 'found' in job), None)
  lines = [f'`{results["command"]}`: {results["seconds"]:.0f} s.']
  if facts:
    versions = ', '.join(f'{name} {version}' for name, version in facts['versions'].items())
    lines += [f'{facts["device"]}. {results["driver"]}{versions}.']
  if results['quick']:
    lines += ['**Quick: tiny sizes in place of those named; the numbers mean nothing.**']
  for part, (title, columns, rows_of) in PARTS.items():
    jobs = [job for job in results['jobs'] if job['part'] == part]
    if jobs:
      lines += ['', f'### {title}', '', '| ' + ' | '.join(['', *columns]) + ' |']
      lines += ['| --- ' + '| ---: ' * len(columns) + '|']
      for job in jobs:
        lines += _rows(job, len(columns), rows_of)
  return '\n'.join(lines) + '\n\n' + BARS


def _rows(job: Row, width: int, rows_of: Callable[[Row], Iterable[Sequence[str]]]) -> list[str]:
  if 'found' not in job:
    why = f'not run: {job["not_run"]}' if 'not_run' in job else f'failed: {job["failed"]}'
    rows: list[Sequence[str]] = [(why.replace('|', '/'), *[''] * (width - 1))]
  else:
    rows = list(rows_of({name: value for name, value in job['found'].items() if name != 'facts'}))
  return [f'| {job["name"]} | ' + ' | '.join(row) + ' |' for row in rows]
