"""Every command of the documentation is run, each page in a directory of its own, at tiny sizes.

`test_docs.py` checks the same commands without running them.
"""

import re
import shlex
import shutil

import numpy as np
from PIL import Image
import pytest

from byoljax import cli, main
from byoljax.tasks.command import RECIPE
from tests.docs.test_docs import commands

# What needs something that is not here, and what is it.
ELSEWHERE = {
  '--distributed': 'other processes',
  '--coordinator_address': 'other processes',
  '.pth': 'weights of others',
  'runs/theirs': 'weights of others',
  'byoljax web': 'somebody who ends it',
  '--log.sinks': 'a package of a service',
  'byoljax push': 'an account of the hub',
  'tfds:oxford_flowers102': 'a prepared data set',
  'VOCdevkit': 'a data set to fetch',
  'hf:': 'a network',
  'runs/mae_base': 'weights of others',
  'block4': 'a run of NIN',
  'own-target-': 'what is evaluated at the end of a longer run',
  '--tap=projection': 'a run with its heads',
  '--extend': 'a run to go on with, see test_extension.py',
}
SHORT = {
  'pretrain': ('--train.length=2 steps', '--evals.final=false', '--evals.report=false'),
  'bench': ('--bench.steps=1', '--bench.rounds=1'),
  'plan': ('--no_compile',),
  'logistic': ('--logistic.lambdas=(1.0,)',),
  'transfer': ('--protocols=knn',),
  'segment': ('--scratch=false',),
  'depth': ('--scratch=false', '--modes=("frozen",)'),
}
DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
# The run at hand is of arrays, and not of the built-in images.
AS_AT_HAND = ('--data.mean=(0.4914,0.4822,0.4465)', '--data.std=(0.247,0.2435,0.2616)')


def small(line):
  """The arguments of a command line of the documentation, at a tiny size; None: nothing to run."""
  words = shlex.split(line, comments=True)
  if words[0] != 'byoljax':  # python -m byoljax.main --config=configs/byol.py:cifar10 ...
    words = [_smoke(word) if word.startswith('--config=') else word for word in words[3:]]
    return [*words, '--config.bench.steps=1', '--config.bench.rounds=1']
  name = words[1].partition(':')[0]
  if len(words) == 2 or words[1] == 'compare':
    return None
  command = cli.COMMANDS[name]
  rest = [re.sub(r'checkpoints/\d+', 'checkpoints/2', word) for word in words[2:]]
  rest = [re.sub(r'-\d+-sprites$', '-0-sprites-64-0', word) for word in rest]
  rest = [re.sub(r'-\d+-photos$', '-2-photos', word) for word in rest]
  first = words[1]
  if RECIPE in command.arguments and name != 'plan':
    rest[0] = _smoke(rest[0]) if 'series.npz' not in line else rest[0]  # Smoke is of images.
    data = next((word for word in rest if word.startswith('--data.dir=')), '')
    kept = any(f'--data.name={name}' in rest for name in ('frames', 'list', 'shards'))
    rest = [word for word in rest if kept or not word.startswith('--data.name=')]
    if data and not kept:
      rest.append(f'--data.name={"npz" if data.endswith("npz") else "folder"}')
  elif command.recipe:
    first = _smoke(first)
  if name == 'transfer':
    rest = [word.replace('folder=photos', 'folder=labelled') for word in rest]
    if not any(word.startswith('--datasets=') for word in rest):  # Those of the literature.
      rest.append('--datasets=folder=labelled')
  if '--perceptual' in rest:
    rest += AS_AT_HAND
  if name == 'finetune':
    rest = [re.sub(r'^--labels=.*', '--labels=50 %', word) for word in rest]
  return [first, *rest, *SHORT.get(name, ())]


def _smoke(recipe):
  return f'{recipe}{"," if ":" in recipe else ":"}smoke' if 'smoke' not in recipe else recipe


def adapted(origin, lines):
  """The lines of a page with its own meaning of RUN, a run of its method, and of photos."""
  name = origin.removeprefix('docs/methods/').removesuffix('.md')
  run = f'runs/{name}' if 'methods/' in origin else 'runs/byol'
  if run != 'runs/byol' and any(' RUN' in line for line in lines):
    yield f'byoljax pretrain {name} --workdir={run}'
  for line in lines:
    line = line.replace(' RUN', f' {run}')
    line = line.replace(' CLASSIFIER', f' {run}/evals/knn-online-0')
    yield re.sub(r'\bphotos\b', 'labelled', line) if 'semi_supervised' in origin else line


