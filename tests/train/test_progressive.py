"""Runs that begin with smaller views: their stages, and that nothing else depends on them."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
import pytest

from byoljax import config as config_lib
from byoljax.data.augment.views import ViewSpec
from byoljax.data.sources import arrays, datasets
from byoljax.devices import mapping
from byoljax.length import Length, make_length
from byoljax.main import main
from byoljax.method import Aux, Method, Refresh, default_groups, keep
from byoljax.models.net import Statistics
from byoljax.plan import aot
from byoljax.report import sheet
from byoljax.train import assemble, loop, progressive
from byoljax.train.run import DataOptions, make_run
from byoljax.workdir import metrics
from byoljax.workdir.clock import Clock
from tests.paths import ROOT
from tests.train.test_loop import assert_same_state

SPECS = tuple(
  ViewSpec(size=size, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0) for size in (24, 16)
)
EARLIER = ((3, progressive.scaled(SPECS, 0.5)),)


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def of_colors(setting, refresh=None):
  """Two views of an image shall have alike mean colors; tells the views' sizes."""
  del setting

  def features(params, view):
    return jnp.tanh(jnp.mean(view, axis=(1, 2)) @ params['encoder']['kernel'])

  def init(key, batch):
    channels = batch['views'][0].shape[-1]
    kernel = jax.random.normal(key, (channels, 4), jnp.float32)
    return {'encoder': {'kernel': kernel}}, Statistics({'seen': jnp.zeros(())})

  def loss(params, state, batch, key, step):
    first, second = (features(params, view) for view in batch['views'])
    noise = jax.random.normal(jax.random.fold_in(key, step), (4,))
    value = jnp.mean(jnp.square(first - second + 0.1 * noise[None])) - jnp.mean(jnp.abs(first))
    sizes = {f'size{i}': jnp.float32(view.shape[1]) for i, view in enumerate(batch['views'])}
    state = Statistics({'seen': 0.9 * state.bn['seen'] + sizes['size0']})
    return value, Aux(state, sizes, first)

  def embed(params, state, images):
    del state
    return {'embedding': features(params, images)}

  return Method(init, loss, keep, embed, default_groups, refresh=refresh)


@functools.cache
def images():
  return arrays.from_arrays(
    np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8), np.arange(24) % 3
  )


def made(earlier=EARLIER, accumulate=1, method=of_colors, **options):
  return make_run(
    images(), SPECS, method, optax.sgd(0.1, momentum=0.9),
    make_length('5 steps', batch_size=8, num_examples=24),
    data=DataOptions(mean=(0.5,) * 3, std=(0.25,) * 3, resident='off'),
    earlier=earlier, accumulate=accumulate, **options,
  )  # fmt: skip


def trained(run, state=None, start=0):
  """{steps done: (state, metrics)} on the host."""
  state = run.layout.place(run.create() if state is None else state)
  steps = loop.training(run, state, start, Clock(5, 8, start_step=start))
  with contextlib.closing(steps):
    return {done: mapping.fetch((state, values)) for done, state, values in steps}


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@functools.cache
def accumulated():
  run = made(accumulate=2)
  return run, trained(run)


def test_a_step_sees_the_views_of_its_stage_and_a_resumed_run_is_the_same_one():
  """Resumed within a stage, at a boundary and behind it, with micro-batches: bit for bit."""
  run, whole = accumulated()
  sizes = [(int(values['size0']), int(values['size1'])) for _, values in whole.values()]
  assert sizes == [(12, 8)] * 3 + [(24, 16)] * 2
  for start in (2, 3, 4):
    again = trained(run, whole[start][0], start)
    assert list(again) == list(range(start + 1, 6))
    for done, found in again.items():
      assert_equal(found, whole[done])


