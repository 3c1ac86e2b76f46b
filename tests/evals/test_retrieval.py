"""Retrieval: rankings by hand, against scikit-learn, and as a command."""

import json

import numpy as np
import pytest

from byoljax import cli
from byoljax.evals import retrieval
from tests.evals.test_frozen import blobs


def directions(*degrees):
  angles = np.deg2rad(degrees)
  return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def test_by_hand():
  gallery = 3 * directions(0, 10, 20, 30, 180), np.array([1, 0, 1, 1, 0])
  # Class 1 is at ranks 1, 3, 4 of the first query; class 0 at 3 and 5 of the second.
  result = retrieval.retrieval(gallery, (directions(-1, 31), np.array([1, 0])))
  first, second = (1 + 2 / 3 + 3 / 4) / 3, (1 / 3 + 2 / 5) / 2
  assert result['map'] == pytest.approx((first + second) / 2)
  assert (result['recall_at_1'], result['recall_at_5']) == (0.5, 1.0)
  assert (result['queries'], result['gallery'], result['without_relevant']) == (2, 5, 0)


def test_a_query_does_not_find_itself_and_one_alone_is_not_asked():
  features = directions(0, 1, 90, 91, 200)
  result = retrieval.retrieval(None, (features, np.array([0, 0, 1, 1, 2])))
  assert result == {
    'map': 1.0, 'recall_at_1': 1.0, 'recall_at_5': 1.0, 'recall_at_10': 1.0,
    'queries': 4, 'gallery': 4, 'without_relevant': 1,
  }  # fmt: skip
  apart = retrieval.retrieval(None, (features, np.array([0, 1, 0, 1, 2])))
  assert apart['recall_at_1'] == 0.0 and apart['map'] < 0.6


def test_is_scikit_learns_average_precision(monkeypatch):
  from sklearn.metrics import average_precision_score

  (bank, classes), (asked, wanted) = blobs(70, 4.0, 1), blobs(31, 4.0, 2)
  result = retrieval.retrieval((bank, classes), (asked, wanted))
  norm = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, asked)]
  each = [
    average_precision_score(classes == label, row)
    for label, row in zip(wanted, norm[1] @ norm[0].T, strict=True)
  ]
  assert result['map'] == pytest.approx(np.mean(each), abs=1e-5)  # float32 similarities
  monkeypatch.setattr(retrieval, '_SIMILARITIES', 7 * 70)
  assert retrieval.retrieval((bank, classes), (asked, wanted)) == result, 'in several blocks'


def test_bad_input():
  x, y = blobs(9, 1.0, 1)
  with pytest.raises(ValueError, match='no query has another image'):
    retrieval.retrieval(None, (x[:3], np.arange(3)))
  with pytest.raises(ValueError, match='finite'):
    retrieval.retrieval((x, y), (x * np.nan, y))
  with pytest.raises(ValueError, match='of 3 and 4 values'):
    retrieval.retrieval((x, y), (x[:, :3], y))
  with pytest.raises(ValueError, match='one label per image'):
    retrieval.retrieval((x, np.eye(3)[y]), (x, y))


def test_the_command(untrained, tmp_path, capsys):
  run = ['retrieval', str(untrained), f'--workdir={tmp_path}']
  assert cli.run(run) == 0
  shown = capsys.readouterr().out
  result = json.loads((tmp_path / 'result.json').read_text())['result']
  assert 'recall@1 ' in shown and result['gallery'] == result['queries'] - 1
  assert cli.run([*run, '--retrieval.gallery=train']) == 0
  other = json.loads((tmp_path / 'result.json').read_text())['result']
  assert other['queries'] == result['queries'] and other['gallery'] != result['gallery']
  assert cli.run([*run, '--retrieval.gallery=trian']) == 2
  assert "did you mean 'train'" in capsys.readouterr().err
