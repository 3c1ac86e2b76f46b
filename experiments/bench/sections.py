"""One table for each part of the benchmark: medians, quartiles and ratios of what it measured."""

from collections.abc import Sequence
import math
import statistics
from typing import Any

from formats import bytes_, number, seconds, slope, spread, table

_OURS = 'byoljax'
_STEPS = ('step', 'simclr', 'moco')  # Parts with the results of step_bench.py.
_METHODS = {'byol': 'BYOL', 'simclr': 'SimCLR', 'moco': 'MoCo'}


def _method(case: dict[str, Any]) -> str:
  """The method of a step; results from before there were several are BYOL's."""
  return case.get('method', 'byol')


def step_work(network: str, case: dict[str, Any]) -> str:
  """What a step is called where its work is counted: 'step, small', 'step, small, moco'."""
  method = _method(case)
  return f'step, {network}' + ('' if method == 'byol' else f', {method}')


def step(results: list[dict[str, Any]]) -> str:
  """Parts `step`, `simclr` and `moco`: one row for each network, type and contestant."""
  rows, notes, best = [], [], []
  for result in results:
    case, samples = result['case'], result['samples']
    network = f'{_METHODS[_method(case)]}, {result["network"]}'
    size = case['batch_size']
    rates = {name: size / statistics.median(found['wall']) for name, found in samples.items()}
    for name, found in samples.items():
      busy = sum(found['cpu']) / sum(found['wall'])
      ratio = '' if name == _OURS else f'{rates[_OURS] / rates[name]:.2f}'
      what = f'{network}, batch {size}, {case["dtype"]}: {name}'
      milliseconds = [1000 * seconds for seconds in found['wall']]
      rows.append([what, spread(milliseconds), number(rates[name]), f'{busy:.2f}', ratio])
    if len(rates) > 1:
      fastest = max(rate for name, rate in rates.items() if name != _OURS)
      best.append(f'{network}, {case["dtype"]} {rates[_OURS] / fastest:.2f}')
    for name, errors in result['agreement'].items():
      worst = max(errors, key=lambda what: errors[what])
      notes.append(
        f'{network}, {case["dtype"]}, {name}: first loss differs by '
        f'{errors["first loss"]:.1e}, after the checked steps at most {errors[worst]:.1e} ({worst})'
      )
  idle = [s for r in results for found in r['samples'].values() for s in found['idle_cpu']]
  header = ['train step', 'ms [quartiles]', 'img/s', 'cores used', 'byoljax / this']
  text = table(header, rows)
  text += f'\n\nCPU time of a contestant between its turns: at most {max(idle):.2f} s.'
  if best:
    text += f' byoljax over the fastest PyTorch: {"; ".join(best)}.'
  if notes:
    text += ' Same computation, relative to byoljax:\n\n' + '\n'.join(f'- {note}' for note in notes)
  return text


def pipeline(results: list[dict[str, Any]]) -> str:
  """Part `pipeline`: one row for each kind of images and what is done; sums of host and device."""
  rows = []
  for result in results:
    costs = {}
    for name, turns in result['samples'].items():
      costs[name] = tuple(
        statistics.median(turn[clock] / turn['images'] for turn in turns)
        for clock in ('cpu', 'wall')
      )
    # Earlier results have both places of the photometric operations.
    for place in ('accelerator', 'host'):
      if f'byoljax, {place}: host' not in costs:
        continue
      parts = [costs[f'byoljax, {place}: {part}'] for part in ('host', 'device')]
      costs[f'byoljax, {place}: both'] = tuple(map(sum, zip(*parts, strict=True)))
    theirs = costs.get('lightly: host')
    for name, (cpu, wall) in sorted(costs.items()):
      ratios = ['', '']
      comparable = name.endswith(('both', 'accelerator: host'))
      if theirs and comparable:
        ratios = [f'{theirs[0] / cpu:.2f}', f'{theirs[1] / wall:.2f}']
      rows.append([f'{result["name"]}: {name}', number(1 / cpu), number(1 / wall), *ratios])
  header = ['input, two views of an image', 'img per CPU-s', 'img/s', 'vs lightly, CPU', 'wall']
  images = '\n'.join(f'- {result["name"]}: {result["images"]}' for result in results)
  return f'{table(header, rows)}\n\n{images}'


