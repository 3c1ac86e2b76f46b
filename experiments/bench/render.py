"""Results as Markdown: medians, quartiles and ratios of what a run has measured."""

from collections.abc import Iterable, Sequence
import pathlib
import statistics
from typing import Any

BEGIN, END = '<!-- results -->', '<!-- end of results -->'
_OURS = 'byoljax'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A Markdown table; columns but the first are right-aligned."""
  lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
  """Lower quartile, median, upper quartile; of a single sample it is all three."""
  if len(samples) == 1:
    return samples[0], samples[0], samples[0]
  low, middle, high = statistics.quantiles(samples, n=4, method='inclusive')
  return low, middle, high


def number(value: float) -> str:
  """Three significant digits, below 1 three decimals; whole numbers from 100 on."""
  rounded = abs(float(f'{value:.3g}'))  # First: 99.96 is a number of three digits.
  digits = 3 if rounded < 1 else max(0, 3 - len(str(int(rounded))))
  return f'{value:,.{digits}f}'


def spread(samples: Sequence[float]) -> str:
  """Median and, in brackets, the quartiles."""
  low, middle, high = quartiles(samples)
  return f'{number(middle)} [{number(low)}, {number(high)}]'


def step(results: list[dict[str, Any]]) -> str:
  """Part `step`: one row for each network, type and contestant."""
  rows, notes, best = [], [], []
  for result in results:
    case, samples = result['case'], result['samples']
    size = case['batch_size']
    rates = {name: size / statistics.median(found['wall']) for name, found in samples.items()}
    for name, found in samples.items():
      busy = sum(found['cpu']) / sum(found['wall'])
      ratio = '' if name == _OURS else f'{rates[_OURS] / rates[name]:.2f}'
      what = f'{result["network"]}, batch {size}, {case["dtype"]}: {name}'
      milliseconds = [1000 * seconds for seconds in found['wall']]
      rows.append([what, spread(milliseconds), number(rates[name]), f'{busy:.2f}', ratio])
    if len(rates) > 1:
      fastest = max(rate for name, rate in rates.items() if name != _OURS)
      best.append(f'{result["network"]} {case["dtype"]} {rates[_OURS] / fastest:.2f}')
    for name, errors in result['agreement'].items():
      worst = max(errors, key=lambda what: errors[what])
      notes.append(
        f'{result["network"]}, {case["dtype"]}, {name}: first loss differs by '
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
    for place in ('accelerator', 'host'):
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


PARTS = {'step': step, 'pipeline': pipeline, 'startup': startup, 'wait': wait}


def report(results: dict[str, Any]) -> str:
  """Everything that was measured, with the machine and the versions."""
  machine, before, after = results['machine'], results['before'], results['after']
  versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
  flags = ', '.join(machine['instructions'])
  others = ' and '.join(f'{moment["busy_cores"]:.2f}' for moment in (before, after))
  lines = [
    f'{before["time"]}, {machine["cpu"]} ({flags}), {results["cores"]} cores'
    f'{", virtual machine" if machine["virtual"] else ""}, {machine.get("memory_gb", "?")} GB, '
    f'{machine["system"]}. Cores used by others before and after: {others}.',
    f'Versions: {versions}.',
    f'Command: `{results["command"]}`.',
  ]
  if results['quick']:
    lines.append('**Tiny settings (`--quick`): these numbers mean nothing.**')
  if results['busy']:
    lines.append('**The machine was not quiet when this was measured: do not quote it.**')
  parts = [render(results['parts'][name]) for name, render in PARTS.items()
           if name in results['parts']]  # fmt: skip
  return '\n\n'.join([*lines, *parts]) + '\n'


def put(text: str, readme: pathlib.Path) -> None:
  """Replaces what lies between the markers of a file.

  Raises:
    ValueError: the file does not have both markers, in order.
  """
  whole = readme.read_text(encoding='utf-8')
  before, begin, rest = whole.partition(BEGIN)
  _, end, after = rest.partition(END)
  if not (begin and end):
    raise ValueError(f'{readme} has no {BEGIN} followed by {END}: put them where results belong.')
  readme.write_text(f'{before}{BEGIN}\n\n{text}\n{END}{after}', encoding='utf-8')
