"""The input pipeline: order, resume, processes, evaluation, damaged files, and equal pictures."""

import dataclasses
import io
import threading

import jax
import numpy as np
from PIL import Image
import pytest

from byoljax import streams
from byoljax.data.augment import device, views
from byoljax.data.batches import decode, order, pipeline
from byoljax.data.sources import arrays, folder, image_file, source

SPECS = (views.ViewSpec(size=16), views.ViewSpec(size=8, crop_scale=(0.05, 0.3), blur_prob=0.1))
KINDS = ('arrays', 'files', 'small files')


def _images(count, side=20, seed=0):
  """Smooth random pictures."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (count, 5, 5, 3), np.uint8)
  return np.stack(
    [np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC)) for x in coarse]
  )


def _bytes(image, kind='PNG', **options):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, kind, **options)
  return buffer.getvalue()


def _files(contents, labels=None, image_shape=None):
  """A source of encoded images in memory."""
  data = np.empty(len(contents), object)
  data[:] = contents
  y = np.full(len(data), -1, np.int32) if labels is None else np.asarray(labels, np.int32)
  return source.Source(
    name='files',
    size=len(data),
    num_classes=0 if labels is None else int(y.max()) + 1,
    class_names=(),
    encoded=True,
    image_shape=image_shape,
    fingerprint='0',
    fetch=lambda rows, names: tuple({'image': data, 'label': y}[name][rows] for name in names),
    fetch_labels=lambda: None if labels is None else y,
    locate=lambda row: f'file {row}',
  )


def _source(kind, count=22, side=20):
  images = _images(count, side)
  labels = np.arange(count) % 4
  if kind == 'arrays':
    return arrays.from_arrays(images, labels)
  contents = [_bytes(image) for image in images]
  return _files(contents, labels, (side, side) if kind == 'small files' else None)


def _train(
  data, start=0, stop=6, specs=SPECS, batch_size=6, seed=3, processes=(0, 1), threads=2, plan=None
):
  plan = plan or order.Order(data.size, batch_size, seed, *processes)
  made = pipeline.train_batches(
    data, specs, order=plan, seed=seed, start_step=start, stop_step=stop, threads=threads
  )
  return list(made)


def _flat(batch):
  by_view = {key: value for key, value in batch.items() if isinstance(value, tuple)}
  return {
    **{key: value for key, value in batch.items() if key not in by_view},
    **{f'{key} {i}': view for key, views in by_view.items() for i, view in enumerate(views)},
  }


def _assert_equal(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    a, b = _flat(a), _flat(b)
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)
      assert a[key].dtype == b[key].dtype


# --- order --------------------------------------------------------------------------------------


def test_an_epoch_is_a_permutation():
  plan = order.Order(22, 6, 3)
  assert plan.steps_per_epoch == 3
  epochs = []
  for epoch in range(3):
    steps = [plan.at(3 * epoch + step) for step in range(3)]
    assert all(number.tolist() == [epoch] * 6 and number.dtype == np.int32 for number, _ in steps)
    seen = np.concatenate([index for _, index in steps])
    assert len(set(seen)) == 18 and seen.min() >= 0 and seen.max() < 22
    expected = np.random.default_rng((3, streams.ORDER, epoch)).permutation(22)[:18]
    np.testing.assert_array_equal(seen, expected)
    epochs.append(tuple(seen))
  assert len(set(epochs)) == 3
  assert tuple(order.Order(22, 6, 4).at(0)[1]) != epochs[0][:6]


def test_the_order_does_not_depend_on_the_number_of_processes():
  for step in (0, 2, 7):
    whole = order.Order(22, 6, 3).at(step)[1]
    for count in (2, 3, 6):
      parts = [order.Order(22, 6, 3, p, count).at(step)[1] for p in range(count)]
      np.testing.assert_array_equal(np.concatenate(parts), whole)


# --- training batches ---------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_shapes_and_labels(kind):
  data = _source(kind)
  for batch in _train(data, stop=2):
    assert batch['index'].dtype == batch['label'].dtype == batch['epoch'].dtype == np.int32
    np.testing.assert_array_equal(batch['label'], batch['index'] % 4)
    if kind == 'arrays':
      assert batch['image'].shape == (6, 20, 20, 3) and batch['image'].dtype == np.uint8
    else:
      assert [view.shape for view in batch['views']] == [(6, 16, 16, 3), (6, 8, 8, 3)]
      assert all(view.dtype == np.uint8 for view in batch['views'])


@pytest.mark.parametrize('kind', KINDS)
def test_resume_processes_and_threads_give_the_same_bits(kind):
  data = _source(kind)
  whole = _train(data)
  _assert_equal(_train(data, start=4), whole[4:])
  _assert_equal(_train(data, threads=1), whole)
  parts = [_train(data, stop=4, processes=(p, 2)) for p in range(2)]
  joined = [
    {
      key: tuple(np.concatenate(v) for v in zip(a[key], b[key], strict=True))
      if isinstance(a[key], tuple)
      else np.concatenate([a[key], b[key]])
      for key in a
    }
    for a, b in zip(*parts, strict=True)
  ]
  _assert_equal(joined, whole[:4])


def test_crops_change_with_epoch_seed_and_view():
  data = _source('files', count=6)
  same = (SPECS[0], SPECS[0])
  by_index = [dict(zip(b['index'].tolist(), b['views'][0], strict=True)) for b in _train(data)]
  for index in range(6):
    first, second = by_index[0][index], by_index[1][index]
    assert (first != second).any()
  (batch,) = _train(data, stop=1, specs=same)
  (other,) = _train(data, stop=1, specs=same, seed=4)
  assert (batch['views'][0] != batch['views'][1]).any()
  assert (np.sort(batch['index']) == np.sort(other['index'])).all()
  first = batch['views'][0][np.argsort(batch['index'])]
  assert (first != other['views'][0][np.argsort(other['index'])]).any()


@pytest.mark.parametrize(
  'kind', ['files', pytest.param('small files', marks=pytest.mark.slow), 'jpeg']
)
def test_files_and_arrays_give_the_same_pictures(kind):
  """Decoded and cropped on the host, against arrays augmented inside of a jitted step."""
  side = 20 if kind == 'small files' else 72
  images = _images(12, side)
  contents = [_bytes(image) for image in images]
  if kind == 'jpeg':
    contents = [_bytes(image, 'JPEG', quality=95) for image in images]
    images = np.stack([image_file.decode(content) for content in contents])
  files = _files(contents, image_shape=(side, side) if kind == 'small files' else None)
  decoded = arrays.from_arrays(images)

  augment = jax.jit(device.make_augment(SPECS, seed=3, mean=(0, 0, 0), std=(1, 1, 1)))
  for a, b in zip(_train(files, stop=3), _train(decoded, stop=3), strict=True):
    np.testing.assert_array_equal(a['index'], b['index'])
    for left, right in zip(augment(a)['views'], augment(b)['views'], strict=True):
      off = np.abs(np.asarray(left) - np.asarray(right)) * 255
      # A level of the crop that rounds the other way is stretched by contrast and saturation.
      assert np.mean(off > 1.01) < 1e-3
      assert off.mean() < 0.01


def test_only_the_crop_is_decoded():
  boxes = np.array([[[10, 20, 30, 40], [25, 5, 10, 30]], [[0, 0, 90, 95], [0, 0, 5, 5]]], np.int32)
  part = decode._union(boxes, np.array([[100, 100], [100, 100]], np.int32))
  np.testing.assert_array_equal(part, [[6, 1, 38, 63], [0, 0, 100, 100]])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'batch_size': 23}, 'batch_size 23 is larger .* 22 examples'),
    ({'batch_size': 0}, 'batch_size is 0'),
    ({'processes': (0, 4)}, 'batch_size 6 is not a multiple of 4 processes: use 4 or 8'),
    ({'processes': (2, 2)}, 'process_index 2'),
    ({'start': 7}, 'start_step 7'),
    ({'specs': ()}, 'no view'),
  ],
)
def test_errors_come_before_any_work(options, message):
  with pytest.raises(ValueError, match=message):
    _train(_source('arrays'), **options)


# --- odd and damaged files ----------------------------------------------------------------------


def _mixed_folder(tmp_path):
  """Every format, odd sizes, and six files that cannot be read; names sort in this order."""
  images = _images(20, 40)
  exif = Image.Exif()
  exif[0x0112] = 6
  contents = {
    '00.jpg': _bytes(images[0], 'JPEG'),
    '01.png': _bytes(images[1]),
    '02.jpg': b'hello',
    '03.bmp': _bytes(images[3], 'BMP'),
    '04.gif': _bytes(images[4], 'GIF'),
    '05.webp': _bytes(images[5], 'WEBP'),
    '06.png': b'',
    '07.jpg': _bytes(images[7], 'JPEG', quality=95)[:-300],
    '08.png': _damaged_png(images[8]),
    '09.jpg': _bytes(images[9, :31], 'JPEG', exif=exif.tobytes()),
    '10.png': _bytes(images[10, :1]),
    '11.png': _bytes(images[11, :, :1]),
    '12.png': _bytes(images[12, :8, :8]),
    '13.jpg': _bytes(images[13, ..., 0], 'JPEG', progressive=True),
    '14.png': _bytes(np.dstack([images[14], images[15, ..., 0]])),
    '15.gif': _bytes(images[15], 'GIF')[:100],
  }
  cmyk = io.BytesIO()
  Image.fromarray(images[16]).convert('CMYK').save(cmyk, 'JPEG')
  contents['16.jpg'] = cmyk.getvalue()
  contents['17.jpg'] = contents['00.jpg'][:150]
  for name, content in contents.items():
    (tmp_path / name).write_bytes(content)
  return {'02.jpg', '06.png', '07.jpg', '08.png', '15.gif', '17.jpg'}


def _damaged_png(image):
  """A PNG whose pixels do not decompress: only the decoder finds out."""
  content = bytearray(_bytes(image))
  start = content.index(b'IDAT') + 60
  content[start : start + 40] = bytes(40)
  return bytes(content)


def test_damaged_files_are_replaced_and_listed(tmp_path):
  (tmp_path / 'images').mkdir()
  broken = _mixed_folder(tmp_path / 'images')
  log = source.UnreadableLog(tmp_path)
  data = folder.from_folder(tmp_path / 'images', 'train', unreadable=log)
  assert data.size == 18
  names = [data.locate(i)[-6:] for i in range(18)]
  whole = _train(data, stop=9)
  plan = order.Order(18, 6, 3)
  for step, batch in enumerate(whole):
    for wanted, found in zip(plan.at(step)[1], batch['index'], strict=True):
      expected = int(wanted)
      while names[expected].lstrip('/') in broken:
        expected = (expected + 1) % 18
      assert found == expected
  listed = {line.split('\t')[0][-6:] for line in (tmp_path / 'unreadable.txt').open()}
  assert listed == broken and len(log) == len(broken)
  # What a resumed run sees does not depend on what was met before.
  fresh = folder.from_folder(tmp_path / 'images', 'train')
  _assert_equal(_train(fresh, start=5, stop=9), whole[5:])
  _assert_equal(_train(fresh, start=8, stop=9, threads=1), whole[8:])
  # A replacement is the example itself, crops and all.
  for batch in whole:
    index, first = np.unique(batch['index'], return_index=True)
    for i, j in zip(index, first, strict=True):
      for k in np.flatnonzero(batch['index'] == i):
        np.testing.assert_array_equal(batch['views'][0][k], batch['views'][0][j])
  seen = np.concatenate([batch['index'] for batch in whole])
  assert len(set(seen.tolist())) == 12
  assert all(batch['views'][0].std((1, 2, 3)).min() > 0 for batch in whole)

  valid, index = [], []
  for batch in pipeline.eval_batches(data, image_size=16, batch_size=5):
    valid.append(batch['valid'])
    index.append(batch['index'])
    assert not batch['image'][~batch['valid']].any()
    assert (batch['index'][~batch['valid']] == -1).all()
  kept = np.concatenate(index)[np.concatenate(valid)]
  assert [names[i].lstrip('/') for i in kept] == [
    name.lstrip('/') for name in names if name.lstrip('/') not in broken
  ]


def test_damaged_small_files(tmp_path):
  images = _images(9)
  contents = [_bytes(image) for image in images]
  contents[4] = _damaged_png(images[4])
  contents[7] = _bytes(_images(1, 21)[0])
  data = _files(contents, image_shape=(20, 20))
  (batch,) = _train(data, stop=1, batch_size=9)
  assert sorted(batch['index']) == [0, 1, 2, 3, 5, 5, 6, 8, 8]
  assert data.unreadable.names.keys() == {'file 4', 'file 7'}
  assert 'is 21 x 21, not 20 x 20' in data.unreadable.names['file 7']


def test_nothing_readable_is_an_error():
  with pytest.raises(ValueError, match='8 examples of files in a row cannot be read; .*not an im'):
    _train(_files([b'text'] * 8))


# --- evaluation ---------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('count', [1, 2])
def test_evaluation_covers_every_example_once(kind, count):
  data = _source(kind, count=11)
  seen, steps = [], set()
  for p in range(count):
    batches = list(
      pipeline.eval_batches(data, image_size=20, batch_size=4, process_index=p, process_count=count)
    )
    steps.add(len(batches))
    for batch in batches:
      assert batch['image'].shape == (4 // count, 20, 20, 3) and batch['valid'].dtype == bool
      kept = batch['index'][batch['valid']]
      # An image that has the size already is not touched.
      np.testing.assert_array_equal(batch['image'][batch['valid']], _images(11)[kept])
      np.testing.assert_array_equal(batch['label'][batch['valid']], kept % 4)
      assert (batch['index'][~batch['valid']] == -1).all()
      assert (batch['label'][~batch['valid']] == -1).all()
      seen.extend(kept.tolist())
  assert steps == {3}
  assert sorted(seen) == list(range(11))


@pytest.mark.parametrize(
  ('kind', 'processes'),
  [
    pytest.param(kind, count, marks=() if (place + count) % 3 == 0 else pytest.mark.slow)
    for place, kind in enumerate(KINDS)
    for count in (1, 2, 3)
  ],
)
def test_an_odd_set_is_shared_out(kind, processes):
  """23 examples, 6 a step: each read by one process, in training at most once an epoch."""
  data = _source(kind, count=23)
  readers = {'training': [], 'evaluation': []}
  for p in range(processes):
    for what, own in readers.items():
      read = []

      def fetch(rows, names, read=read):
        read.extend(int(row) for row in rows)
        return data.fetch(rows, names)

      counting = dataclasses.replace(data, fetch=fetch)
      if what == 'training':
        _train(counting, stop=3, processes=(p, processes))
      else:
        shared = {'batch_size': 6, 'process_index': p, 'process_count': processes}
        list(pipeline.eval_batches(counting, image_size=20, **shared))
      own.append(read)
  assert [len(read) for read in readers['training']] == [18 // processes] * processes
  assert len(set(sum(readers['training'], []))) == 18
  assert sorted(sum(readers['evaluation'], [])) == list(range(23))
  for own in readers.values():
    assert max(map(len, own)) - min(map(len, own)) <= 6 // processes


def test_a_process_may_have_nothing_but_padding():
  for kind in KINDS:
    (batch,) = pipeline.eval_batches(
      _source(kind, count=2), image_size=20, batch_size=4, process_index=1, process_count=2
    )
    assert not batch['valid'].any() and batch['image'].shape == (2, 20, 20, 3)


def test_evaluation_crop():
  """The middle 7/8 of the shorter side, whoever decodes it."""
  ramp = np.zeros((64, 96, 3), np.uint8)
  ramp[..., 0] = np.arange(96) * 2
  ramp[..., 1] = np.arange(64)[:, None] * 3
  found = [
    next(pipeline.eval_batches(data, image_size=28, batch_size=1))['image'][0]
    for data in (
      arrays.from_arrays(ramp[None]),
      _files([_bytes(ramp)]),
      _files([_bytes(ramp, 'BMP')]),
    )
  ]
  # 56 pixels from column 20 and from row 4, at half the size: the mean of pairs.
  np.testing.assert_allclose(found[0][0, :, 0], (np.arange(28) * 2 + 20.5) * 2, atol=1)
  np.testing.assert_allclose(found[0][:, 0, 1], (np.arange(28) * 2 + 4.5) * 3, atol=1)
  for other in found[1:]:
    np.testing.assert_allclose(other.astype(int), found[0], atol=1)


def test_evaluation_errors():
  with pytest.raises(ValueError, match='not a multiple of 2'):
    pipeline.eval_batches(
      _source('arrays'), image_size=8, batch_size=3, process_index=0, process_count=2
    )
  with pytest.raises(ValueError, match='image_size is 0'):
    pipeline.eval_batches(_source('arrays'), image_size=0, batch_size=3)


# --- threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_close_ends_the_threads(kind):
  before = {thread.name for thread in threading.enumerate()}
  batches = pipeline.train_batches(
    _source(kind), SPECS, order=order.Order(22, 6, 0), seed=0, start_step=0, stop_step=10**9
  )
  next(batches)
  assert len({t.name for t in threading.enumerate()} - before) <= 2
  batches.close()
  assert {thread.name for thread in threading.enumerate()} <= before
  with pytest.raises(StopIteration):
    next(batches)


def test_a_step_far_away_is_as_near_as_the_first():
  data = _source('arrays')
  far = 10**9
  (batch,) = _train(data, start=far, stop=far + 1)
  np.testing.assert_array_equal(batch['index'], order.Order(22, 6, 3).at(far)[1])


def test_work_ahead_is_bounded():
  read = []
  inner = _source('arrays')

  def fetch(rows, names):
    read.append(len(rows))
    return inner.fetch(rows, names)

  counted = dataclasses.replace(inner, fetch=fetch)
  batches = pipeline.train_batches(
    counted, SPECS, order=order.Order(22, 6, 0), seed=0, start_step=0, stop_step=100, threads=1
  )
  for _ in range(3):
    next(batches)
  batches.close()
  assert 3 <= len(read) <= 6
