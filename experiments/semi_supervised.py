"""Few labels and many images: four ways of learning from both, of equal CPU time.

    PYTHONPATH=. python experiments/semi_supervised.py --data cifar10.npz --minutes 30 --workers 2 \
      --labels 250 4000 --out experiments/cifar10_fixmatch

  fixmatch       FixMatch from the first step on
  supervised     the labelled images alone, from scratch
  byol           BYOL on all images, then fine-tuned
  distillation   SimCLR on all images, its linear classifier, and a student of the same size that
                 is taught by it on all images: SimCLR v2's last two steps

`--data` is an .npz with x_train, y_train, x_test, y_test. For every number of labels and every seed
a copy of it is written in which the other labels are -1: all four read that. How many steps a way
has is measured: the CPU time of a step is the difference of two short trainings, which leaves
compiling out. Pretraining counts for each number of labels, though it does not depend on it and is
done once a seed. Evaluations are not counted. What is finished is not repeated. Written are
results.json and table.md.
"""

import argparse
from collections.abc import Sequence
import functools
import json
import pathlib
import statistics
import sys
from typing import NamedTuple

from collect import processor
import numpy as np
import runner

from byoljax.data.sources import arrays
from byoljax.protocols import labelled

# Way -> its trainings: name, recipe, and share of the CPU time.
WAYS = {
  'fixmatch': (('fixmatch', 'fixmatch:cifar10_small', 1.0),),
  'supervised': (('scratch', 'finetune:small', 1.0),),
  'byol': (('byol', 'byol:cifar10_small', 0.9), ('finetune', 'finetune:small', 0.1)),
  'distillation': (
    ('simclr', 'simclr:cifar10_small', 0.5),
    ('linear', 'linear:quick', 0.05),
    ('distillation', 'distillation:cifar10_small', 0.45),
  ),
}
PRETRAINING = ('byol', 'simclr')
# Fields of the rate and the steps of the trainings on an encoder that is there.
_ON_AN_ENCODER = {'finetune': 'finetune', 'scratch': 'finetune', 'linear': 'linear'}


class Part(NamedTuple):
  """A training of a way, as it is started."""

  way: str
  name: str
  recipe: str
  count: int
  seed: int
  options: argparse.Namespace

  @property
  def home(self) -> pathlib.Path:
    """Its workdir; that of a pretraining is for all numbers of labels."""
    own = '' if self.name in PRETRAINING else f'-{self.count}'
    return self.options.runs / f'{self.name}{own}-{self.seed}'

  def other(self, name: str) -> pathlib.Path:
    """The workdir of a part before it."""
    return self._replace(name=name).home

  def command(self, steps: int, workdir: pathlib.Path) -> list[str]:
    """The command line, with this interpreter, of a training of so many steps."""
    recipe, _, arguments = self.recipe.partition(':')
    made = [
      sys.executable, '-m', 'byoljax.main', f'--config=configs/{recipe}.py:{arguments}',
      f'--workdir={workdir}', '--config.data.name=npz', f'--config.data.dir={self.data()}',
    ]  # fmt: skip
    group = _ON_AN_ENCODER.get(self.name)
    if group:
      given = self.other('simclr' if self.name == 'linear' else 'byol')
      made += [f'--config.pretrained={given}', f'--config.{group}.length={steps} steps']
      made += [f'--config.{group}.seed={self.seed}', '--config.log.every=0 steps']
      if group == 'finetune':
        network = 'random' if self.name == 'scratch' else 'online'
        # The rate of few labels is not chosen on fewer: one for all.
        made += [f'--config.network={network}', '--config.scratch=false',
                 '--config.finetune.sweep.base_lr=()', '--config.finetune.optim.base_lr=0.03',
                 '--config.finetune.optim.weight_decay=0.0005']  # fmt: skip
      else:
        made.append('--config.linear.base_lr=(0.1,)')
    else:
      made += [f'--config.train.length={steps} steps', f'--config.seed={self.seed}']
      made.append('--config.optim.warmup=5 %')
      made += ['--config.evals.report=false', '--config.evals.baselines=false',
               '--config.checkpoint.every=50 %', '--config.evals.knn.every=never']  # fmt: skip
    if self.name in PRETRAINING:
      made.append('--config.evals.final=false')
    if self.name == 'fixmatch':
      made.append('--config.data.labels=100 %')
    if self.name == 'distillation':
      made.append(f'--config.teacher={self.other("linear")}')
    return [*made, *self.options.override]

  def data(self) -> pathlib.Path:
    """The images with the labels of this number and seed; all have the same in pretraining."""
    return masked(self.options.data, self.count, self.seed, self.options.runs)


def masked(data: pathlib.Path, count: int, seed: int, runs: pathlib.Path) -> pathlib.Path:
  """A copy of the images in which `count` labels are known."""
  made = runs / f'{data.stem}-{count}-{seed}.npz'
  if not made.exists():
    with np.load(data) as stored:
      members = {name: stored[name] for name in ('x_train', 'y_train', 'x_test', 'y_test')}
    labels = np.asarray(members['y_train'], np.int32).reshape(-1)
    source = arrays.from_arrays(members['x_train'], labels)
    known = labelled.positions(source, str(count), seed)
    members['y_train'] = np.full_like(labels, -1)
    members['y_train'][known] = labels[known]
    made.parent.mkdir(parents=True, exist_ok=True)
    partial = made.with_suffix('.part.npz')
    np.savez(partial, **members)
    partial.rename(made)
  return made


