"""The list of runs, from files as runs write them."""

import json
import os
import subprocess
import sys

import pytest

from byoljax import cli
from byoljax.config import ConfigError
from byoljax.tasks import runs
from byoljax.workdir import listing, lock
from tests.paths import ROOT


def make(run, rows=(), saved=(), total=10, recipe='/somewhere/configs/byol.py:cifar10'):
  """A run's directory with what the list looks at."""
  run.mkdir(parents=True)
  stored = {'recipe': recipe, 'config': {'task': 'pretrain', 'method': {'name': 'byol'}}}
  if total is not None:
    stored['facts'] = {'total_steps': total, 'steps_per_epoch': 5}
  (run / 'config.json').write_text(json.dumps(stored))
  if rows:
    (run / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  for step in saved:
    save(run, step)
  return run


def save(run, step):
  """What is looked at of a complete checkpoint."""
  place = run / 'checkpoints' / str(step)
  (place / 'state').mkdir(parents=True)
  (place / 'integrity').mkdir()
  (place / 'integrity' / 'metadata').write_text('{}')


ROWS = [
  {'step': 2, 'loss': 3.0, 'knn/top1': 0.25},
  {'step': 4, 'loss': 2.0, 'knn/top1': 0.75},
  {'step': 6, 'loss': 'NaN', 'knn/top1': 0.5},
]


def test_what_is_said_of_a_run(tmp_path):
  run = make(tmp_path / 'a' / 'b', ROWS, saved=[4])
  with (run / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 8, "lo')  # It is being written.
  (run / 'checkpoints' / '9' / 'state').mkdir(parents=True)  # So is this one.
  (found,) = listing.listed(tmp_path)
  files = [path for path in run.rglob('*') if path.is_file()]
  assert found == listing.Listed(
    name='a/b', recipe='byol:cifar10', method='byol', status='stopped', step=6, total=10,
    best=0.75, best_step=4, loss=2.0, bytes=sum(path.stat().st_size for path in files),
    changed=max(path.stat().st_mtime for path in (run / 'metrics.jsonl', run / 'checkpoints')),
  )  # fmt: skip
  make(tmp_path / 'odd', total='many')
  assert [each.total for each in listing.listed(tmp_path)] == [10, None]
  (itself,) = listing.listed(run)
  assert itself == found._replace(name='.')


def test_finished_running_stopped(tmp_path):
  make(tmp_path / 'done', saved=[5, 10])
  make(tmp_path / 'new')
  make(tmp_path / 'weights', saved=[0], total=None)
  held = make(tmp_path / 'held', saved=[10])
  with lock.lock_workdir(held):
    status = {run.name: run.status for run in listing.listed(tmp_path)}
    assert lock.is_locked(held), 'looking must not take the lock away'
  assert status == {'done': 'finished', 'held': 'running', 'new': 'stopped', 'weights': 'finished'}
  assert not lock.is_locked(held), 'the file stays, the lock does not'


def test_a_run_starts_while_its_directory_is_looked_at(tmp_path):
  """Whoever looks holds a shared lock for a moment, and may not stand in the way of a start."""
  holder = 'import fcntl, sys, time\nfile = open(sys.argv[1])\nfcntl.flock(file, fcntl.LOCK_SH)\n'
  holder += 'print("held", flush=True)\ntime.sleep(0.06)\n'
  (tmp_path / lock.LOCK).touch()
  arguments = [sys.executable, '-c', holder, str(tmp_path / lock.LOCK)]
  with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == 'held\n'
    with lock.lock_workdir(tmp_path):
      pass


def test_what_is_no_run_is_passed_over(tmp_path):
  run = make(tmp_path / 'run')
  if sys.platform == 'linux':  # Others refuse such names.
    make(tmp_path / os.fsdecode(b'caf\xe9'))
  make(run / 'evals' / 'linear-online-4')
  make(tmp_path / '.hidden' / 'run')
  make(tmp_path / '1' / '2' / '3' / 'too_deep')
  os.symlink(run, tmp_path / 'link', target_is_directory=True)
  for name, text in (('a', '{'), ('b', '[]'), ('c', '{"config": 3, "recipe": ""}'), ('d', '')):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'config.json').write_text(text)
  (tmp_path / 'e' / 'config.json').mkdir(parents=True)
  assert [found.name for found in listing.listed(tmp_path)] == ['run']
  with pytest.raises(ConfigError, match="there is no directory '.*nothing'"):
    listing.listed(tmp_path / 'nothing')


def test_a_record_with_odd_rows_does_not_hide_the_others(tmp_path, capsys):
  make(tmp_path / 'a', ROWS)
  with (make(tmp_path / 'b', ROWS[:1]) / 'metrics.jsonl').open('a') as file:
    file.write(f'{{"step": 3, "a": {"[" * 100_000}{"]" * 100_000}}}\n')
    file.write(f'{{"step": 4, "loss": 1{"0" * 400}, "knn/top1": 1{"0" * 400}}}\n')
  assert cli.run(['runs', str(tmp_path)]) == 0
  assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == ['a', 'b']
  _, odd = listing.listed(tmp_path)
  assert (odd.step, odd.loss, odd.best) == (4, 3.0, 0.25)


def test_the_command_sorts_and_writes_json(tmp_path, capsys):
  make(tmp_path / 'b', ROWS, saved=[10], recipe='simclr.py')
  make(tmp_path / 'a', ROWS[:1], saved=[10])
  make(tmp_path / 'c')

  def names(*arguments):
    assert cli.run(['runs', str(tmp_path), '--json', *arguments]) == 0
    return [run['name'] for run in json.loads(capsys.readouterr().out)]

  assert names() == ['a', 'b', 'c']
  assert names('--reverse') == ['c', 'b', 'a']
  assert names('--sort=best') == ['b', 'a', 'c']
  assert names('--sort=best', '--reverse') == ['c', 'a', 'b']
  assert names('--sort=recipe') == ['a', 'c', 'b']
  for order in listing.ORDERS:
    assert sorted(names(f'--sort={order}')) == ['a', 'b', 'c']
  assert cli.run(['runs', str(tmp_path), '--sort=step']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == ['run', 'recipe', 'status', 'step', 'best', 'k-NN', 'loss', 'size',
                              'changed']  # fmt: skip
  assert lines[2].split()[:8] == ['a', 'byol:cifar10', 'finished', '10', 'of', '10', '25.0%', '3']
  assert '0 of 10 (0%)' in lines[4]
  (tmp_path / 'empty').mkdir()
  assert cli.run(['runs', str(tmp_path / 'empty')]) == 0
  assert capsys.readouterr().out.startswith('no runs in')
  assert cli.run(['runs', str(tmp_path / 'nothing')]) == 2


def test_directories_may_be_left_out():
  assert cli.parse(['runs']).options.dir == 'runs'
  assert '| `byoljax runs [DIR]` |' in cli.table()


def test_words_for_sizes_and_times():
  sizes = {
    0: '0 kB',
    140_000: '140 kB',
    999_600: '1.0 MB',
    16_900_000: '16.9 MB',
    123_400_000: '123 MB',
    2_500_000_000: '2.5 GB',
    7 * 10**15: '7000 TB',
  }
  assert {count: runs.human_size(count) for count in sizes} == sizes
  times = {-2: '0 s ago', 59: '59 s ago', 60: '1 min ago', 7300: '2 h ago', 200_000: '2 d ago'}
  assert {seconds: runs.ago(seconds) for seconds in times} == times


def test_it_starts_without_jax(tmp_path):
  """The list of a hundred runs takes less time than importing JAX."""
  make(tmp_path / 'run', ROWS, saved=[4])
  code = (
    'import sys; from byoljax import cli; status = cli.run(sys.argv[1:])\n'
    'import byoljax.web.server\n'
    'heavy = {"jax", "flax", "optax", "orbax", "tensorflow", "sklearn", "matplotlib", "PIL"}\n'
    'sys.exit(status or ", ".join(heavy & set(sys.modules)) or 0)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, 'runs', str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
    check=False,
  )  # fmt: skip
  assert 'byol:cifar10' in done.stdout and not done.stderr, done


def test_output_that_nobody_reads_ends_it_quietly(tmp_path):
  for number in range(300):
    make(tmp_path / str(number))
  line = f'{sys.executable} -m byoljax runs {tmp_path} --json'
  process = subprocess.Popen(line.split(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  process.stdout.read(10)
  process.stdout.close()
  assert (process.wait(), process.stderr.read()) == (141, b'')
  process.stderr.close()
