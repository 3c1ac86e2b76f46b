"""VQ-GAN: who descends what, the weight between the gradients, when the discriminator starts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.encoders.perceptual import FeatureNet
from byoljax.losses import adversarial
from byoljax.losses import codecs as losses
from byoljax.methods.generative import codec
from byoljax.models.net import stack
from byoljax.models.taps import truncate
from tests.methods.test_contract import _frozen, batch_of, make

NAME, KEY = 'vq_gan', jax.random.key(0)
BATCH = batch_of(NAME, rows=6)
VIEW = jnp.asarray(BATCH['views'][0])
CODEC = ('encoder', 'quantizer', 'decoder')


@functools.cache
def made():
  method = make(NAME, axis=None, start='3 steps')
  params, state = jax.jit(method.init)(jax.random.key(1), BATCH)

  def learn(loss, step):
    return jax.value_and_grad(loss, has_aux=True)(params, state, BATCH, KEY, step)

  found = [jax.jit(functools.partial(learn, phase.loss)) for phase in method.phases]
  return method, params, state, [[each(jnp.int32(step)) for each in found] for step in (2, 3)]


def test_before_the_start_the_discriminator_neither_learns_nor_speaks():
  method, _, _, (before, _) = made()
  assert [phase.roles for phase in method.phases] == [CODEC, ('discriminator',)]
  ((_, aux), _), ((value, _), gradient) = before
  assert float(aux.metrics['adaptive_weight']) == 0 and float(value) == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_each_player_descends_its_own_loss():
  _, _, _, (before, after) = made()
  for (_, gradient), own in zip(after, (CODEC, ('discriminator',)), strict=True):
    for role, tree in gradient.items():
      moved = any(np.any(leaf) for leaf in jax.tree.leaves(tree))
      assert moved == (role in own), role
  # The codec's gradient has the discriminator's opinion in it from the start on.
  first, then = (each[0][1]['decoder']['up1_conv']['kernel'] for each in (before, after))
  assert np.abs(first - then).max() > 1e-4


def test_the_weight_is_the_ratio_of_the_gradients_of_the_decoders_last_layer():
  """Both terms differentiated through the whole network, and the loss put together from them."""
  method, params, state, (before, after) = made()
  painter = stack(method.net.parts[:-1], codec.HANDED_OUT, method.net.reads)
  judge = stack(method.net.parts[-1:])

  def terms(kernel):
    last = params['decoder']['up1_conv'] | {'kernel': kernel}
    own = params | {'decoder': params['decoder'] | {'up1_conv': last}}
    output = painter.apply(own, state.bn, VIEW, train=True)[0]['output']
    error = jnp.mean(jnp.abs(output - VIEW)) + 0.1 * losses.gradient_difference(output, VIEW)
    logits = judge.apply(params, state.bn, output, train=True)[0]['realness']
    return error, adversarial.hinge_fool(logits)

  kernel = params['decoder']['up1_conv']['kernel']
  (error, fooled), slopes = jax.jit(lambda k: (terms(k), jax.jacrev(terms)(k)))(kernel)
  above, below = (float(np.linalg.norm(slope)) for slope in slopes)
  (value, aux), _ = after[0]
  weight = float(aux.metrics['adaptive_weight'])
  # Sums in another order: 1e-6 seen.
  assert weight == pytest.approx(above / (below + 1e-4), rel=1e-4)
  assert float(aux.metrics['loss/reconstruction']) == pytest.approx(float(error), rel=1e-5)
  plain = float(before[0][0][0])
  assert float(value) - plain == pytest.approx(0.8 * weight * float(fooled), rel=1e-4)


def test_statistics_move_in_their_own_phase_alone():
  _, _, state, (_, after) = made()
  for ((_, aux), _), moving in zip(after, ('quantizer', 'discriminator'), strict=True):
    for role in ('quantizer', 'discriminator'):
      pairs = zip(
        jax.tree.leaves(aux.method_state.bn[role]), jax.tree.leaves(state.bn[role]), strict=True
      )
      moved = [not np.array_equal(a, b) for a, b in pairs]
      assert any(moved) == (role == moving)


def test_images_are_compared_by_the_maps_of_a_given_encoder():
  """Without a discriminator, by the maps of the contract's frozen encoder."""
  encoder = _frozen()
  net = truncate(encoder.net, ('map',))
  given = FeatureNet(net, ('map',), encoder.params, encoder.bn, encoder.preprocessing, {})
  method = make(
    NAME, axis=None, perceptual=0.0, adversarial_weight=0.0, features=2.0,
    setting={'given': {'perceptual': given}},
  )  # fmt: skip
  params, state = jax.jit(method.init)(jax.random.key(1), BATCH)

  @jax.jit
  def measure(params, state):
    _, aux = method.phases[0].loss(params, state, BATCH, KEY, jnp.int32(0))
    output = method.net.apply(params, state.bn, VIEW, train=True, upto='output')[0]['output']
    maps = [net.apply(encoder.params, encoder.bn, x, train=False)[0]['map'] for x in (output, VIEW)]
    return aux, output, maps

  aux, output, maps = measure(params, state)
  maps = [np.asarray(each, np.float64) for each in maps]
  units = [each / np.sqrt((each**2).sum(-1, keepdims=True) + 1e-10) for each in maps]
  expected = ((units[0] - units[1]) ** 2).sum(-1).mean()
  assert float(aux.metrics['loss/features']) == pytest.approx(expected, rel=1e-4)
  error = np.abs(np.asarray(output) - VIEW).mean() + 2 * expected
  assert float(aux.metrics['loss/reconstruction']) == pytest.approx(error, rel=1e-4)
  # A frozen copy.
  jax.tree.map(np.testing.assert_array_equal, aux.method_state.perceptual, state.perceptual)
  jax.tree.map(np.testing.assert_array_equal, state.perceptual['params'], encoder.params)


def test_a_discriminator_that_never_begins_is_told():
  assert make(NAME, axis=None, start='50 %').notes == ()
  (note,) = make(NAME, axis=None, start='200 %').notes
  assert "start='200 %', and the run has 20 steps: the discriminator never begins" in note


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'perceptual': -1.0}, 'perceptual=-1.0'),
    ({'features': -0.5}, 'features=-0.5'),
    ({'adversarial_weight': float('inf')}, 'adversarial_weight=inf'),
    ({'discriminator_stages': 0}, 'discriminator_stages=0'),
    ({'decoder': 'vq_gans'}, "unknown decoder 'vq_gans'.*did you mean 'vq_gan'"),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make(NAME, axis=None, **changes)
