"""Data that live on the accelerator or in memory: the same examples, pictures and training."""

import dataclasses
import io
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.data.augment import device, views
from byoljax.data.batches import pipeline, resident
from byoljax.data.batches.order import Order
from byoljax.data.sources import arrays, datasets, memory, shapes
from byoljax.data.sources import source as source_lib
from byoljax.devices import collectives, mapping, stop
from byoljax.encoders.encoder import Preprocessing, random_encoder
from byoljax.method import Refresh
from byoljax.protocols import extraction, linear
from byoljax.train import assemble, loop
from byoljax.train.record import Cadence, Logging
from byoljax.workdir import checkpoint, clock, metrics
from configs import base

MEAN = STD = (0.5, 0.5, 0.5)


def png(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'PNG')
  return file.getvalue()


def some_arrays(count=20, height=12, width=12):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
  return images, rng.integers(0, 3, count).astype(np.int32)


def files_of(images, labels, broken=(), **changes):
  """A source of PNG files as a TFDS set gives them, and how often each was read."""
  files = np.array([png(image) for image in images], object)
  for row in broken:
    files[row] = b'no picture'
  reads = np.zeros(len(images), int)

  def fetch(rows, names):
    reads[rows] += 1
    return tuple({'image': files, 'label': labels}[name][rows] for name in names)

  fields = {
    'name': 'files', 'size': len(images), 'num_classes': 3, 'class_names': ('a', 'b', 'c'),
    'encoded': True, 'image_shape': images.shape[1:3], 'fingerprint': f'{images.sum()}{broken}',
    'fetch': fetch, 'fetch_labels': lambda: labels, 'locate': lambda row: f'files[{row}]',
  }  # fmt: skip
  return source_lib.Source(**(fields | changes)), reads


# --- in memory -----------------------------------------------------------------------------------


def test_a_set_is_decoded_once_when_it_is_first_needed():
  images, labels = some_arrays()
  files, reads = files_of(images, labels)
  kept = memory.keep(files)
  assert reads.sum() == 0, 'opening a set must cost nothing'
  part = kept.subset(np.array([7, 3, 3]))
  for source in (kept, part, kept, memory.keep(files)):
    opened = source.opened()
    assert not opened.encoded
    assert opened.fingerprint == source.fingerprint and opened.name == source.name
    assert (opened.num_classes, opened.class_names) == (3, ('a', 'b', 'c'))
  assert (reads == 1).all()
  np.testing.assert_array_equal(kept.opened().read(np.arange(20))[0], images)
  np.testing.assert_array_equal(part.opened().read(np.arange(3))[0], images[[7, 3, 3]])
  np.testing.assert_array_equal(part.opened().read(np.arange(3))[1], labels[[7, 3, 3]])
  np.testing.assert_array_equal(part.labels, labels[[7, 3, 3]])


def test_what_cannot_be_kept_is_read_as_before():
  images, labels = some_arrays()
  files, _ = files_of(images, labels)
  assert memory.decoded_bytes(files) == images.nbytes
  assert memory.keep(files, images.nbytes).decode is not None
  assert memory.keep(files, images.nbytes - 1) is files
  various = dataclasses.replace(files, image_shape=None)
  assert memory.keep(various) is various
  plain = arrays.from_arrays(images)
  assert memory.keep(plain) is plain and plain.opened() is plain
  damaged, _ = files_of(images, labels, broken=(4,))
  opened = memory.keep(damaged).opened()
  assert opened.encoded and opened is damaged, 'an unreadable image is replaced by the batches'
  wrong, _ = files_of(images, labels, image_shape=(12, 13), fingerprint='wrong')
  assert memory.keep(wrong).opened().encoded


def test_kept_images_give_the_pictures_of_the_files():
  pytest.importorskip('tensorflow')
  images, labels = some_arrays(height=14, width=18)
  files, reads = files_of(images, labels, fingerprint='pictures')
  plain = {'jitter_prob': 0.0, 'gray_prob': 0.0, 'blur_prob': 0.0}
  specs = (views.ViewSpec(size=8, **plain), views.ViewSpec(size=12, solarize_prob=0.5, **plain))
  ask = {'order': Order(files.size, 8, 3), 'seed': 3, 'start_step': 1, 'stop_step': 4}
  augment = jax.jit(device.make_augment(specs, seed=3, mean=(0,) * 3, std=(1,) * 3))
  for a, b in zip(
    pipeline.train_batches(files, specs, **ask),
    pipeline.train_batches(memory.keep(files), specs, **ask),
    strict=True,
  ):
    np.testing.assert_array_equal(a['index'], b['index'])
    np.testing.assert_array_equal(a['label'], b['label'])
    for x, y in zip(augment(a)['views'], augment(b)['views'], strict=True):
      assert np.abs(np.asarray(x) - np.asarray(y)).max() < 1.01 / 255
  ask = {'image_size': 10, 'batch_size': 8}
  for a, b in zip(
    pipeline.eval_batches(files, **ask), pipeline.eval_batches(memory.keep(files), **ask),
    strict=True,
  ):  # fmt: skip
    assert np.abs(a['image'].astype(int) - b['image']).max() <= 1
    np.testing.assert_array_equal(a['valid'], b['valid'])


