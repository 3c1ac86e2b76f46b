"""Measures byoljax's speed beside PyTorch's and lightly's, all in one run on one machine.

    python experiments/bench/run.py --torch-python path/to/python

Writes results.json (every sample, versions, machine, load) and the tables in README.md beside this
file, or table.md in another --out. See README.md for what is measured and how.
"""

import argparse
from collections.abc import Callable, Iterator
import functools
import json
import os
import pathlib
import shlex
import shutil
import sys
import tempfile
import time
from typing import Any

import contest
import growth_plot
import machine
import render
from setting import HERE, ROOT, Setting

sys.path.insert(0, str(ROOT))  # This checkout's byoljax and configs, installed or not.

import growth_bench  # noqa: E402
import knn_bench  # noqa: E402
import limits_bench  # noqa: E402
import pipeline_bench  # noqa: E402
import startup_bench  # noqa: E402
import step_bench  # noqa: E402
import training_bench  # noqa: E402
import wait_bench  # noqa: E402

PARTS: dict[str, Callable[[Setting], Any]] = {
  **{
    part: functools.partial(step_bench.measure, method=method)
    for part, method in step_bench.PARTS.items()
  },
  'training': training_bench.measure,
  'pipeline': pipeline_bench.measure,
  'knn': knn_bench.measure,
  'growth': growth_bench.measure,
  'startup': startup_bench.measure,
  'wait': wait_bench.measure,
  'limits': limits_bench.measure,
}
# Of 2 cores, with PyTorch.
_MINUTES = {
  'step': 12, 'simclr': 6, 'moco': 6, 'training': 4, 'pipeline': 4, 'knn': 5, 'growth': 5,
  'startup': 5, 'wait': 6, 'limits': 2,
}  # fmt: skip
_VARIANTS = ('eager', 'channels_last', 'compiled')  # Those of torch_step.py.


def main(arguments: list[str]) -> int:
  """Measures, writes, and returns the exit status."""
  options = _parse(arguments)
  out = options.out or (ROOT / 'runs' / 'bench_quick' if options.quick else HERE)
  out.mkdir(parents=True, exist_ok=True)
  results = earlier(out) if set(options.only) != set(PARTS) else {'parts': {}, 'runs': {}}
  if not options.quick:
    minutes = sum(_MINUTES[name] for name in options.only)
    _say(f'About {minutes} minutes on 2 cores: ' + ', '.join(options.only) + '.')
  started = ''
  with tempfile.TemporaryDirectory(prefix='byoljax-bench-') as scratch:
    setting = Setting(
      pathlib.Path(scratch),
      options.torch_python,
      options.torch_variants,
      options.dtypes,
      options.data,
      machine.cores(),
      options.quick,
      _say,
    )
    for name in options.only:
      results['parts'][name], facts = _measured(name, setting)
      started = started or facts['before']['time']
      results['runs'][name] = facts | {'started': started, 'command': _shown(arguments)}
      # After each: what was measured stays if a later part fails.
      text = write(results, out, scratch)
  print(text)
  return 0


def _measured(name: str, setting: Setting) -> tuple[Any, dict[str, Any]]:
  """A part's results, and what they were measured on."""
  before, began = machine.now(), time.perf_counter()
  if machine.is_busy(before):
    _say(f'Others use {before["busy_cores"]:.1f} cores: the results will carry a warning.')
  found = PARTS[name](setting)
  seconds, after = time.perf_counter() - began, machine.now()
  _say(f'{name}: {seconds / 60:.1f} minutes')
  return found, {
    'quick': setting.quick,
    'busy': machine.is_busy(before) or machine.is_busy(after),
    'cores': machine.cores(),
    'machine': machine.facts(),
    'before': before,
    'after': after,
    'seconds': seconds,
    'versions': dict(_versions({name: found})) or _own_versions(),
  }


def earlier(out: pathlib.Path) -> dict[str, Any]:
  """The results that lie in `out`, to which parts are added; none if there are none."""
  path = out / 'results.json'
  if not path.exists():
    return {'parts': {}, 'runs': {}}
  return render.by_part(json.loads(path.read_text(encoding='utf-8')))