def pages():
  found = {}
  for origin, line in (param.values for param in commands()):
    if not any(part in line for part in ELSEWHERE):
      found.setdefault(origin, []).append(line)
  return found


@pytest.fixture
def at_hand(untrained, npz, tmp_path, monkeypatch):
  """What pages speak of: runs, photographs with and without labels, arrays."""
  for name in ('byol', 'simclr', 'simclr-folder_small', 'mine', 'geometric'):
    shutil.copytree(untrained, tmp_path / 'runs' / name)
  rng = np.random.default_rng(0)
  places = [tmp_path / 'holiday.jpg', *(tmp_path / 'photos' / f'{i}.jpg' for i in range(24))]
  places += [tmp_path / name / '1.jpg' for name in ('new', 'new_photos')]
  places += [tmp_path / 'labelled' / kind / f'{i}.jpg' for kind in 'ab' for i in range(12)]
  places += [tmp_path / 'photo.jpg', tmp_path / 'more_photos' / '1.jpg']
  places += [tmp_path / 'clips' / 'train' / kind / f'{i}.jpg' for kind in 'ab' for i in range(12)]
  for place in places:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(place)
  listed = ''.join(f'photos/{i}.jpg\n' for i in range(24))
  (tmp_path / 'images.csv').write_text(f'path\n{listed}')
  shutil.make_archive(str(tmp_path / 'photos'), 'zip', tmp_path / 'photos')
  (tmp_path / 'scenes').mkdir()
  for number in range(24):  # Four bands.
    np.save(tmp_path / 'scenes' / f'{number}', rng.integers(0, 256, (40, 48, 4), dtype=np.uint8))
  shutil.copy(npz, tmp_path / 'images.npz')
  series = {f'x_{split}': rng.normal(size=(32, 12, 2)) for split in ('train', 'test')}
  np.savez(tmp_path / 'series.npz', **series, y_train=np.arange(32) % 2, y_test=np.arange(32) % 2)
  digits = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
  drawn = {f'{name}_{split}': x for split in ('train', 'test')
           for name, x in (('x', digits), ('y', np.arange(40) % 10))}  # fmt: skip
  np.savez(tmp_path / 'digits.npz', **drawn, class_names=np.array(DIGITS))
  (tmp_path / 'labels.csv').write_text(''.join(f'{i}.jpg,{"ab"[i % 2]}\n' for i in range(8)))
  (tmp_path / 'configs').symlink_to(cli.recipes_directory(), target_is_directory=True)
  monkeypatch.chdir(tmp_path)


def test_they_are_made_small():
  assert small('byoljax linear:simclr runs/byol') == ['linear:simclr,smoke', 'runs/byol']
  assert small('byoljax pretrain byol:folder --data.dir=photos')[:4] == [
    'pretrain', 'byol:folder,smoke', '--data.dir=photos', '--data.name=folder'
  ]  # fmt: skip
  assert small('byoljax anomaly') is None
  assert sum(map(len, pages().values())) > 40


@pytest.mark.slow
@pytest.mark.parametrize('origin', sorted(pages()))
def test_every_command_of_a_page_runs(origin, at_hand, capsys):
  pytest.importorskip('tensorflow', reason='folders need TensorFlow')
  for number, line in enumerate(adapted(origin, pages()[origin])):
    arguments = small(line)
    if arguments is None:
      continue
    if arguments[0] == 'pretrain':
      # A run of its own, whatever lay there, under the name that the page gives it.
      named = re.search(r'--workdir[= ](\S+)', line)
      where = named[1] if named else f'runs/own{number}'
      shutil.rmtree(where, ignore_errors=True)
      arguments.append(f'--workdir={where}')
    elif arguments[0].startswith('finetune'):  # With other labels than the page's.
      arguments.append(f'--workdir=runs/finetuned{number}')
    run = main.main if arguments[0].startswith('--config') else cli.run
    assert run(arguments) == 0, f'{line}\n{arguments}\n{capsys.readouterr().err}'