def test_the_built_in_set_is_the_one_that_tfds_reads(tmp_path, monkeypatch):
  """Same examples, name and fingerprint: a run goes on whichever way it reads them."""
  pytest.importorskip('tensorflow_datasets')
  from byoljax.data.sources import tfds_source

  monkeypatch.setattr(shapes, 'SPLITS', {'train': 20, 'test': 10})
  ours = datasets.load('shapes', 'train', data_dir=tmp_path)
  theirs = tfds_source.from_tfds(shapes.prepare(str(tmp_path)), 'train')
  for field in ('name', 'size', 'num_classes', 'class_names', 'image_shape', 'fingerprint'):
    assert getattr(ours, field) == getattr(theirs, field), field
  assert theirs.encoded and not ours.encoded
  rows = np.array([5, 0, 19])
  kept = memory.keep(theirs).opened()
  for a, b in zip(ours.read(rows), kept.read(rows), strict=True):
    np.testing.assert_array_equal(a, b)


# --- on the devices ------------------------------------------------------------------------------


@pytest.fixture
def loops(monkeypatch):
  """Many steps per call on this CPU as well, where that is right but slow."""
  monkeypatch.setattr(mapping, 'must_unroll', lambda: False)


def test_pictures_are_those_of_the_pipeline(loops):
  """Every step of a call that crosses an epoch: same examples, same augmented views."""
  images, labels = some_arrays(count=21, height=14, width=18)
  data = arrays.from_arrays(images, labels)
  specs = (views.ViewSpec(size=8), views.ViewSpec(size=12, jitter_prob=0, solarize_prob=0.5))
  plan = Order(21, 4, seed=3)
  augment = device.make_augment(specs, seed=3, mean=MEAN, std=STD)
  batches = pipeline.train_batches(data, specs, order=plan, seed=3, start_step=3, stop_step=8)

  def step(state, batch):
    number, seen = state
    made = augment(batch, number)
    return (number + 1, seen + 1), made | {'seen': seen}

  many = jax.jit(resident.make_steps(step, data))
  placed = resident.place(data)
  assert placed['image'].dtype == jnp.uint8 and placed['image'].shape == (21, 14 * 18 * 3)
  expected = [jax.jit(augment)(batch, number) for number, batch in enumerate(batches, 3)]
  for count in (1, 2, 3, 5):
    order = np.concatenate(resident.examples(plan, 3, count), axis=-1)
    (number, _), got = many((jnp.int32(3), jnp.int32(0)), placed, order, np.int32(count))
    assert int(number) == 3 + count and int(got['seen']) == count - 1
    for name in ('index', 'epoch', 'label'):
      np.testing.assert_array_equal(got[name], expected[count - 1][name])
    for x, y in zip(got['views'], expected[count - 1]['views'], strict=True):
      np.testing.assert_allclose(x, y, atol=2e-5)
  assert many._cache_size() == 1, 'every count must run the same program'