def write(results: dict[str, Any], out: pathlib.Path, scratch: str) -> str:
  """Writes results.json, the tables and the plot; returns the tables.

  The path of the scratch directory, which will be gone, is left out.
  """
  text = render.report(results)
  record = json.dumps(results, indent=1).replace(scratch, 'scratch')
  (out / 'results.json').write_text(record + '\n', encoding='utf-8')
  if 'growth' in results['parts']:
    growth_plot.draw(results['parts']['growth']['curves'], out / 'growth.png')
  if out.resolve() == HERE:
    render.put(text, HERE / 'README.md')
  else:
    (out / 'table.md').write_text(text, encoding='utf-8')
  return text


def _versions(found: Any) -> Iterator[tuple[str, str]]:
  """All versions that contestants have reported; each part has its own contestants."""
  if isinstance(found, dict):
    for contestant, versions in found.get('versions', {}).items():
      side = '' if contestant == 'byoljax' else ' beside PyTorch'
      both = ('python', 'numpy', 'pillow')  # They may differ between the two environments.
      for name, version in versions.items():
        yield f'{name}{side if name in both else ""}', version
  for inner in found.values() if isinstance(found, dict) else found:
    if isinstance(inner, dict | list):
      yield from _versions(inner)


def _own_versions() -> dict[str, str]:
  """Versions here, for parts that start byoljax's own commands."""
  names = ('byoljax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'tensorflow-cpu', 'pillow')
  return contest.versions(names)


def _shown(arguments: list[str]) -> str:
  """The command, without this machine's paths."""
  shown = [
    str(pathlib.Path(text).name) if os.path.isabs(text) else text
    for argument in arguments
    for text in argument.split('=', 1)
  ]
  return shlex.join(['python', 'experiments/bench/run.py', *shown])


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _names(text: str) -> list[str]:
  names = text.split(',')
  if unknown := sorted(set(names) - set(PARTS)):
    raise argparse.ArgumentTypeError(f'no part {unknown[0]!r}; there are {", ".join(PARTS)}')
  return [name for name in PARTS if name in names]


def _some_of(what: str, known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
  """Reads names with commas between them."""

  def read(text: str) -> tuple[str, ...]:
    names = tuple(text.split(','))
    if unknown := sorted(set(names) - set(known)):
      raise argparse.ArgumentTypeError(f'no {what} {unknown[0]!r}: there are {", ".join(known)}')
    return names

  return read


def _program(text: str) -> str:
  if shutil.which(text) is None:
    raise argparse.ArgumentTypeError(f'{text} cannot be run')
  return text


def _folder(text: str) -> pathlib.Path:
  path = pathlib.Path(text)
  if not path.is_dir():
    raise argparse.ArgumentTypeError(f'{text} is not a folder')
  return path.resolve()


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument(
    '--torch-python',
    type=_program,
    help='interpreter with PyTorch, torchvision and lightly; without it only byoljax is measured',
  )
  parser.add_argument(
    '--torch-variants',
    type=_some_of('variant', _VARIANTS),
    default=_VARIANTS,
    help=f'how PyTorch runs the step, of {",".join(_VARIANTS)} (default: all)',
  )
  parser.add_argument(
    '--dtypes',
    type=_some_of('type', step_bench.DTYPES),
    default=step_bench.DTYPES,
    help=f'of the steps and the products, of {",".join(step_bench.DTYPES)} (default: all)',
  )
  parser.add_argument('--only', type=_names, default=list(PARTS), help=f'of {",".join(PARTS)}')
  parser.add_argument('--data', type=_folder, help='folder of JPEGs; drawn ones without it')
  parser.add_argument('--out', type=pathlib.Path, help='where to write (default: beside this file)')
  parser.add_argument('--quick', action='store_true', help='tiny settings: does everything work?')
  return parser.parse_args(arguments)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
