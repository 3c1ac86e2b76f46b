"""Runs of days in minutes: thousands of steps with flat memory and handles; kills and restarts."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.paths import ROOT

STEPS = os.environ.get('BYOLJAX_LONG_STEPS', '20000')
pytestmark = pytest.mark.slow


def script(name, *arguments):
  command = [sys.executable, f'experiments/faults/{name}.py', *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not pathlib.Path('/proc/self/statm').exists(), reason='needs /proc')
@pytest.mark.parametrize('mode', ['host', 'device'])
def test_many_steps_with_flat_memory_and_handles(mode, tmp_path):
  """Memory, arrays and files stay, checkpoints are pruned, a resumed run replays no data."""
  out = tmp_path / 'long.json'
  done = script('long', '--steps', STEPS, '--modes', mode, '--out', str(out))
  assert done.returncode == 0, done.stdout + done.stderr
  assert done.stdout == 'Nothing grew.\n'
  assert len(json.loads(out.read_text())['modes'][mode]['looks']) == 40


def test_killed_three_times_is_bit_equal():
  done = script('kill', '--cases', 'moco:1:3')
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'moco on 1: 3 kills, bit-equal' in done.stdout


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_killed_while_saving_damages_nothing(tmp_path):
  out = tmp_path / 'kills.json'
  done = script('kill_saves', '--seconds', '20', '--out', str(out))
  assert done.returncode == 0, done.stdout + done.stderr
  assert json.loads(out.read_text())['kills'] > 3