def startup(result: dict[str, Any]) -> str:
  """Part `startup`: seconds of each variant and each question."""
  rows = []
  for name, runs in result['samples'].items():
    keys = ('first_step_s', 'compile_and_step_s', 'total_s')
    rows.append([name, *(spread([run[key] for run in runs]) for key in keys)])
  command = f'`{result["command"]}`'
  header = [command, 'to first step, s', 'of it compile and step, s', 'to the end, s']
  answers = [[name, spread(samples)] for name, samples in result['answers'].items()]
  return f'{table(header, rows)}\n\n{table(["answered without training", "s"], answers)}'


def wait(results: list[dict[str, Any]]) -> str:
  """Part `wait`: one row for each run."""
  rows = [
    [r['name'], str(r['steps']), f'{r["wait_run"]:.1%}', number(r['img_per_s_run'])]
    for r in results
  ]
  return table(['run', 'steps', 'waiting for data', 'img/s'], rows)


def training(result: dict[str, Any]) -> str:
  """Part `training`: one row for each contestant."""
  samples, size = result['samples'], result['case']['batch_size']
  rates = {
    name: [turn['images'] / turn['wall'] for turn in turns] for name, turns in samples.items()
  }
  own = statistics.median(rates[_OURS])
  rows = []
  for name, turns in samples.items():
    busy = sum(turn['cpu'] for turn in turns) / sum(turn['wall'] for turn in turns)
    middle = statistics.median(rates[name])
    ratio = '' if name == _OURS else f'{own / middle:.2f}'
    epoch = 50_000 // size * size / middle
    rows.append([name, spread(rates[name]), number(epoch / 60), f'{busy:.2f}', ratio])
  what = f'whole training, ResNet-18, batch {size}, float32'
  header = [what, 'img/s [quartiles]', 'min per 50,000 images', 'cores used', 'byoljax / this']
  waits = [turn['wait'] for turn in samples[_OURS] if turn.get('wait') is not None]
  parts = '; '.join(
    f'{name} {found["encoder"]:,} and {found["heads"]:,}'
    for name, found in result['parameters'].items()
  )
  text = f'{table(header, rows)}\n\n{result["images"]}. Parameters of encoder and heads: {parts}.'
  if waits:
    text += f' byoljax waits for data {statistics.median(waits):.1%} of the time.'
  return text


def knn(result: dict[str, Any]) -> str:
  """Part `knn`: one row for each contestant, then the estimate for ImageNet's size."""
  samples, memory = result['samples'], result['memory']
  own = statistics.median(samples[_OURS]['wall'])
  rows = []
  for name, found in samples.items():
    middle = statistics.median(found['wall'])
    above = (memory[name]['peak'] - memory[name]['before']) / 1e9
    agrees = result['agreement'].get(name)
    rows.append([
      name,
      spread(found['wall']),
      number(statistics.median(found['cpu'])),
      number(memory[name]['peak'] / 1e9),
      number(above),
      '' if agrees is None else f'{agrees:.2%}',
      '' if name == _OURS else f'{middle / own:.2f}',
    ])  # fmt: skip
  bank, queries, width = result['sizes']
  what = f'k-NN, {bank:,} x {queries:,} x {width}, k = {result["k"]}, T = {result["temperature"]}'
  header = [what, 's [quartiles]', 'CPU s', 'peak RSS, GB', 'of it the search', 'agrees',
            'this / byoljax']  # fmt: skip
  return f'{table(header, rows)}\n\n{_imagenet(result["slice"])}'


