"""Where stored networks are found, and what is said where there is none."""

import pytest

from byoljax.config import ConfigError
from byoljax.encoders import classifier, dense, detector


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
