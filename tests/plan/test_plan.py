"""Plans: the counter, the parser of compiled text, arithmetic, messages; then the compilers."""

import functools
import importlib.util
import json
import math
import types

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np
import pytest

from byoljax import cli
from byoljax import config as config_lib
from byoljax.config import ConfigError
from byoljax.devices import collectives, mapping
from byoljax.plan import (
  aot,
  command,
  estimate,
  fitting,
  flops,
  hardware,
  report,
  summary,
  target,
  traffic,
)
from byoljax.train import assemble
from tests.paths import ROOT
from tests.said import one_sentence

TPU = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='the TPU compiler (libtpu) is not installed'
)
CUDA = pytest.mark.skipif(aot.cuda_version() is None, reason='no CUDA compiler is installed')


def shaped(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


# --- counting work ---------------------------------------------------------------------------


def test_matrix_products_are_two_operations_per_multiply_add():
  work = flops.count(jnp.matmul, shaped(5, 7), shaped(7, 3))
  assert work.flops == {'float32': 2 * 5 * 7 * 3} and work.collectives == {}
  batched = flops.count(
    lambda a, b: jnp.einsum('bij,bjk->bik', a, b), shaped(4, 5, 7), shaped(4, 7, 3)
  )
  assert batched.total == 4 * 2 * 5 * 7 * 3


def test_dtypes_are_kept_apart():
  def both(a, b):
    return jnp.dot(a, a), jnp.dot(b, b)

  work = flops.count(both, shaped(4, 4), shaped(2, 2, dtype=jnp.bfloat16))
  assert work.flops == {'float32': 128, 'bfloat16': 16}


def conv(x, w, *, stride=1, padding='VALID', groups=1, lhs=(1, 1), rhs=(1, 1)):
  return lax.conv_general_dilated(
    x, w, (stride, stride), padding, lhs, rhs, ('NHWC', 'HWIO', 'NHWC'), feature_group_count=groups
  )


def test_convolutions_by_hand():
  # 2 images, 6x6 -> 4x4, 3x3 kernel, 4 -> 5 features: no padding, every product counts.
  work = flops.count(conv, shaped(2, 6, 6, 4), shaped(3, 3, 4, 5))
  assert work.total == 2 * (2 * 4 * 4 * 5) * (3 * 3 * 4)
  # 'SAME': of 6 positions x 3 taps per axis the two outermost taps meet padding: 16 are left.
  same = flops.count(
    lambda x, w: conv(x, w, padding='SAME'), shaped(2, 6, 6, 4), shaped(3, 3, 4, 5)
  )
  assert same.total == 2 * 2 * 5 * 4 * 16 * 16
  # Depth-wise: one input feature per output feature.
  grouped = flops.count(lambda x, w: conv(x, w, groups=4), shaped(1, 6, 6, 4), shaped(3, 3, 1, 4))
  assert grouped.total == 2 * 4 * 4 * 4 * 9
  # Kernel dilated by 2: 3 taps span 5, so 6 -> 2 positions, all taps inside.
  dilated = flops.count(lambda x, w: conv(x, w, rhs=(2, 2)), shaped(1, 6, 6, 1), shaped(3, 3, 1, 1))
  assert dilated.total == 2 * 2 * 2 * 9


def test_gradients_of_a_strided_convolution_cost_what_the_forward_pass_does():
  """Each product of the forward pass appears once per gradient; dilation's zeros do not."""
  x, w = shaped(2, 9, 9, 4), shaped(3, 3, 4, 8)

  def forward(x, w):
    return jnp.sum(conv(x, w, stride=2) ** 2)

  one = flops.count(forward, x, w).total
  assert flops.count(jax.grad(forward, argnums=1), x, w).total == 2 * one
  assert flops.count(jax.grad(forward, argnums=(0, 1)), x, w).total == 3 * one


@pytest.mark.parametrize('padding', ['VALID', 'SAME'])
def test_the_count_is_xlas(padding):
  """XLA's figure for a lone product has no element-wise work in it."""

  def strided(x, w):
    return conv(x, w, stride=2, padding=padding)

  x, w = shaped(4, 15, 15, 8), shaped(5, 5, 8, 16)
  cost = jax.jit(strided).lower(x, w).cost_analysis()
  assert flops.count(strided, x, w).total == cost['flops']


def test_loops_and_branches():
  w = shaped(8, 8)

  def repeated(w):
    return lax.scan(lambda carry, _: (carry @ w, None), w, None, length=6)[0]

  def either(w):
    return lax.cond(w[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, w)

  def forever(w):
    return lax.while_loop(lambda a: a[0, 0] > 0, lambda a: a @ a, w)

  assert flops.count(repeated, w).total == 6 * 1024
  assert flops.count(either, w).total == 2 * 1024
  assert flops.count(jax.jit(jax.checkpoint(repeated)), w).total == 6 * 1024
  unknown = flops.count(forever, w)
  assert (unknown.total, unknown.unknown_loops) == (1024, 1)


REPLICATED = PartitionSpec()


def on_four(function, out=REPLICATED):
  mesh = Mesh(np.array(jax.devices()[:4]), (collectives.AXIS,))
  return jax.jit(
    jax.shard_map(
      function, mesh=mesh, in_specs=PartitionSpec(collectives.AXIS), out_specs=out, check_vma=False
    )
  )


def test_inside_shard_map_the_count_is_per_device():
  mapped = on_four(lambda x: collectives.psum(x.T @ x))
  work = flops.count(mapped, shaped(32, 8))
  assert work.total == 2 * 8 * 8 * 8  # 32 rows over 4 devices
  assert work.collectives == {'all-reduce': (1, 8 * 8 * 4)} and work.rounds == 1


def test_collectives_of_a_branch_are_kept_apart():
  def logged(x):
    value = lax.cond(x[0, 0] > 0, lambda a: collectives.psum(a), lambda a: a, x)
    return collectives.psum(value)

  work = flops.count(on_four(logged), shaped(8, 2))
  assert work.collectives == {'all-reduce': (1, 16)} == work.conditional and work.rounds == 1


def test_rounds_are_the_longest_chain():
  def chain(x):
    a = collectives.psum(x)
    b = collectives.psum(jnp.sin(a) * x)  # needs a
    c = collectives.psum(x * 2)  # needs neither
    return collectives.psum(b + c)  # needs b

  def scanned(x):
    return lax.scan(lambda c, _: (collectives.psum(c), None), x, None, length=5)[0]

  assert flops.count(on_four(chain), shaped(8, 2)).rounds == 3
  assert flops.count(on_four(scanned), shaped(8, 2)).rounds == 5
  # The backward pass needs the forward pass.
  loss = on_four(jax.grad(lambda x: jnp.sum(jnp.sin(collectives.psum(jnp.sin(x))))))
  assert flops.count(loss, shaped(8, 2)).rounds == 2


# --- communication in compiled programs ------------------------------------------------------

HLO = """HloModule jit_step, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (t: (s32[], f32[128])) -> (s32[], f32[128]) {
  %x = f32[128]{0} get-tuple-element(%t), index=1
  %r = f32[128]{0:T(128)S(1)} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %out = (s32[], f32[128]) tuple(%i, %r)
}

%logged (x: f32[8]) -> f32[32] {
  ROOT %g = f32[32]{0} all-gather(%x), replica_groups=[1,4]<=[4], dimensions={0}
}

%skipped (x: f32[8]) -> f32[32] {
  ROOT %z = f32[32]{0} broadcast(%zero), dimensions={}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %start = (f32[16]{0}, bf16[10,3]{1,0:T(8,128)(2,1)}) all-reduce-start(%p, %q), replica_groups=[2,8]<=[16], to_apply=%add
  %done = (f32[16]{0}, bf16[10,3]{1,0:T(8,128)(2,1)}) all-reduce-done(%start)
  %ags = ((f32[4]{0}), (f32[16]{0})) all-gather-start(%p), replica_groups={{0,1,2,3}}, dimensions={0}
  %agd = f32[16]{0} all-gather-done(%ags)
  %p2 = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1}}
  %p3 = f32[5]{0} collective-permute-done(%p2)
  %rs = pred[7]{0} reduce-scatter(%p), replica_groups={{0,1},{2,3}}, to_apply=%add
  %w = (s32[], f32[128]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %c = f32[32]{0} conditional(%pred, %p, %p), branch_computations={%skipped, %logged}
  ROOT %f = f32[4]{0} fusion(%all-reduce.9), kind=kLoop, calls=%add, metadata={op_name="all-reduce(x)"}
}
"""  # noqa: E501


def test_compiled_text_by_hand():
  found = traffic.find(HLO)
  assert traffic.totals(found) == {
    'all-reduce': (1 + 6, 16 * 4 + 30 * 2 + 6 * 128 * 4),
    'all-gather': (1, 64),
    'collective-permute': (1, 20),
    'reduce-scatter': (1, 7),
  }
  assert traffic.totals(found, conditional=True) == {'all-gather': (1, 128)}
  groups = {(each.kind, each.times): each.group for each in found.collectives}
  assert groups['all-reduce', 6] == 4 and groups['reduce-scatter', 1] == 2
  assert found.unknown_loops == 0


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
  text = HLO.replace(', backend_config={"known_trip_count":{"n":"6"}}', '')
  found = traffic.find(text)
  assert traffic.totals(found)['all-reduce'] == (2, 124 + 512) and found.unknown_loops == 1


def test_wire_bytes():
  assert traffic.sent('all-reduce', 100, 4) == 150
  assert traffic.sent('all-gather', 100, 4) == 75
  assert traffic.sent('reduce-scatter', 25, 4) == 75
  assert traffic.sent('collective-permute', 100, 4) == 100
  assert all(traffic.sent(kind, 100, 1) == 0 for kind in traffic.KINDS)


def test_what_xla_compiles_for_four_cpus():
  def function(x):
    y = collectives.all_gather(x)
    z = lax.psum_scatter(y, collectives.AXIS, tiled=True)
    return collectives.psum(jnp.tanh(z)), lax.ppermute(
      x, collectives.AXIS, [(0, 1), (1, 2), (2, 3), (3, 0)]
    )

  out = (PartitionSpec(), PartitionSpec(collectives.AXIS))
  mapped = on_four(function, out)
  compiled = mapped.lower(shaped(8, 3)).compile().as_text()
  written = flops.count(mapped, shaped(8, 3)).collectives
  assert traffic.totals(traffic.find(compiled)) == written
  assert written == {
    'all-gather': (1, 96), 'reduce-scatter': (1, 24), 'all-reduce': (1, 24),
    'collective-permute': (1, 24),
  }  # fmt: skip


# --- machines --------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('name', 'devices', 'hosts'),
  [('v5e:4x4', 16, 4), ('v4:4x4x4', 64, 16), ('v3:4x4', 32, 4), ('tpu7x:2x2x1', 8, 1),
   ('h100:2x8', 16, 2), ('A100-80:4', 4, 1), ('v6e:16x16', 256, 64)],
)  # fmt: skip
def test_names_of_machines(name, devices, hosts):
  topology = hardware.parse(name)
  assert (topology.num_devices, topology.num_hosts) == (devices, hosts)


@pytest.mark.parametrize(
  ('name', 'sentence'),
  [
    ('v5litepod-16', "did you mean 'v5e:4x4'"),
    ('h1000:8', "did you mean 'h100:1x8'"),
    ('v5e', "'' is not a shape of v5e"),
    ('v5e:4', 'write two side lengths'),
    ('v5e:2x2x2', "'2x2x2' is not a shape of v5e: write two side lengths of the torus"),
    ('v4:2x2x2x2', 'two or three side lengths'),
    ('h100:2x2x2', 'hosts x GPUs per host'),
    ('v5e:0x4', 'no devices'),
    ('abacus:2x2', 'Names: v2:4x4'),
  ],
)
def test_wrong_names_are_one_sentence(name, sentence):
  with pytest.raises(ValueError, match='--topology=') as error:
    hardware.parse(name)
  assert sentence in str(error.value) and '\n' not in str(error.value)


def test_every_chips_example_is_valid():
  for kind, chip in hardware.CHIPS.items():
    assert hardware.parse(chip.example).kind == kind
    assert len(hardware.parse(chip.example).shape) == chip.sides
    assert chip.peak_f32 <= chip.peak_bf16 and 0 < chip.usable * chip.devices < 1.01 * chip.hbm


@pytest.mark.parametrize('kind', target.GPUS)
def test_descriptions_of_gpus(kind):
  text = target.text(kind)
  assert text.count('{') == text.count('}')
  assert f'device_memory_size: {int(hardware.CHIPS[kind].hbm)}' in text


# --- arithmetic ------------------------------------------------------------------------------


def test_a_step_by_hand():
  topology = hardware.parse('v5e:4x4')
  time = estimate.step_time(
    topology,
    {'bfloat16': int(197e12), 'float32': int(19.7e12)},
    {'all-reduce': int(200e9)},
    100,
    share=0.5,
    bytes_accessed=819e9,
    images_per_host=64,
    host_rate=128,
  )
  assert time.work == pytest.approx(2.2) and time.memory == pytest.approx(1.0)
  assert time.input == pytest.approx(0.5) and time.bound == 'work'
  assert time.transfer == pytest.approx(2 * 15 / 16)
  assert time.latency == pytest.approx(100 * 8e-6)
  assert time.total == pytest.approx(2.2 + 1.875 + 0.0008)


def test_kernels_of_a_gpu_run_one_after_another():
  topology = hardware.parse('h100:1x1')
  time = estimate.step_time(
    topology, {'bfloat16': int(98.9e12)}, {}, 0, share=0.5, bytes_accessed=3350e9 / 10,
    bytes_of_others=3350e9, images_per_host=64, host_rate=128,
  )  # fmt: skip
  assert time.work == pytest.approx(0.2) and time.memory == pytest.approx(0.1)
  assert time.others == pytest.approx(1.0) and time.total == pytest.approx(1.2)


def test_a_measurement_replaces_the_assumed_share(tmp_path, capsys):
  part = {'per_s': 1.0, 'share_of_peak': 0.31}
  shares = {'step': part, 'training': part | {'share_of_peak': 0.25}}
  result = {
    'method': 'simclr', 'encoder': 'resnet18', 'dtype': 'bfloat16', 'batch_size': 512, 'devices': 2,
    'device_kind': 'NVIDIA H100', 'flops': shares,
  }  # fmt: skip
  bench, out = tmp_path / 'bench.json', tmp_path / 'plan.json'
  bench.write_text(json.dumps({'result': result}))
  recipe = f'--config={ROOT}/configs/byol.py:smoke'
  flags = [recipe, '--topology=h100:1x1', '--no_compile', f'--bench={bench}']
  assert command.main([*flags, f'--out={out}']) == 0
  shown = capsys.readouterr().out
  assert 'simclr, resnet18 in bfloat16, 256 images a device, on 2 x NVIDIA H100' in shown
  assert 'Optimistic' not in shown
  ends = json.loads(out.read_text())['estimate']
  assert (ends['slow']['share_of_peak'], ends['fast']['share_of_peak']) == (0.25, 0.31)
  assert command.main([*flags, '--share=0.1,0.2']) == 2
  assert 'drop one of them' in capsys.readouterr().err
  for content, sentence in (
    ('{', 'cannot be read'),
    ('[]', 'is not what `byoljax bench` writes'),
    (json.dumps({'result': result | {'flops': dict.fromkeys(shares, {'share_of_peak': None})}}),
     'measured on 2 x NVIDIA H100, whose peak is not known'),
  ):  # fmt: skip
    bench.write_text(content)
    assert command.main(flags) == 2
    message = capsys.readouterr().err
    assert sentence in message and one_sentence(message)


def test_gpus_reduce_within_a_host_and_then_between():
  one, two = hardware.parse('h100:1x8'), hardware.parse('h100:2x8')
  assert estimate.transfer_seconds(one, 'all-reduce', 450e9) == pytest.approx(2 * 7 / 8)
  between = 2 * 1 / 2 * (450e9 / 8) / 50e9
  assert estimate.transfer_seconds(two, 'all-reduce', 450e9) == pytest.approx(1.75 + between)
  assert estimate.latency_seconds(two) == pytest.approx(5e-6 * 8)


@pytest.mark.parametrize('name', ['h100:1x8', 'h100:2x8', 'h100:4x8', 'a100-80:8x1', 'v4:4x4x4'])
def test_a_reduce_scatter_and_an_all_gather_are_an_all_reduce(name):
  """By hand for 32 GPUs: of 32 GB 28 within the host at 450 GB/s; of 4 GB 3 at 50 GB/s between."""
  topology = hardware.parse(name)
  gather = estimate.transfer_seconds(topology, 'all-gather', 32e9)
  scatter = estimate.transfer_seconds(topology, 'reduce-scatter', 32e9 / topology.num_devices)
  assert gather == pytest.approx(scatter)
  assert gather + scatter == pytest.approx(estimate.transfer_seconds(topology, 'all-reduce', 32e9))
  if name == 'h100:4x8':
    assert gather == pytest.approx(28 / 450 + 3 / 50)


def test_chips_with_two_devices_share_peak_and_memory():
  chip = hardware.parse('v3:4x4').chip
  assert hardware.peaks(chip)['bfloat16'] == 61.5e12


def test_cost_is_per_chip_and_hour():
  assert estimate.cost(hardware.parse('v3:4x4'), 7200, 1.5) == 16 * 2 * 1.5


@pytest.mark.parametrize('best', [0, 1, 5, 16, 37, 64])
@pytest.mark.parametrize('known', [1, 16, 64])
def test_bisection_finds_the_largest(best, known):
  asked = []

  def fit(n):
    asked.append(n)
    return n <= best

  assert fitting.bisect(fit, known, known <= best, 64) == best
  assert len(asked) == len(set(asked)) <= 2 * math.ceil(math.log2(64)) + 1


def test_a_large_batch_is_found_to_three_per_cent():
  asked = []

  def fit(n):
    asked.append(n)
    return n <= 1000

  found = fitting.bisect(fit, 64, True, 10_000)
  assert asked == [128, 256, 512, 1024, 768, 896, 960, 992, 1008] and found == 992


@pytest.mark.parametrize(('most', 'largest'), [(1000, 992), (20, 16), (7, 0)])
def test_the_largest_batch_goes_around_the_groups_of_the_statistics(most, largest, monkeypatch):
  """A method that takes multiples of 8 from 16 on; no other one is compiled for."""
  topology, config = hardware.parse('h100:1x1'), config_lib.load(f'{ROOT}/configs/moco.py:smoke')
  with config.unlocked():
    config.train.batch_size = 2048
    config.method.bn_groups = 8

  def assembled(config, source, mesh):
    if config.train.batch_size < 16:
      raise ConfigError('groups of at least 2')
    return config.train.batch_size

  def compiled(batch, mesh=None):
    assert batch % 8 == 0
    return aot.Compiled(aot.Memory(0, 0, 0, int(60e9 * batch / most), 0, 0), '', 0, 0, '', 0, 0)

  monkeypatch.setattr(aot, 'assembled', assembled)
  monkeypatch.setattr(aot, 'compile_step', compiled)
  source = types.SimpleNamespace(size=10_000)
  unit = fitting.unit_of(config, types.SimpleNamespace(order=None, accumulate=1), topology)
  found = fitting.largest_batch(
    config, source, topology, None, compiled(2048), unit, lambda text: None
  )
  assert found['batch_size'] == largest


# --- the command -----------------------------------------------------------------------------

NO_COMPILE = ['--topology=v5e:2x2', '--no_compile', '--price=1.5']


def test_a_plan_without_a_compiler(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  out = tmp_path / 'plan.json'
  recipe = f'--config={ROOT}/configs/byol.py:smoke'
  changes = ['--config.train.batch_size=32', '--config.train.progressive=0.5 until 50 %']
  assert command.main([recipe, *NO_COMPILE, '--out=~/plan.json', *changes]) == 0
  shown = capsys.readouterr().out
  plan = json.loads(out.read_text())
  assert plan['overrides'] == changes and 'views have their full size in all steps' in shown
  assert plan['run']['images_per_device'] == 8 and plan['machine']['devices'] == 4
  assert plan['flops']['per_step'] == 4 * sum(plan['flops']['per_device_and_step'].values())
  # Two views of 32 px, an index and a label of 4 bytes each: what a host hands over.
  assert plan['input']['bytes_per_step'] == 32 * (32 * 32 * 3 + 12)
  state = plan['memory']['state']
  assert state['total'] == state['params'] + state['opt_state'] + state['method_state']
  fast, slow = plan['estimate']['fast'], plan['estimate']['slow']
  assert fast['step_seconds'] < slow['step_seconds']
  assert slow['run_hours'] == pytest.approx(6 * slow['step_seconds'] / 3600)
  assert slow['cost'] == pytest.approx(4 * 1.5 * slow['run_hours'])
  for word in (
    'Not compiled', 'all-reduce, as written', 'Assumptions', 'not a measurement', 'Optimistic',
  ):  # fmt: skip
    assert word in shown
  assert plan['versions']['jax'] == jax.__version__


def test_the_same_step_as_training():
  """The counted work is that of the step which training maps with pmap over four devices."""
  config = config_lib.load(f'{ROOT}/configs/byol.py:smoke')
  source = aot.described_source(config)
  described = aot.assembled(config, source, aot.counting_mesh(4))
  ours = flops.count(described.step, *aot.abstract_arguments(described, aot.counting_mesh(4)))
  real = assemble.from_config(config, source)
  batch = {
    'image': shaped(4, 4, 32, 32, 3, dtype=jnp.uint8),
    'index': shaped(4, 4, dtype=jnp.int32),
    'epoch': shaped(4, 4, dtype=jnp.int32),
    'label': shaped(4, 4, dtype=jnp.int32),
  }
  theirs = flops.count(real.step, jax.eval_shape(real.create), batch)
  assert ours == theirs


def test_the_number_of_devices_is_the_machines(capsys):
  """More devices than there are here, and a batch that does not go around."""
  recipe = f'--config={ROOT}/configs/byol.py:smoke'
  assert command.main([recipe, '--topology=v5e:4x8', '--no_compile']) == 2
  assert 'is not a multiple of 32 devices' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['--topology=v5e:4x4'], '--config is missing'),
    (['--config=configs/byol.py:smoke'], '--topology is missing'),
    (['--config=configs/byol.py:smoke', '--topology=v5ee:4x4'], "did you mean 'v5e:4x4'"),
    (['--config=configs/byol.py:smoke', *NO_COMPILE, '--share=0.5,0.2'], '0 < low <= high <= 1'),
    (['--config=configs/byol.py:smoke', *NO_COMPILE, '--share=half'], 'two numbers'),
    (['--config=configs/byol.py:smoke', *NO_COMPILE, '--prize=3'], "did you mean '--price'"),
    (['--config=configs/byol.py:smoke', *NO_COMPILE, '--price=-1'], 'must not be negative'),
    (['--config=configs/byol.py:smoke', *NO_COMPILE, '--price=x'], 'invalid float'),
    (['--config=configs/byol.py:smoke', *NO_COMPILE, '--config.seeed=1'], "did you mean 'seed'"),
    (['--config=configs/byol.py:folder', *NO_COMPILE], '--examples=N'),
    (['--config=configs/knn.py', *NO_COMPILE], 'trains an encoder'),
    (
      ['--config=configs/byol.py:cifar10', *NO_COMPILE, '--config.data.classes=(0,1)'],
      'data.classes=(0, 1) changes how many images are trained on',
    ),
    (
      ['--config=configs/byol.py:cifar10', *NO_COMPILE, '--config.data.unlabelled=more'],
      "data.unlabelled='more' changes",
    ),
    (['--config=configs/byol.py:smoke', '--topology=v5e:2x2', '--target_config=x'], 'is for GPUs'),
    (['--config=configs/byol.py:smoke', *NO_COMPILE, '--target_config=x'], 'drop one of them'),
    (['--config=configs/byol.py:smoke', *NO_COMPILE, '--largest_batch'], 'drop one of them'),
    (['--config=configs/byol.py:smoke', '--topology=h100:1x8', '--target_config=no'], 'read'),
  ],
)
def test_mistakes_are_one_sentence(arguments, sentence, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(aot, 'is_installed', lambda module: True)
  assert command.main(arguments) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith('error: ') and sentence in captured.err
  assert one_sentence(captured.err) and 'Traceback' not in captured.err


@pytest.mark.parametrize(
  ('machine', 'package'), [('v5e:2x2', 'jax[tpu]'), ('h100:1x8', 'jax[cuda13]')]
)
def test_a_missing_compiler_is_named(machine, package, monkeypatch, capsys):
  monkeypatch.setattr(aot, 'is_installed', lambda module: False)
  recipe = f'--config={ROOT}/configs/byol.py:smoke'
  assert command.main([recipe, f'--topology={machine}']) == 2
  message = capsys.readouterr().err
  assert package in message and jax.__version__ in message and '--no_compile' in message


@pytest.fixture
def compiler(monkeypatch):
  """All but the compiler: one stands in that needs 1 GiB and 0.5 GiB per image of a device."""

  def compile_step(run, mesh):
    per_device = run.length.batch_size // mesh.size
    memory = aot.Memory(2**30, 2**29, 2**29, per_device << 29, 0, 0)
    return aot.Compiled(memory, '', 1e8, 1e9, HLO, 1.0, 2.0)

  first = functools.cache(lambda: make_run(*made[0]))
  make_run, made = aot.assembled, []

  def assembled(config, source, mesh):  # Really only once: it takes seconds.
    made.append((config, source, mesh))
    order = assemble.order_of(config, source, mesh.size)
    return first()._replace(length=first().length._replace(batch_size=order.batch_size))

  monkeypatch.setattr(aot, 'assembled', assembled)
  monkeypatch.setattr(aot, 'devices_of', lambda topology, target_config: [None] * 4)
  monkeypatch.setattr(aot, 'mesh_of', lambda devices: aot.counting_mesh(len(devices)))
  monkeypatch.setattr(aot, 'compile_step', compile_step)
  monkeypatch.setattr(summary, '_versions', lambda *unused: {})


@pytest.mark.usefixtures('compiler')
def test_the_largest_batch_of_two_streams(tmp_path):
  """A labelled and two other images for each device: of the 29 that fit, 27."""
  out = tmp_path / 'plan.json'
  recipe = [f'--config={ROOT}/configs/fixmatch.py:smoke', '--config.train.batch_size=24']
  flags = ['--config.data.unlabelled_per_labelled=2', '--topology=v5e:2x2', '--largest_batch']
  assert command.main([*recipe, *flags, f'--out={out}']) == 0
  found = json.loads(out.read_text())['largest_batch']
  assert (found['batch_size'], found['per_device']) == (4 * 27, 27)


@pytest.mark.usefixtures('compiler')
def test_a_plan_with_a_compiler_and_its_largest_batch(tmp_path, capsys):
  out = tmp_path / 'plan.json'
  flags = ['--topology=v5e:2x2', '--largest_batch', f'--out={out}']
  assert command.main([f'--config={ROOT}/configs/byol.py:smoke', *flags]) == 0
  shown, plan = capsys.readouterr().out, json.loads(out.read_text())
  # Of 15.75 GiB: 1 for the state, so 29 images of half a GiB.
  assert plan['largest_batch']['batch_size'] == 4 * 29 == 4 * plan['largest_batch']['per_device']
  assert plan['memory']['needed'] == 3 * 2**30 and plan['memory']['spare'] == 12.75 * 2**30
  assert plan['collectives']['compiled']['all-reduce'] == {'calls': 7, 'bytes': 3196}
  assert plan['estimate']['fast']['parts']['memory'] == pytest.approx(1e9 / 819e9)
  # 10 calls outside of conditionals, each across 2 x 2 chips.
  assert plan['estimate']['fast']['parts']['latency'] == pytest.approx(10 * 4e-6)
  for text in ('Fits, with 12.75 GiB', '3.00 GiB of 15.75 GiB', '116 (29 per device)', '7 x'):
    assert text in shown


def test_the_console_command(capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  options = ['--topology', 'v5e:2x2', '--no_compile', '--train.batch_size=64']
  assert cli.run(['plan', 'byol:smoke', *options]) == 0
  assert '16 per device' in capsys.readouterr().out
  assert cli.run(['plan', 'boyl', *options]) == 2
  assert "did you mean 'byol'" in capsys.readouterr().err


def test_data_that_are_not_known_need_a_size():
  config = config_lib.load(f'{ROOT}/configs/byol.py:folder')
  source = aot.described_source(config, 100_000_000, 0)
  assert (source.size, source.num_classes) == (100_000_000, 0)
  with pytest.raises(AssertionError):
    source.read(np.arange(2))


@pytest.mark.parametrize(
  ('needed', 'sentence'), [(10, 'Fits, with'), (2**40, 'Does not fit'), (None, 'compiler says')]
)
def test_the_verdict(needed, sentence):
  memory = None if needed is None else aot.Memory(needed, 0, 0, 0, 0, 0)
  compiled = types.SimpleNamespace(memory=memory, too_big='used 20G of 15G')
  answer = fitting.fits(compiled, hardware.parse('v5e:4x4'))  # type: ignore[arg-type]
  assert sentence in report.verdict({'memory': answer})


def test_memory_needed_is_no_less_than_the_parts():
  memory = aot.Memory(100, 90, 80, 50, 7, 120)
  assert memory.needed == 100 + 10 + 50 + 7
  assert memory._replace(peak=500).needed == 500


# --- the compilers ---------------------------------------------------------------------------


def synced(params, batch):
  """A step in small: a product, sync statistics, a gradient mean."""

  def loss(w):
    y = batch @ w
    y = y - collectives.pmean(jnp.mean(y, 0, keepdims=True))
    return jnp.mean(y**4)

  return params - collectives.pmean(jax.grad(loss)(params))


def compiled_for(name):
  topology = hardware.parse(name)
  mesh = aot.mesh_of(aot.devices_of(topology))
  assert mesh.size == topology.num_devices
  step = mapping.spmd_shard_map(synced, mesh=mesh)
  arguments = aot.placed((shaped(256, 128), shaped(mesh.size * 64, 256)), mesh)
  return flops.count(step, *arguments), aot.compile_lowered(step.lower(*arguments)), mesh


@TPU
def test_a_small_step_for_a_tpu():
  work, compiled, mesh = compiled_for('v5e:2x2')
  assert work.total == 2 * (2 * 64 * 256 * 128)  # forward and the weights' gradient
  assert 0.9 < work.total / compiled.xla_flops <= 1  # XLA's has the element-wise work as well
  found = traffic.find(compiled.hlo)
  calls, size = traffic.totals(found)['all-reduce']
  assert calls >= work.rounds == 3
  assert size >= 256 * 128 * 4
  assert {each.group for each in found.collectives} == {mesh.size}
  memory = compiled.memory
  assert memory.arguments >= (256 * 128 + 64 * 256) * 4
  assert memory.aliased == 256 * 128 * 4, 'the state must be donated'


@TPU
def test_too_much_for_a_tpu():
  topology = hardware.parse('v5e:2x2')
  mesh = aot.mesh_of(aot.devices_of(topology))
  step = mapping.spmd_shard_map(synced, mesh=mesh)
  arguments = aot.placed((shaped(8192, 8192), shaped(mesh.size << 20, 8192)), mesh)
  compiled = aot.compile_lowered(step.lower(*arguments))
  assert compiled.memory is None and 'HBM' in compiled.too_big


@TPU
def test_shapes_that_the_compiler_does_not_take():
  with pytest.raises(config_lib.ConfigError, match="'v5e:4x4' is one that it takes"):
    aot.devices_of(hardware.parse('v5e:3x3'))


@TPU
@pytest.mark.slow
def test_a_real_step_for_a_tpu(tmp_path, capsys):
  out = tmp_path / 'plan.json'
  recipe = f'--config={ROOT}/configs/byol.py:smoke'
  assert command.main([recipe, '--topology=v5e:2x2', f'--out={out}']) == 0
  plan = json.loads(out.read_text())
  assert plan['memory']['fits'] and 'Fits, with' in capsys.readouterr().out
  assert plan['memory']['aliased'] >= 0.95 * plan['memory']['state']['total']
  compiled = plan['collectives']['compiled']
  assert compiled['all-reduce']['calls'] <= plan['collectives']['written']['all-reduce']['calls']
  assert compiled['all-reduce']['bytes'] >= plan['memory']['state']['params']


@CUDA
def test_a_small_step_for_gpus():
  work, compiled, mesh = compiled_for('h100:1x2')
  assert work.total == 2 * (2 * 64 * 256 * 128)
  calls, size = traffic.totals(traffic.find(compiled.hlo))['all-reduce']
  assert calls >= work.rounds == 3 and size >= 256 * 128 * 4
  assert compiled.memory.aliased == 256 * 128 * 4 and mesh.size == 2


@pytest.mark.parametrize('recipe', ['motion_segmentation', 'motion_segmentation:npz,differencing'])
def test_data_with_further_fields_are_described(recipe):
  name, _, scale = recipe.partition(':')
  changes = [('data.dir', 'moving.npz')] if 'npz' in recipe else []
  config = config_lib.load(f'{ROOT}/configs/{name}.py:{scale}', changes)
  source = aot.described_source(config, 1000, 0)
  mesh = aot.counting_mesh(2)
  run = aot.assembled(config, source, mesh)
  _, batch = aot.abstract_arguments(run, mesh)
  assert source.field(run.held_fields[0]) and batch['label'].shape[0] == run.length.batch_size


def test_a_method_of_a_codec_is_planned_with_it(tmp_path):
  config = config_lib.load(f'{ROOT}/configs/beit.py', [('codec', str(tmp_path))])
  with pytest.raises(ConfigError, match='codec'):
    aot.assembled(config, aot.described_source(config), aot.counting_mesh(2))