def test_devices_get_the_rows_that_shard_gives_them():
  plan = Order(40, 8, seed=1)
  rows = resident.examples(plan, 4, 3)
  devices = jax.local_device_count()
  assert rows.shape == (devices, 2, resident.MAX_STEPS, 8 // devices) and rows.dtype == np.int32
  for step in range(3):
    epoch, index = plan.at(4 + step)
    want = mapping.shard({'epoch': epoch, 'index': index})
    np.testing.assert_array_equal(rows[:, 0, step], want['epoch'])
    np.testing.assert_array_equal(rows[:, 1, step], want['index'])
  np.testing.assert_array_equal(rows[:, :, 3:], 0)
  two = [resident.examples(Order(40, 8, 1, p, 2), 4, 3)[:, 1, :3] for p in range(2)]
  whole = np.concatenate([part.swapaxes(0, 1).reshape(3, -1) for part in two], 1)
  np.testing.assert_array_equal(whole, rows[:, 1, :3].swapaxes(0, 1).reshape(3, -1))


def test_when_data_live_on_the_devices(monkeypatch):
  images, labels = some_arrays()
  small, (files, _) = arrays.from_arrays(images), files_of(images, labels)
  assert not resident.is_chosen('auto', small), 'a CPU has nothing to save'
  monkeypatch.setattr(resident, '_room', lambda: images.nbytes)
  assert resident.is_chosen('auto', small)
  assert not resident.is_chosen('auto', files)
  assert not resident.is_chosen('off', small)
  monkeypatch.setattr(resident, '_room', lambda: images.nbytes - 1)
  assert not resident.is_chosen('auto', small)
  assert resident.is_chosen('on', small)


@pytest.mark.parametrize(
  'mode, changes, message',
  [
    ('yes', {}, "data.resident='yes' must be one of auto, on, off"),
    ('on', {'image_shape': None}, 'images of one size.*data.resident=auto'),
    ('on', {}, "do not fit into this computer's memory"),
  ],
)
def test_mistakes_are_explained(mode, changes, message):
  files, _ = files_of(*some_arrays())
  with pytest.raises(ValueError, match=message):
    resident.check(mode, dataclasses.replace(files, **changes))


# --- the loop ------------------------------------------------------------------------------------


def assembled(npz, *, mode, length='10 steps', log='4 steps'):
  """A run that compiles fast, with an optimizer under which rounding does not grow."""
  fields = {
    'data.name': 'npz', 'data.dir': str(npz), 'data.resident': mode, 'train.length': length,
    'views.view1.size': '12', 'views.view2.size': '12', 'views.view1.jitter_prob': '0',
    'views.view2.jitter_prob': '0', 'encoder.name': 'pixels', 'optim.name': 'lars',
    'optim.base_lr': '1.0', 'optim.weight_decay': '1e-5', 'method.projector': '(16,8)',
    'method.predictor': '(16,8)', 'log.every': log, 'log.tensorboard': 'false',
  }  # fmt: skip
  config = config_lib.load(f'{cli.recipes_directory()}/byol.py:smoke', list(fields.items()))
  return assemble.from_config(config, datasets.load('npz', 'pretrain', data_dir=str(npz)))


def rows_of(workdir):
  """What was measured, without times."""
  return [
    {name: value for name, value in row.items() if not name.startswith('time/')}
    for row in metrics.read(workdir)
  ]


def values(state):
  return jax.tree.leaves(mapping.fetch(state))


@pytest.fixture(scope='module')
def streamed(npz, tmp_path_factory):
  """The run with batches from the host."""
  workdir = tmp_path_factory.mktemp('streamed')
  state = loop.train(assembled(npz, mode='off'), workdir, Cadence(save=5))
  return values(state), rows_of(workdir)


@pytest.fixture
def compiled():
  """Names of the programs that have been compiled since, as they come."""
  names = []

  def listen(event, seconds, **fields):
    del seconds
    if event == '/jax/core/compile/backend_compile_duration':
      names.append(str(fields.get('fun_name')))

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield names
  jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
def test_training_is_the_same_without_loops(npz, tmp_path, streamed):
  """A step per call: the same program but for where the rows come from."""
  state = loop.train(assembled(npz, mode='on'), tmp_path, Cadence(save=5))
  for a, b in zip(values(state), streamed[0], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_training_is_the_same_in_loops_and_resumes_bit_exactly(
  npz, tmp_path, streamed, loops, compiled
):
  """Many steps per call, stopped in the middle by a signal, resumed: one run, one program."""
  run = assembled(npz, mode='on')
  whole = loop.train(run, tmp_path / 'whole', Cadence(save=5))
  for a, b in zip(values(whole), streamed[0], strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
  assert [row['step'] for row in rows_of(tmp_path / 'whole')] == [4, 5, 8, 10]
  for a, b in zip(rows_of(tmp_path / 'whole'), streamed[1], strict=True):
    assert a.keys() == b.keys()
    assert a == pytest.approx(b, rel=1e-3, abs=1e-3)

  real, calls = run.many_steps, []

  def signalled(state, data, index, count):
    calls.append(int(count))
    if sum(calls) == 4:
      os.kill(os.getpid(), signal.SIGTERM)
    return real(state, data, index, count)

  first = run._replace(many_steps=signalled)
  with pytest.raises(stop.Stopped):
    loop.train(first, tmp_path / 'cut', Cadence(save=5))
  assert sum(calls) == 4
  assert checkpoint.Checkpoints(tmp_path / 'cut').steps() == [4]
  # Resumed with calls of other lengths.
  again = loop.train(run, tmp_path / 'cut', Cadence(save=3))
  for a, b in zip(values(again), values(whole), strict=True):
    np.testing.assert_array_equal(a, b)
  # `create` once for all attempts, and one mapped program for every number of steps.
  assert sorted(compiled) == ['jit(_fun)', 'jit(create)']


def test_what_travels_between_host_and_devices(npz, tmp_path, loops, monkeypatch):
  """To the devices only which examples a call consists of; back only what is logged."""
  monkeypatch.setattr(loop, '_steps_at_once', lambda seconds: 6)
  run, fetched, sent = assembled(npz, mode='on'), [], []

  def guarded(state, data, index, count):
    sent.append(index.nbytes + count.nbytes)
    devices = jax.sharding.Mesh(np.array(jax.local_devices()), (collectives.AXIS,))
    by_device = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec(collectives.AXIS))
    index, count = jax.device_put(index, by_device), mapping.replicate(count)
    with jax.transfer_guard_host_to_device('disallow'):
      return run.many_steps(state, data, index, count)

  fetch = mapping.fetch
  monkeypatch.setattr(mapping, 'fetch', lambda tree: fetched.append(tree) or fetch(tree))
  monkeypatch.setattr(checkpoint.Checkpoints, 'save', lambda *unused: None)
  loop.train(run._replace(many_steps=guarded), tmp_path, Cadence())
  assert sent == [2 * 4 * 16 * resident.MAX_STEPS + 4] * 5, 'steps 1, 2, 3-4, 5-8 and 9-10'
  assert [set(tree) >= {'loss', 'grad_norm'} for tree in fetched] == [True] * 3


def test_calls_end_where_something_is_due(npz, loops, monkeypatch):
  """Counts of steps per call: the first step, the timed second, then up to what is due."""
  monkeypatch.setattr(loop, '_steps_at_once', lambda seconds: 6)
  run = assembled(npz, mode='on', length='40 steps')
  counts, places = [], []

  def many_steps(state, data, index, count):
    rows = [Order(80, 16, 0).at(sum(counts) + step)[1] for step in range(count)]
    got = np.asarray(index)[:, 1, :count].swapaxes(0, 1).reshape(int(count), -1)
    np.testing.assert_array_equal(got, rows)
    counts.append(int(count))
    return state, {}

  def refreshed(run, state, step):
    places.append(step)
    return state

  monkeypatch.setattr(loop, 'refreshed', refreshed)
  fake = run._replace(
    many_steps=many_steps,
    method=run.method._replace(refresh=Refresh(every=15, apply=lambda *unused: None)),
  )
  steps = loop.training(fake, None, 0, clock.Clock(40, 16), lambda done: (done // 10 + 1) * 10)
  ends = [done for done, _, _ in steps]
  assert ends == [1, 2, 8, 10, 15, 20, 26, 30, 36, 40]
  assert places == [0, 15, 30] and sum(counts) == 40


def test_few_steps_wait_in_the_devices_queue(npz):
  """With batches from the host: a stop request would wait for all that have been dispatched."""
  run, dispatched, awaited = assembled(npz, mode='off', length='9 steps'), [], []

  class Loss:
    def __init__(self, number):
      self.number = number
      dispatched.append(number)

    def block_until_ready(self):
      awaited.append(self.number)
      return self

  fake = run._replace(step=lambda state, batch: (state + 1, {'loss': Loss(state)}))
  ahead = [done - len(awaited) for done, _, _ in loop.training(fake, 0, 0, clock.Clock(9, 16))]
  assert dispatched == list(range(9)) and awaited == list(range(6))
  assert ahead == [1, 2, 3, 3, 3, 3, 3, 3, 3]


@pytest.mark.slow
def test_a_probe_can_live_on_the_devices(npz, loops):
  """The linear evaluation goes through the same loop."""
  encoder = random_encoder({'name': 'pixels', 'dtype': 'float32'}, Preprocessing(MEAN, STD, 12), 0)
  splits = [datasets.load('npz', split, data_dir=str(npz)) for split in ('train', 'test')]
  protocol = linear.LinearProtocol(
    **base.linear_protocol(
      length='3 epochs', batch_size=16, base_lr=(0.1, 0.3), held_out=0.2, crop_scale=(0.5, 1.0)
    )
  )
  found = [
    linear.linear_result(
      encoder,
      extraction.EvalData(*splits, 12, MEAN, STD, batch_size=16, resident=mode),
      protocol,
      logging=Logging(),
    )
    for mode in ('off', 'on')
  ]
  assert found[0]['top1'] > 0.6, 'colors are linearly separable'
  assert found[1]['top1'] == pytest.approx(found[0]['top1'], abs=1 / 24 + 1e-6)
