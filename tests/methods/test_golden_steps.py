"""Whole training steps against PyTorch: data in, every tensor of the state out.

Golden values were computed in float64. The error of a tensor is compared with how far it has moved
since the start: float32 leaves about 1e-5 of that after three steps, which divide by deviations of
a batch and by norms of gradients, and 1e-4 is allowed. What does not move, biases in front of
batch normalization, collects rounding in place of gradients, 3e-7 in all; 2e-6 is allowed. Mistakes
that the file is there for (the other form of LARS, decay of the wrong tensors, a wrong order of the
keys) are at least a hundred times as large, see the last test.
"""

import functools
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import optim
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods import METHODS
from byoljax.models import layers
from byoljax.ops import shuffle
from byoljax.optim import recipe
from byoljax.step import init_state, train_step
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import step_tensors  # noqa: E402

MOVEMENT, ROUNDING = 1e-4, 2e-6
CASES = tuple(step_tensors.METHODS)
WITH_TARGET = ('byol', 'moco', 'fixmatch')
COPIED = ('moco', 'fixmatch')  # Their target starts as a copy.
every_case = pytest.mark.parametrize('case', CASES)

# The last part of a path here -> of a name in PyTorch.
TORCH_NAMES = {
  'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean',
  'var': 'running_var',
}  # fmt: skip


class Encoder(nn.Module):
  """One convolution, padded on both sides as PyTorch does it."""

  bn_axis: str | None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Conv(step_tensors.WIDTH, (3, 3), strides=2, padding=1, name='conv')(x)
    norm = layers.batch_norm(train, self.bn_axis, jnp.float32, 'bn', groups=self.bn_groups)
    return nn.relu(norm(x)).mean((1, 2))


def torch_name(path):
  *outer, last = optim.path_name(path).split('/')
  return '.'.join([*outer, TORCH_NAMES[last]])