def test_the_same_on_one_device():
  """The last step on small views, from the state of four; 2e-5 for sums in another order."""
  run, whole = accumulated()
  alone = functools.partial(mapping.spmd_shard_map, mesh=aot.mesh_of(jax.devices()[:1]))
  one = made(accumulate=2, num_devices=1, mapped=alone)
  with contextlib.closing(loop.batches(run, 2)) as batches:
    found = one.at(2).step(whole[2][0], dict(next(batches)))
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(whole[3]), strict=True)
  for a, b in pairs:
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_data_on_the_devices_go_through_the_same_stages(monkeypatch):
  """Calls of many steps end with a stage, and each stage is timed anew."""
  monkeypatch.setattr(loop, '_steps_at_once', lambda seconds: 6)
  run, calls = made(earlier=((6, SPECS), (16, SPECS))), []

  def many_steps(name):
    def advance(state, data, rows, count):
      calls.append((name, int(count)))
      return state, {}

    return advance

  stages = [stage._replace(many_steps=many_steps(n)) for n, stage in enumerate(run.earlier)]
  fake = run._replace(
    many_steps=many_steps('last'),
    earlier=tuple(stages),
    data=run.data._replace(resident='on'),
    length=Length(8, 3, 24),
  )
  ends = [done for done, _, _ in loop.training(fake, None, 0, Clock(24, 8))]
  assert ends == [1, 2, 6, 7, 8, 14, 16, 17, 18, 24]
  assert calls == [(0, 1), (0, 1), (0, 4), (1, 1), (1, 1), (1, 6), (1, 2),
                   ('last', 1), ('last', 1), ('last', 6)]  # fmt: skip


def test_rates_leave_out_what_a_stage_compiles(monkeypatch):
  """A clock that counts calls: the first step of a stage lasts 100 of its seconds."""
  run, now = made(earlier=((2, SPECS),)), [0.0]

  def step(state, batch):
    now[0] += 100.0 if run_step.pop(0) else 1.0
    return state, {}

  run_step = [True, False, True, False, False]
  fake = run._replace(step=step, earlier=(run.earlier[0]._replace(step=step),))
  clock = Clock(5, 8, time=lambda: now[0])
  list(loop.training(fake, None, 0, clock))
  assert clock.read()['time/img_per_s_run'] == pytest.approx(4 * 8 / 3)


def test_rare_work_sees_the_views_size(monkeypatch):
  asked = []
  monkeypatch.setattr(
    loop.pipeline, 'eval_batches', lambda source, **how: asked.append(how['image_size'])
  )

  def apply(params, method_state, features, key, step):
    with contextlib.suppress(TypeError):
      features()
    return params, method_state

  run = made(method=functools.partial(of_colors, refresh=Refresh(3, apply)))
  state = run.layout.place(run.create())
  for step in (0, 3, 6):
    loop.refreshed(run, state, step)
  assert asked == [12, 24, 24]


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    ('0.5', "'0.5' does not say how large views are until when"),
    ('0.5 until 40 %, until 70 %', "'until 70 %' does not say"),
    ('1.0 until 40 %', 'a share of their size below 1'),
    ('0.5 until lunch', "train.progressive='lunch' is not a duration"),
    ('0.5 until 70 %, 0.75 until 40 %', 'ends with step 40, but it must be after step 70'),
    ('0.5 until 100 %', 'and before the end of the run, step 100'),
  ],
)
def test_what_stages_cannot_be(text, sentence):
  with pytest.raises(ValueError, match='train.progressive') as error:
    progressive.parse(text, Length(64, 10, 100))
  assert sentence in str(error.value)


def test_stages_of_a_text():
  length = Length(64, 10, 100)
  assert progressive.parse(' ', length) == ()
  assert progressive.parse('0.5 until 20 %,0.75 until 3 epochs', length) == ((0.5, 20), (0.75, 30))
  short = Length(64, 10, 3)
  assert progressive.parse('0.5 until 10 %, 0.75 until 40 %', short) == ((0.75, 1),), 'half a step'


def test_sizes_are_multiples_of_a_patch():
  """Half of 96 is 48, and of 40 it is 20, which patches of 16 make 16; a zoom follows."""
  specs = (ViewSpec(size=96, zoom=(0.5, 1.0)), ViewSpec(size=40))
  first, second = progressive.scaled(specs, 0.5, unit=16)
  assert (first.size, second.size) == (48, 16) and first.zoom == (0.25, 0.5)
  assert progressive.sizes([first, second, first]) == '48 and 16'


