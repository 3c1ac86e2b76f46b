"""Where stored networks are found, and what is said where there is none."""

import json
import os

import numpy as np
import pytest

from byoljax.config import ConfigError
from byoljax.encoders import classifier, dense, detector, stored_arrays


@pytest.mark.parametrize(
  ('kind', 'said'),
  [
    (classifier, 'no classifier in .*it holds none. `byoljax classify` makes one'),
    (dense, 'no model of masks or depth in .*it holds none. `byoljax segment` and'),
    (detector, 'no detector in .*it holds none. `byoljax detect` makes one'),
  ],
)
def test_it_is_found_from_the_run_and_missed_in_a_sentence(kind, said, tmp_path):
  with pytest.raises(ConfigError, match=said):
    kind.find(tmp_path)
  with pytest.raises(ConfigError, match='there is no such directory'):
    kind.find(tmp_path / 'nowhere')
  home = tmp_path / 'evals' / 'some' / kind.FOLDER
  home.mkdir(parents=True)
  (home / kind.FILE).write_text('{}')
  assert kind.find(tmp_path) == kind.find(home.parent) == kind.find(home) == home


@pytest.mark.parametrize('kind', [classifier, dense, detector])
def test_the_newest_comes_first_and_those_from_scratch_last(kind, tmp_path):
  order = ['newer', 'older', 'random']
  for name, time in zip(order, (2, 1, 3), strict=True):
    home = tmp_path / 'evals' / 'some' / name / kind.FOLDER
    home.mkdir(parents=True)
    network = 'random' if name == 'random' else 'online'
    (home / kind.FILE).write_text(json.dumps({'origin': {'network': network}}))
    os.utime(home / kind.FILE, (time, time))
  assert [home.parent.name for home in kind.every(tmp_path)] == order


DAMAGES = {
  'empty': lambda data: b'',
  'cut off': lambda data: data[:-30],
  'other numbers': lambda data: data.replace(np.float64(1).tobytes(), np.float64(2).tobytes(), 1),
  'another compression': lambda data: (
    data[: (at := data.index(b'PK\1\2') + 10)]  # the directory's
    + b'\x63'
    + data[at + 1 :]
  ),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_arrays_are_one_sentence(damage, tmp_path):
  stored_arrays.write(tmp_path, 'x.json', {'format': 1}, {'params': {'a': np.ones((9, 9))}})
  path = tmp_path / json.loads((tmp_path / 'x.json').read_text())['weights']
  path.write_bytes(DAMAGES[damage](path.read_bytes()))
  said = f"holds no network that can be read .*'{path.name}' is damaged"
  with (
    pytest.raises(ConfigError, match=said),
    stored_arrays.opened(tmp_path, 'x.json', 1, 'network'),
  ):
    pass