def to_torch(x):
  return np.transpose(x, {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[x.ndim])


def from_torch(x):
  return np.transpose(x, {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[x.ndim])


def drawn(owner, tree):
  """The tree with every leaf drawn by the name that it has in PyTorch."""

  def leaf(path, x):
    value = step_tensors.tensor(f'{owner}.{torch_name(path)}', to_torch(x).shape)
    return jnp.asarray(from_torch(value))

  return jax.tree_util.tree_map_with_path(leaf, tree)


def batch_of(step):
  return {
    'views': step_tensors.views(step),
    'index': np.arange(step_tensors.BATCH, dtype=np.int32),
    'label': step_tensors.labels(step),
  }


def started(case, state):
  """The state with the golden weights, statistics and queue."""
  owner = f'{case}/online'
  own = state.method_state.replace(bn=drawn(owner, state.method_state.bn))
  if case in WITH_TARGET:
    origin = owner if case in COPIED else f'{case}/target'
    own = own.replace(
      target_params=drawn(origin, own.target_params), target_bn=drawn(origin, own.target_bn)
    )
  if case == 'moco':
    assert own.queue.items.shape == step_tensors.queue().shape
    own = own.replace(queue=own.queue._replace(items=jnp.asarray(step_tensors.queue())))
  return state.replace(params=drawn(owner, state.params), method_state=own)


def tensors(case, state):
  """{name in the golden file: array in PyTorch's layout} of the networks."""
  own = state.method_state
  trees = [('online', state.params), ('online', own.bn)]
  if case in WITH_TARGET:
    trees += [('target', own.target_params), ('target', own.target_bn)]
  return {
    f'{case}/{owner}.{torch_name(path)}': to_torch(np.asarray(x))
    for owner, tree in trees
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def trajectory(case, order=None, **changes):
  """[(tensors, state, metrics)] at the start (without metrics) and after every step."""
  arguments = step_tensors.METHODS[case]
  setting = Setting(
    Length(step_tensors.BATCH, step_tensors.EPOCH, step_tensors.TOTAL),
    num_examples=step_tensors.EPOCH * step_tensors.BATCH,
    num_classes=step_tensors.CLASSES,
    shares=step_tensors.SHARES,
  )
  method = METHODS[case](Encoder, setting, **arguments)
  length = Length(step_tensors.BATCH, step_tensors.EPOCH, step_tensors.TOTAL)
  warmup = {'warmup': f'{step_tensors.WARMUP[case]} steps'}
  optimizers = recipe.make_recipe(step_tensors.OPTIMIZERS[case] | warmup | changes, length)
  tx = optim.make(
    lambda params: optimizers.label(method.groups(params), params), optimizers.transformations
  )
  state = started(case, init_state(method, tx, batch_of(0), 0))
  step = jax.jit(
    functools.partial(train_step, method=method, tx=tx, augment=lambda b, s: b, axis=None)
  )
  found = [(tensors(case, state), state, None)]
  with pytest.MonkeyPatch.context() as patch:
    # The keys' order is JAX's business and may change with its version: both sides use this one.
    order = step_tensors.order() if order is None else order
    patch.setattr(shuffle.jax.random, 'permutation', lambda key, n: jnp.asarray(order))
    for number in range(step_tensors.STEPS):
      state, metrics = step(state, batch_of(number))
      found.append((tensors(case, state), state, metrics))
  return found


computed = functools.cache(trajectory)


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN / 'steps.npz') as file:
    return dict(file)


def golden_tensors(golden, case, kind):
  """{name: [STEPS,...]} of a case: names that contain 'online.', 'target.' or 'running_'."""
  return {name: x for name, x in golden.items() if name.startswith(f'{case}/') and kind in name}


def distances(found, golden, names):
  """{name: the largest error of a tensor in units of what is allowed}, over all steps."""
  start, worst = found[0][0], {}
  for name in names:
    errors = []
    for (now, _, _), wanted in zip(found[1:], golden[name], strict=True):
      assert now[name].shape == wanted.shape, name
      moved = np.linalg.norm(wanted - start[name])
      error = np.linalg.norm(now[name] - wanted)
      errors.append(error / (MOVEMENT * moved + ROUNDING))
    worst[name] = max(errors)
  return worst


def assert_tensors_equal(found, golden, names):
  assert names
  for name, error in distances(found, golden, names).items():
    assert error <= 1, f'{name} is {error:.2g} times as far from PyTorch as allowed'


@every_case
def test_no_tensor_is_left_out(golden, case):
  names = set(golden_tensors(golden, case, '.'))
  assert set(computed(case)[-1][0]) == names
  assert len(names) > 10


@every_case
def test_losses_and_gradient_norms(golden, case):
  named = {'loss': 'loss', 'grad_norm': 'grad_norm'}
  if case == 'byol':
    named['tau'] = 'tau'
  if case == 'barlow_twins':
    named |= {'loss/on_diagonal': 'on_diagonal', 'loss/off_diagonal': 'off_diagonal'}
  if case == 'fixmatch':
    named |= {'loss/labelled': 'labelled', 'loss/unlabelled': 'unlabelled'}
    named['confident'] = 'confident'
  for metric, name in named.items():
    ours = [float(metrics[metric]) for _, _, metrics in computed(case)[1:]]
    # Float32 in both libraries, 2e-6 seen.
    np.testing.assert_allclose(ours, golden[f'{case}/{name}'], rtol=2e-5, err_msg=metric)


@every_case
def test_parameters(golden, case):
  online = golden_tensors(golden, case, '/online.')
  parameters = {name for name in online if 'running_' not in name}
  assert_tensors_equal(computed(case), golden, parameters)
  start = computed(case)[0][0]
  for name in parameters:
    if name.endswith('weight'):
      moved = np.linalg.norm(golden[name][-1] - start[name]) / np.linalg.norm(start[name])
      assert moved > 0.01, f'{name} moves too little to tell anything'


@every_case
def test_running_statistics(golden, case):
  assert_tensors_equal(computed(case), golden, set(golden_tensors(golden, case, 'running_')))


@pytest.mark.parametrize('case', WITH_TARGET)
def test_target_networks(golden, case):
  assert_tensors_equal(computed(case), golden, set(golden_tensors(golden, case, '/target.')))


@pytest.mark.parametrize('case', COPIED)
def test_a_target_starts_as_a_copy(case):
  setting = Setting(
    Length(step_tensors.BATCH, 1, 4), num_classes=step_tensors.CLASSES, shares=step_tensors.SHARES
  )
  method = METHODS[case](Encoder, setting, **step_tensors.METHODS[case])
  params, own = method.init(jax.random.key(0), batch_of(0))
  jax.tree.map(np.testing.assert_array_equal, params, own.target_params)


def test_queue_after_the_keys_went_in(golden):
  for step, (_, state, _) in enumerate(computed('moco')[1:]):
    queue = state.method_state.queue
    np.testing.assert_allclose(queue.items, golden['moco/queue'][step], rtol=0, atol=5e-6)
    assert int(queue.pointer) == golden['moco/pointer'][step]
    assert int(queue.filled) == golden['moco/filled'][step]


WRONG = {
  'simclr': {'name': 'lars'},
  'moco': {'exclude_bias_and_norm': True},
  'moco, unshuffled': {'order': tuple(range(step_tensors.BATCH))},
  'barlow_twins': {'groups': {}},
  'fixmatch': {'nesterov': False},
}


@pytest.mark.parametrize(
  'wrong',
  ['moco, unshuffled', *(pytest.param(w, marks=pytest.mark.slow) for w in WRONG if ',' not in w)],
)
def test_mistakes_would_be_found(golden, wrong):
  case = wrong.partition(',')[0]
  names = set(golden_tensors(golden, case, '/online.'))
  found = trajectory(case, **WRONG[wrong])
  assert max(distances(found, golden, names).values()) > 100