def _imagenet(part: dict[str, Any]) -> str:
  """The estimate for ImageNet's bank, with its arithmetic."""
  rows, queries, width = part['rows'], part['queries'], part['width']
  bank, all_queries = 1_281_167, 50_000
  factor = bank / rows * all_queries / queries
  lines = [
    f'**Estimate, not a measurement**, of {all_queries:,} queries in a bank of {bank:,} x {width}: '
    f'seconds of {queries:,} queries in {rows:,} rows, times {bank:,} / {rows:,} x '
    f'{all_queries:,} / {queries:,} = {factor:,.1f}. The time of half the rows says whether it '
    'grows as the bank does. The bank itself has '
    f'{bank * width * 4 / 1e9:.1f} GB; byoljax reads it block by block, also from a memory map.',
    '',
  ]
  cells = []
  for name, found in part['found'].items():
    half, whole = found[str(rows // 2)], found[str(rows)]
    cells.append([
      name,
      number(whole['wall']),
      f'{whole["wall"] / half["wall"]:.2f}',
      number(half['memory'] / 1e9),
      number(whole['memory'] / 1e9),
      number(whole['wall'] * factor / 60),
    ])  # fmt: skip
  header = ['slice', 'measured, s', 'over half of the rows', 'memory, half, GB', 'memory, GB',
            'estimate, min']  # fmt: skip
  return '\n'.join(lines) + '\n' + table(header, cells)


def growth_series(points: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
  """Points of one curve -> 'seconds' (medians, of those that were run) and 'bytes', by x."""
  return {
    'seconds': [(p['x'], statistics.median(p['seconds'])) for p in points if p['seconds']],
    'bytes': [(p['x'], p['bytes']) for p in points],
  }


def growth(result: dict[str, Any]) -> str:
  """Part `growth`: one row for each curve, with slopes, and every point below."""
  rows, details = [], []
  for name, curve in result['curves'].items():
    series = growth_series(curve['points'])
    cells = [f'{name}, by {curve["unit"]}']
    for key, show in (('seconds', seconds), ('bytes', bytes_)):
      pairs = series[key]
      ends = ' … '.join(show(pairs[i][1]) for i in (0, -1))
      cells += [
        f'{pairs[0][0]:,} … {pairs[-1][0]:,}: {ends}', _two(slope(pairs)), _two(slope(pairs[-2:]))
      ]  # fmt: skip
    rows.append(cells)
    details.append(f'- {name}: ' + '; '.join(_point(point) for point in curve['points']))
  header = ['cost', 'time', 'slope', 'at the end', 'memory', 'slope', 'at the end']
  head = [header[0], *header[1:]]
  all_points = '\n'.join(details)
  return (
    f'{table(head, rows)}\n\nSlopes of the logarithms: over all points, and between the last two. '
    "Memory is the compiler's temporaries per device (of the order: NumPy's peak).\n\n"
    f'![Time and memory by size](growth.png)\n\n{all_points}'
  )


def _point(point: dict[str, Any]) -> str:
  time = seconds(statistics.median(point['seconds'])) if point['seconds'] else 'not run'
  text = f'{point["x"]:,}: {time}, {bytes_(point["bytes"])}'
  if 'all_reduces' in point and point['all_reduces']:
    text += f', {point["all_reduces"]} all-reduces'
  if point.get('later_step_s') is not None:
    text += f' (a later step {seconds(point["later_step_s"])})'
  return text


def limits(parts: dict[str, Any]) -> str:
  """Part `limits`: the machine's rates, and what the other parts reach of the best of them."""
  result = parts['limits']
  rates, work = result['rates'], result['work']
  rows = [
    [name, spread([x / 1e9 for x in samples]), 'GB/s' if name.endswith('memory') else 'GFLOP/s']
    for name, samples in rates.items()
  ]
  best = {
    kind: max(statistics.median(s) for name, s in rates.items() if name.endswith(kind))
    for kind in {name.partition(', ')[2] for name in rates}
  }
  header = [f'products of {result["side"]} x {result["side"]}; sum of a long array', 'rate', '']
  text = table(header, rows)
  reached = []

  def add(what: str, who: str, kind: str, operations: float, seconds_: float) -> None:
    rate = operations / seconds_
    share = f'{rate / best[kind]:.0%}' if kind in best else ''
    reached.append([f'{what}: {who}', number(operations / 1e9), number(seconds_ * 1e3),
                    number(rate / 1e9), share])  # fmt: skip

  for one in [one for part in _STEPS for one in parts.get(part, [])]:
    case = one['case']
    what = step_work(one['network'], case)
    if what not in work:  # Measured after the limits were: nobody has counted it yet.
      continue
    for name, found in one['samples'].items():
      wall = statistics.median(found['wall'])
      each = work[what] * case['batch_size']
      add(f'{what}, {case["dtype"]}', name, case['dtype'], each, wall)
  if 'training' in parts:
    case = parts['training']['case']
    for name, turns in parts['training']['samples'].items():
      wall = statistics.median(turn['wall'] / turn['images'] for turn in turns)
      size = case['batch_size']
      add('training, float32', name, 'float32', work['training'] * size, wall * size)
  if 'knn' in parts:
    for name, found in parts['knn']['samples'].items():
      add('k-NN, float32', name, 'float32', work['knn'], statistics.median(found['wall']))
  if reached:
    header = ['work', 'GFLOP', 'ms', 'GFLOP/s', 'of the best product']
    text += '\n\n' + table(header, reached)
  return text


def _two(value: float) -> str:
  return '–' if math.isnan(value) else f'{value:.2f}'


PARTS = {
  **dict.fromkeys(_STEPS, step),
  'training': training,
  'pipeline': pipeline,
  'knn': knn,
  'growth': growth,
  'startup': startup,
  'wait': wait,
}
