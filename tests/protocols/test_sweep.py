"""What is tried on held-out images: stored as soon as it is known, and never run twice."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from byoljax.protocols import sweep, training
from byoljax.protocols.sweep import Held
from byoljax.train.record import Logging

RATES = (0.1, 1.0, 10.0, 100.0)
SETTINGS = [{'base_lr': rate} for rate in RATES]


def test_what_diverges_is_unknown_and_not_run_again(tmp_path, capsys):
  tried = []

  def score(number, home):
    tried.append((number, home.name))
    (home / 'checkpoints').mkdir(parents=True)
    if number == 2:
      raise FloatingPointError
    return Held([-0.5, -0.25, None, np.nan][number], (np.zeros((2, 3)), np.zeros(2, np.int32)))

  for _ in range(2):
    made = sweep.run(tmp_path, SETTINGS, score)
    assert [each.score for each in made] == [-0.5, -0.25, None, None]
    assert sweep.best(made) == 1 and made[1].scored[0].shape == (2, 3) and made[2].scored is None
  assert tried == [(number, f'sweep{number}') for number in range(4)]
  assert capsys.readouterr().out.count('base_lr 10: not finite') == 1
  for number, rate in enumerate(RATES):
    text = (tmp_path / f'sweep{number}' / 'score.json').read_text()
    assert json.loads(text)['base_lr'] == rate
    assert 'NaN' not in text and 'Infinity' not in text, 'JSON knows neither'
    assert not (tmp_path / f'sweep{number}' / 'checkpoints').exists()


def test_without_a_directory_or_anything_known():
  made = sweep.run(None, SETTINGS[:2], lambda number, home: Held(None))
  assert sweep.best(made) == 0 == sweep.best([])


@pytest.mark.parametrize(
  ('log_every', 'losses', 'message'),
  [
    (0, [1.0, np.nan, np.inf, 2.0], ''),  # Only the end is looked at.
    (0, [1.0, 1.0, 1.0, np.inf], 'loss had become inf after step 4'),
    (2, [1.0, np.nan, 1.0, 1.0], 'loss had become nan after step 2'),
  ],
)
def test_what_diverges_in_memory_is_told(log_every, losses, message, monkeypatch):
  """As in a directory, where the record of the run tells it."""

  def steps(run, state, start, clock, due):
    assert due(0) == (log_every or np.inf)
    for done, loss in enumerate(losses, 1):
      yield done, f'state {done}', {'loss': np.float32(loss), 'top1': np.float32(np.nan)}

  monkeypatch.setattr(training.loop, 'training', steps)
  run = SimpleNamespace(
    layout=SimpleNamespace(place=lambda state: state),
    create=lambda: 'state 0',
    length=SimpleNamespace(total_steps=4, batch_size=8),
    log_every=log_every,
  )
  if not message:
    assert training.train(run, None, Logging(), must_be_finite=('loss',)) == 'state 4'
    return
  with pytest.raises(FloatingPointError, match=message):
    training.train(run, None, Logging(), must_be_finite=('loss',))