def seconds_per_step(part: Part, cores: Sequence[int]) -> float:
  """CPU seconds of a step: the difference of two short trainings, after one that compiles."""
  short, long = part.options.trial
  homes = part.options.runs / 'trials'
  spent = []
  for name, steps in (('compiles', short), ('short', short), ('long', long)):
    home = homes / f'{part.name}-{part.count}-{name}'
    done = home / 'done.json'
    if not done.exists():
      command = part.command(steps, home)
      if part.name not in _ON_AN_ENCODER:
        command.append('--config.evals.final=false')
      status, cpu_s = runner.measured(command, cores, homes / f'{home.name}.log')
      if status:
        raise SystemExit(f'a trial failed: see {homes / f"{home.name}.log"}')
      done.write_text(json.dumps(cpu_s))
    spent.append(json.loads(done.read_text()))
  _, first, second = spent
  if second <= first:
    raise SystemExit(
      f'{long} steps of {part.name} took no longer than {short}: give more, --trial.'
    )
  return (second - first) / (long - short)


def train(part: Part, share: float, cores: Sequence[int]) -> dict:
  """Trains a part unless that is done: its steps, CPU time and scores."""
  done = part.home / 'done.json'
  if not done.exists():
    each = seconds_per_step(part, cores)
    steps = max(1, round(60 * part.options.minutes * share / each))
    print(f'{part.home.name}: {steps:,} steps of {each:.3f} s', flush=True)
    log = part.options.runs / f'{part.home.name}.log'
    status, cpu_s = runner.measured(part.command(steps, part.home), cores, log)
    if status:
      raise SystemExit(f'{part.home.name} failed: see {log}')
    found = {'steps': steps, 'cpu_minutes': cpu_s / 60, 'scores': scores(part)}
    done.write_text(json.dumps(found))
  return json.loads(done.read_text())


def scores(part: Part) -> dict:
  """What a part left in its directory; nothing of a pretraining."""
  if part.name in PRETRAINING:
    return {}
  file = 'result.json' if part.name in _ON_AN_ENCODER else 'results.json'
  stored = json.loads((part.home / file).read_text())['result']
  return {
    name: {kind: value for kind, value in each.items() if kind != 'sweep'}
    if isinstance(each, dict) else each
    for name, each in stored.items()
  }  # fmt: skip


def top1(way: str, found: dict) -> float:
  """The test accuracy of a way's last part, in per cent."""
  last = found[WAYS[way][-1][0]]['scores']
  if way in ('fixmatch', 'distillation'):  # What the network itself says.
    return 100 * last[way]['own']['top1']
  return 100 * next(iter(last.values()))['top1']


def run_seed(seed: int, cores: Sequence[int], options: argparse.Namespace) -> list[dict]:
  """Everything of one seed, one after the other."""
  made = []
  ways = ('byol', *(way for way in WAYS if way != 'byol'))  # Its network is what scratch redraws.
  for count in options.labels:
    for way in ways:
      found = {
        name: train(Part(way, name, recipe, count, seed, options), share, cores)
        for name, recipe, share in WAYS[way]
      }
      row = {'way': way, 'labels': count, 'seed': seed, 'top1': top1(way, found), 'parts': found}
      print(f'{way}, {count} labels, seed {seed}: {row["top1"]:.1f} %', flush=True)
      made.append(row)
  return made


def table(results: list[dict]) -> str:
  """Mean and standard deviation over seeds as Markdown."""
  counts = list(dict.fromkeys(row['labels'] for row in results))
  lines = [
    f'| way | {" | ".join(f"{count:,} labels" for count in counts)} |',
    f'|---|{"---:|" * len(counts)}',
  ]
  for way in WAYS:
    cells = []
    for count in counts:
      own = [row['top1'] for row in results if (row['way'], row['labels']) == (way, count)]
      spread = f' ± {statistics.stdev(own):.1f}' if len(own) > 1 else ''
      cells.append(f'{statistics.mean(own):.1f}{spread}' if own else '')
    lines.append(f'| {way} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def main() -> None:
  """Trains, and writes results and the table."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--data', type=pathlib.Path, required=True, help='an .npz with all labels')
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--runs', type=pathlib.Path, default=pathlib.Path('runs/semi_supervised'))
  parser.add_argument('--minutes', type=float, default=30.0, help='CPU minutes of each way')
  parser.add_argument('--labels', type=int, nargs='+', default=[250, 4000])
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--trial', type=int, nargs=2, default=[20, 140], help='steps of the trials')
  parser.add_argument('--workers', type=int, default=1)
  parser.add_argument('override', nargs='*', help='further flags, after --')
  options = parser.parse_args()
  found = runner.on_shares(
    lambda seed, cores: run_seed(seed, cores, options), options.seeds, options.workers
  )
  results = functools.reduce(lambda a, b: a + b, found)
  options.out.mkdir(parents=True, exist_ok=True)
  record = {'results': results, 'minutes': options.minutes, 'processor': processor()}
  (options.out / 'results.json').write_text(json.dumps(record, indent=1) + '\n')
  (options.out / 'table.md').write_text(table(results) + '\n')
  print(table(results))


if __name__ == '__main__':
  main()
