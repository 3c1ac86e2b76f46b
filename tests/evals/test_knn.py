"""Feature extraction and the weighted k-NN classifier."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.evals import knn
from byoljax.evals.features import make_extractor
from byoljax.evals.knn import knn_accuracy
from tests.paths import GOLDEN, ROOT

GOLDEN_FILE = GOLDEN / 'knn.npz'


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN_FILE))


def run(golden, **options):
  return knn_accuracy(
    *(golden[name] for name in ('bank', 'bank_labels', 'queries', 'query_labels')),
    **{
      'num_classes': int(golden['classes']),
      'ks': tuple(golden['ks'].tolist()),
      'temperatures': tuple(golden['temperatures'].tolist()),
    }
    | options,
  )


def hits(result, golden, name):
  counts = [round(row[name] * result['queries'], 6) for row in result['sweep']]
  return np.array(counts).reshape(len(golden['ks']), len(golden['temperatures']))


@pytest.mark.parametrize('reference', ['brute_force', 'scikit_learn'])
@pytest.mark.parametrize('blocks', [(1024, 32768), (50, 64), (120, 7), (1, 300)])
def test_equals_independent_implementations_in_any_blocks(golden, reference, blocks):
  result = run(golden, query_block=blocks[0], bank_block=blocks[1])
  np.testing.assert_array_equal(hits(result, golden, 'top1'), golden[reference][0])
  np.testing.assert_array_equal(hits(result, golden, 'top5'), golden[reference][1])


def test_equals_lightly(golden):
  np.testing.assert_array_equal(hits(run(golden), golden, 'top1'), golden['lightly'])


def test_headline_is_fixed_in_advance_and_best_is_apart(golden):
  result = run(golden, ks=(1, 5), temperatures=(0.07,))
  swept = {(row['k'], row['temperature']): row for row in result['sweep']}
  assert (result['k'], result['temperature']) == (200, 0.1)
  assert result['top1'] == swept[200, 0.1]['top1']
  assert set(swept) == {(k, t) for k in (1, 5, 200) for t in (0.07, 0.1)}
  assert result['best']['top1'] == max(row['top1'] for row in result['sweep'])
  assert result['best'] in result['sweep']
  assert (result['bank'], result['queries']) == (300, 120)


# By hand: unit vectors at angles to the query (1, 0), similarities 1, .8, .6, 0.
BANK = np.array([[2, 0], [0.8, 0.6], [3, 4], [0, 1]], np.float32)
QUERY = np.array([[5, 0]], np.float32)


@pytest.mark.parametrize(
  ('k', 'temperature', 'winner'),
  [
    (1, 1.0, 0),  # The nearest alone.
    (3, 1.0, 1),  # e^.8 + e^.6 = 4.05 beats e^1 = 2.72.
    (3, 0.1, 0),  # e^10 = 22026 beats e^8 + e^6 = 3384.
    (3, 0.001, 0),  # e^1000 would overflow float32.
  ],
)
def test_votes_by_hand(k, temperature, winner):
  labels = np.array([0, 1, 1, 0])
  for truth in (0, 1):
    result = knn_accuracy(
      BANK, labels, QUERY, np.array([truth]), num_classes=2, ks=(k,), temperatures=(temperature,)
    )
    row = next(r for r in result['sweep'] if (r['k'], r['temperature']) == (k, temperature))
    assert row['top1'] == float(truth == winner)
    assert 'top5' not in result  # Not with two classes.


def test_ties_are_deterministic():
  bank = np.array([[1, 0]] * 4, np.float32)
  labels = np.array([3, 1, 2, 1])

  def top1(truth, k):
    result = knn_accuracy(
      bank, labels, QUERY, np.array([truth]), num_classes=4, ks=(k,), bank_block=2
    )
    return next(r for r in result['sweep'] if r['k'] == k)['top1']

  assert [top1(c, 1) for c in range(4)] == [0, 0, 0, 1]  # Equal similarity: the earlier row.
  assert [top1(c, 3) for c in range(4)] == [0, 1, 0, 0]  # One vote each: the smaller class.
  assert [top1(c, 4) for c in range(4)] == [0, 1, 0, 0]  # Two votes for class 1.


def test_top5_counts_only_classes_with_votes():
  bank, labels = np.eye(8, dtype=np.float32), np.arange(8)
  query = np.arange(8, 0, -1, dtype=np.float32)[None]  # Nearest is class 0, then 1, ...

  def top5(truth, k):
    result = knn_accuracy(bank, labels, query, np.array([truth]), num_classes=8, ks=(k,))
    return next(r for r in result['sweep'] if r['k'] == k)['top5']

  assert [top5(c, 8) for c in range(8)] == [1, 1, 1, 1, 1, 0, 0, 0]
  assert [top5(c, 2) for c in range(8)] == [1, 1, 0, 0, 0, 0, 0, 0]


def test_unlabelled_rows_do_not_count():
  labels = np.array([-1, 1, 1, 0])
  queries, truth = np.repeat(QUERY, 3, axis=0), np.array([1, -1, 0])
  result = knn_accuracy(BANK, labels, queries, truth, num_classes=2, ks=(1,))
  assert [row['top1'] for row in result['sweep'] if row['k'] == 1] == [0.5, 0.5, 0.5]
  assert (result['bank'], result['queries']) == (3, 2)


def test_bfloat16_is_no_whole_number():
  """To NumPy it is no floating-point type; all of these would be 0."""
  bank = np.array([[0.75, 0.25], [0.25, 0.75]])
  found = knn.nearest(bank.astype(jnp.bfloat16), bank[::-1].astype(jnp.bfloat16), 1)
  np.testing.assert_array_equal(found[1], [[1], [0]])
  np.testing.assert_allclose(found[0], 1.0, atol=1e-6)


def test_k_above_the_bank_means_the_whole_bank():
  result = knn_accuracy(
    BANK, np.array([0, 1, 1, -1]), QUERY, np.array([1]), num_classes=2, ks=(1, 50, 100)
  )
  assert result['k'] == 3
  assert sorted({row['k'] for row in result['sweep']}) == [1, 3]


def test_bank_is_streamed_from_a_memory_map_once(golden, tmp_path, monkeypatch):
  path = tmp_path / 'bank.npy'
  np.save(path, golden['bank'])
  bank = np.load(path, mmap_mode='r')
  sizes = []

  def counting(x):
    sizes.append(x.shape)
    return normalize(x)

  normalize = knn._unit
  monkeypatch.setattr(knn, '_unit', counting)
  expected = run(golden)
  sizes.clear()
  result = run(golden | {'bank': bank}, bank_block=128, query_block=40)
  assert result == expected
  # Three blocks of the bank of one size, however many blocks of queries; never the whole bank.
  assert [s for s in sizes if s[0] > 40] == [(100, 16)] * 3


def test_one_compilation_per_block_shape(golden):
  knn._merge.clear_cache()
  for _ in range(2):
    run(golden, query_block=50, bank_block=64)  # 120 and 300 rows: the last blocks are padded.
  assert knn._merge._cache_size() == 1


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'bank_labels': np.full(300, -1)}, 'needs labels, but no bank example'),
    ({'query_labels': np.full(120, -1)}, 'needs labels, but no query example'),
    ({'bank_labels': np.zeros(299, int)}, r'one bank label per feature, but got \(299,\) for 300'),
    ({'queries': np.zeros((120, 8), np.float32)}, r'\(300, 16\) and \(120, 8\)'),
    ({'queries': np.zeros(16, np.float32)}, r'\(300, 16\) and \(16,\)'),
    ({'query_labels': np.full(120, 12)}, r'query label is 12, outside 0 .. 11'),
    ({'bank_labels': np.full(300, -2)}, r'bank label is -2, outside'),
    ({'bank_labels': np.zeros(300)}, 'must be integers, not float64'),
    ({'queries': np.full((120, 16), np.nan, np.float32)}, 'finite'),
    ({'bank': np.full((300, 16), np.inf, np.float32)}, 'finite'),
  ],
)
def test_bad_input_is_one_sentence(golden, changes, message):
  with pytest.raises(ValueError, match=message):
    run(golden | changes)


def test_one_bad_feature_among_many_is_found(golden):
  bank = golden['bank'].copy()
  bank[7, 3] = np.inf
  with pytest.raises(ValueError, match='finite'):
    run(golden | {'bank': bank})


@pytest.mark.parametrize('options', [{'ks': (0,)}, {'ks': ()}, {'temperatures': (0.0,)}])
def test_bad_sweep_is_one_sentence(golden, options):
  with pytest.raises(ValueError, match='must be'):
    run(golden, **options)


# Feature extraction.


def embed(params, method_state, images):
  flat = images.reshape(images.shape[0], -1)
  return {'embedding': flat @ params['w'] + method_state['b'], 'raw': flat.astype(jnp.bfloat16)}


def examples(n=22):
  rng = np.random.default_rng(1)
  images = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
  labels = rng.integers(-1, 5, n).astype(np.int32)
  variables = (
    {'w': rng.normal(size=(48, 6)).astype(np.float32)},
    {'b': rng.normal(size=(1, 6)).astype(np.float32)},
  )
  return images, labels, variables


def batches(images, labels, size, order=None):
  order = np.arange(len(images)) if order is None else order
  for start in range(0, len(order), size):
    index = order[start : start + size]
    missing = size - len(index)
    padded = np.concatenate([index, np.zeros(missing, index.dtype)])
    yield {
      'image': images[padded],
      'index': padded.astype(np.int32),
      'label': labels[padded],
      'valid': np.arange(size) < len(index),
    }


def scale(images):
  return images.astype(jnp.float32) / 255 - 0.5


@pytest.mark.parametrize('size', [4, 8, 24])
def test_features_do_not_depend_on_batches_padding_or_order(size):
  images, labels, variables = examples()
  extract = make_extractor(embed, scale)
  order = np.random.default_rng(2).permutation(22)
  features, out_labels = extract(*variables, batches(images, labels, size, order))
  x = (images.astype(np.float64) / 255 - 0.5).reshape(22, -1)
  np.testing.assert_allclose(features, x @ variables[0]['w'] + variables[1]['b'], atol=1e-5)
  np.testing.assert_array_equal(out_labels, labels)
  assert features.dtype == np.float32
  assert out_labels.dtype == np.int32


def test_each_example_counts_once():
  images, labels, variables = examples()
  order = np.concatenate([np.arange(22), np.arange(5)])
  features, out_labels = make_extractor(embed, scale)(*variables, batches(images, labels, 8, order))
  assert features.shape == (22, 6)
  np.testing.assert_array_equal(out_labels, labels)


def test_features_are_compiled_once():
  images, labels, variables = examples()
  traces = []

  def counted(params, method_state, x):
    traces.append(x.shape)
    return embed(params, method_state, x)

  extract = make_extractor(counted, scale)
  first, _ = extract(*variables, batches(images, labels, 8))
  again, _ = extract(*jax.tree.map(jnp.asarray, variables), batches(images, labels, 8))
  assert traces == [(2, 4, 4, 3)]
  np.testing.assert_array_equal(first, again)


def test_another_tap_is_float32_and_an_unknown_one_says_which_exist():
  images, labels, variables = examples()
  raw, _ = make_extractor(embed, tap='raw')(*variables, batches(images, labels, 8))
  np.testing.assert_array_equal(raw, images.reshape(22, -1).astype(np.float32))
  assert raw.dtype == np.float32
  with pytest.raises(ValueError, match="unknown tap 'embeding'.*did you mean 'embedding'"):
    make_extractor(embed, tap='embeding')(*variables, batches(images, labels, 8))


def test_no_examples_is_an_error():
  images, labels, variables = examples()
  with pytest.raises(ValueError, match='no image can be read'):
    make_extractor(embed, scale)(*variables, [])
  nothing = next(batches(images, labels, 8)) | {'valid': np.zeros(8, bool)}
  with pytest.raises(ValueError, match='no image can be read'):
    make_extractor(embed, scale)(*variables, [nothing])


WORKER = """
import sys
sys.path.insert(0, sys.argv[3])
import jax
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)
process = int(sys.argv[1])
jax.distributed.initialize(f'localhost:{sys.argv[2]}', num_processes=2, process_id=process)
import numpy as np
from tests.evals import test_knn as t
from byoljax.evals import features
features._ROWS_PER_GATHER = 5
images, labels, variables = t.examples(23)
own = np.arange(23)[process::2]
got = features.make_extractor(t.embed, t.scale)(*variables, t.batches(images, labels, 4, own))
np.savez(sys.argv[4], features=got[0], labels=got[1])
"""


# By default a run in two processes classifies by k-NN, see tests/devices/test_processes.py.
@pytest.mark.slow
def test_two_processes_both_get_all_rows_once(tmp_path):
  port = free_port()
  here = ROOT
  outs = [tmp_path / f'{process}.npz' for process in range(2)]
  workers = [
    subprocess.Popen(
      [sys.executable, '-c', textwrap.dedent(WORKER), str(i), str(port), str(here), str(out)],
      stderr=subprocess.PIPE,
      text=True,
      cwd=here,
    )
    for i, out in enumerate(outs)
  ]
  try:
    logs = [worker.communicate(timeout=120)[1] for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  assert [worker.returncode for worker in workers] == [0, 0], '\n'.join(logs)
  images, labels, variables = examples(23)
  expected, _ = make_extractor(embed, scale)(*variables, batches(images, labels, 24))
  for out in outs:
    got = np.load(out)
    np.testing.assert_allclose(got['features'], expected, atol=1e-5)
    np.testing.assert_array_equal(got['labels'], labels)


def free_port():
  import socket

  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]
