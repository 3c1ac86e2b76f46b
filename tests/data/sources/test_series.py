"""Series of numbers as images: layout, scale, and what is refused."""

import numpy as np
import pytest

from byoljax.data.sources import arrays, datasets, series

RNG = np.random.default_rng(0)


def saved(path, **parts):
  np.savez(path, **parts)
  return path


def test_numbers_are_bytes_of_their_channels_range_in_order(tmp_path):
  train = (RNG.normal(size=(5, 30, 3)) * [1.0, 10.0, 0.1]).astype(np.float32)
  test = 3.0 * RNG.normal(size=(4, 30, 3)).astype(np.float32)
  file = saved(tmp_path / 's.npz', x_train=train, y_train=np.arange(5), x_test=test)
  found = {split: datasets.load('npz', split, data_dir=file) for split in ('pretrain', 'test')}
  assert found['pretrain'].series == series.Series(30, 3) and found['pretrain'].channels == 1
  # 90 numbers need 10 x 10 pixels.
  images, labels = found['pretrain'].read(np.array([3, 0]))
  assert images.shape == (2, 10, 10, 1) and labels.tolist() == [3, 0]
  low, high = np.quantile(train.astype(np.float64), (0.001, 0.999), axis=(0, 1))
  for split, given in (('pretrain', train[[3, 0]]), ('test', test[[3, 0]])):
    (images,) = found[split].read(np.array([3, 0]), ('image',))
    levels = np.clip(np.round((given - low) / (high - low) * 255), 0, 255)
    np.testing.assert_array_equal(images.reshape(2, -1)[:, :90], levels.reshape(2, -1))
    assert not images.reshape(2, -1)[:, 90:].any()
    np.testing.assert_array_equal(
      series.of_images(images, found[split].series), levels.astype(np.uint8)
    )
  assert found['pretrain'].subset(np.array([1])).series == series.Series(30, 3)


def test_one_channel_and_a_constant_one(tmp_path):
  values = np.linspace(-1, 1, 7, dtype=np.float64)[None].repeat(3, 0)
  file = saved(tmp_path / 's.npz', x_train=values, x_unlabelled=np.ones((2, 7, 1)))
  source = arrays.from_npz(file, 'pretrain')
  assert source.series == (7, 1) and source.size == 5
  (images,) = source.read(np.arange(5), ('image',))
  # Never smaller than a view may be.
  assert images.shape == (5, 8, 8, 1)
  assert images[0, 0, :7, 0].tolist() == [255] * 7 and images[4, 0, 6, 0] == 255
  constant = saved(tmp_path / 'c.npz', x_train=np.full((2, 5), 3.0))
  assert not arrays.from_npz(constant, 'train').read(np.arange(2), ('image',))[0].any()


@pytest.mark.parametrize(
  ('parts', 'said'),
  [
    ({'x_train': np.full((2, 5), np.nan)}, 'not finite: fill in'),
    ({'x_train': np.zeros((2, 5, 3)), 'x_unlabelled': np.zeros((2, 5, 2))}, 'equally many'),
    (
      {'x_train': np.zeros((2, 5)), 'x_unlabelled': np.zeros((2, 6))},
      'must have one length',
    ),
    ({'x_train': np.zeros((2, 0, 3))}, 'at least one step'),
    (
      {'x_train': np.zeros((2, 5, 3), int)},
      r'images are uint8, .* Series are floats \[N, T, C\]',
    ),
  ],
)
def test_what_is_no_set_of_series(parts, said, tmp_path):
  with pytest.raises(ValueError, match=said):
    arrays.from_npz(saved(tmp_path / 's.npz', **parts), 'pretrain')


def test_test_series_must_be_like_those_for_training(tmp_path):
  file = saved(tmp_path / 's.npz', x_train=np.zeros((2, 5, 2)), x_test=np.zeros((2, 5, 3)))
  with pytest.raises(ValueError, match='those for training have 2 channels'):
    arrays.from_npz(file, 'test')
  # Of a length that the same size of images has room for.
  file = saved(tmp_path / 't.npz', x_train=np.zeros((2, 5, 2)), x_test=np.zeros((2, 7, 2)))
  for split in ('train', 'test'):
    with pytest.raises(ValueError, match='one length, got steps of x_train 5, x_test 7: cut'):
      arrays.from_npz(file, split)