def recipe(name, *overrides):
  return config_lib.load(f'configs/{name}.py:smoke', [('data.name', 'npz'), *overrides])


@pytest.mark.parametrize(
  ('name', 'overrides', 'sentence'),
  [
    (
      'byol',
      [('encoder.name', 'pixels')],
      'probe/linear1/kernel would have the shape [768, 3], and has [3072, 3] with',
    ),
    ('jigsaw', [], 'views of 16 pixels do not fit this method: '),
    ('byol', [('views.view1.size', '12')], "train.progressive='0.5 until 50 %': size is 6"),
  ],
)
def test_what_depends_on_the_size_is_refused_before_anything_is_computed(
  npz, name, overrides, sentence
):
  config = recipe(name, ('train.progressive', '0.5 until 50 %'), *overrides)
  with pytest.raises(config_lib.ConfigError) as error:
    assemble.from_config(config, datasets.load('npz', 'pretrain', data_dir=str(npz)))
  assert sentence in str(error.value) and '\n' not in str(error.value)


def test_the_sheet_shows_every_stage(tiny, tmp_path, monkeypatch):
  sheets = []
  monkeypatch.setattr(
    sheet, 'write', lambda path, images, views, **how: sheets.append((views, how))
  )
  progress = '--config.train.progressive=0.67 until 40 %'
  assert main([*tiny, progress, f'--workdir={tmp_path}', '--config.task=views']) == 0
  ((views, how),) = sheets
  assert how['names'] == ['view1, 8 px', 'view2, 8 px', 'view1, 12 px', 'view2, 12 px']
  assert [view[0].shape[0] for view in views] == [8, 8, 12, 12]


@pytest.mark.slow
@pytest.mark.usefixtures('no_pictures')
def test_a_run_of_byol_that_crashed_goes_on_over_the_boundary(tiny, tmp_path, monkeypatch, capsys):
  """Stages end with steps 4 and 6; what was done after step 3 is lost and made again."""
  arguments = [*tiny, '--config.train.progressive=0.67 until 40 %, 0.85 until 6 steps']
  arguments += ['--config.checkpoint.every=3 steps']
  assert main([*arguments, f'--workdir={tmp_path / "whole"}']) == 0
  assert 'views of 8 px up to step 4, 10 px up to step 6, 12 px up to the end' in (
    capsys.readouterr().out
  )
  write = metrics.Writer.write

  def write_or_crash(self, step, row):
    write(self, step, row)
    if step == 5:
      raise RuntimeError('the machine is gone')

  with monkeypatch.context() as patch:
    patch.setattr(metrics.Writer, 'write', write_or_crash)
    with pytest.raises(RuntimeError, match='machine is gone'):
      main([*arguments, f'--workdir={tmp_path / "cut"}'])
  assert main([*arguments, f'--workdir={tmp_path / "cut"}']) == 0
  assert_same_state(tmp_path / 'whole', tmp_path / 'cut', 10)
  rows = metrics.read(tmp_path / 'cut')
  assert [row['view_size'] for row in rows] == [8] * 4 + [10] * 2 + [12] * 4


@pytest.mark.slow
def test_files_are_decoded_at_the_size_of_the_stage(tmp_path):
  for name in range(8):
    pixels = np.random.default_rng(name).integers(0, 256, (20 + name, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'{name}.png')
  source = datasets.load('folder', 'pretrain', data_dir=str(tmp_path))
  run = make_run(
    source, SPECS, of_colors, optax.sgd(0.1), make_length('4 steps', batch_size=8, num_examples=8),
    data=DataOptions(mean=(0.5,) * 3, std=(0.25,) * 3), earlier=EARLIER,
  )  # fmt: skip
  with contextlib.closing(loop.batches(run, 1)) as batches:
    found = [[view.shape[1] for view in batch['views']] for batch in batches]
  assert found == [[12, 8], [12, 8], [24, 16]]


def test_a_run_says_how_large_its_views_are():
  views = [ViewSpec(size=24), ViewSpec(size=16)]
  stages = [(1000, progressive.scaled(views, 0.5)), (2000, views)]
  told = '12 and 8 px up to step 1,000, 24 and 16 px up to the end'
  assert progressive.described(stages) == told
