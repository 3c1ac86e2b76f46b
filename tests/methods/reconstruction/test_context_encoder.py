"""Context encoder: what is seen, what counts, the two players' gradients, bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import holes
from byoljax.losses import adversarial, reconstruction
from byoljax.method import transformed
from byoljax.models.net import stack
from tests.methods.test_contract import batch_of, make, pictures_of

NAME, STEP, KEY = 'context_encoder', jnp.int32(0), jax.random.key(0)
PLAIN = {'adversarial': 'none'}


def made(rows=6, **changes):
  method = make(NAME, axis=None, **changes)
  return method, *begin(method, batch_of(NAME, rows=rows))


def begin(method, batch):
  """What the network sees of a batch, parameters and state."""

  @jax.jit
  def create(batch):
    seen = transformed(method, batch, KEY, STEP)
    return seen, *method.init(jax.random.key(1), seen)

  return jax.device_get(create(batch))


def test_what_is_seen_and_what_is_painted():
  _, batch, *_ = made(hole='center', share=0.25, overlap=1, **PLAIN)
  (seen,), view = batch['views'], batch_of(NAME, rows=6)['views'][0]
  painted, hidden = (np.asarray(batch[name])[..., 0] for name in ('painted', 'hidden'))
  assert painted[:, 2:6, 2:6].all() and painted.sum() == 6 * 16
  assert hidden[:, 3:5, 3:5].all() and hidden.sum() == 6 * 4
  np.testing.assert_array_equal(seen, np.where(hidden[..., None], 0, view))
  np.testing.assert_array_equal(batch['target'], view)


def test_only_the_hole_counts_and_its_border_more():
  method, batch, params, state = made(hole='center', overlap=1, overlap_weight=10.0, **PLAIN)
  painted, hidden = (np.asarray(batch[name]) for name in ('painted', 'hidden'))
  weight = np.where(hidden, 1.0, np.where(painted, 10.0, 0.0))

  @jax.jit
  def by_hand():
    output = method.net.apply(params, state.bn, batch['views'][0], train=True)[0]['output']
    return reconstruction.squared_error(output, batch['target'], weight)

  def value(target):
    return method.loss(params, state, batch | {'target': target}, KEY, STEP)[0]

  expected = by_hand()
  found, gradient = jax.jit(jax.value_and_grad(value))(batch['target'])
  assert float(found) == pytest.approx(float(expected), rel=1e-6)
  where = np.broadcast_to(painted, gradient.shape)
  assert not np.any(np.asarray(gradient)[~where]) and np.all(np.asarray(gradient)[where] != 0)


def test_every_image_has_a_hole_of_its_own():
  method = make(NAME, axis=None, hole='region', **PLAIN)
  seen = jax.jit(lambda batch: transformed(method, batch, KEY, STEP))(batch_of(NAME, rows=6))
  assert len({one.tobytes() for one in np.asarray(seen['painted'])}) == 6


def separate_gradients(method, batch, params, state, weight):
  """Of each player's loss by itself, put together from its parts."""
  generator = {role: params[role] for role in ('encoder', 'decoder')}
  judge = stack(method.net.parts[2:])

  def logits(own, images):
    held = images * batch['painted']
    bn = {'discriminator': state.bn['discriminator']}
    return judge.apply({'discriminator': own}, bn, held, train=True)[0]['realness']

  def paint(own):
    given = params | own
    return method.net.apply(given, state.bn, batch['views'][0], train=True)[0]['output']

  def generator_loss(own):
    region = jnp.where(batch['hidden'], 1.0, jnp.where(batch['painted'], 10.0, 0.0))
    error = reconstruction.squared_error(paint(own), batch['target'], region)
    fooled = adversarial.fool(logits(params['discriminator'], paint(own)))
    return (1 - weight) * error + weight * fooled

  def discriminator_loss(own):
    return adversarial.discriminate(logits(own, batch['target']), logits(own, paint(generator)))

  first, second = jax.jit(
    lambda: (jax.grad(generator_loss)(generator),
             jax.grad(discriminator_loss)(params['discriminator']))
  )()  # fmt: skip
  return first | {'discriminator': second}


def assert_close(found, expected):
  for role, tree in expected.items():
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree)) > 1e-4, role
    # Equal up to the order of sums: 1e-7 seen, of entries up to 1.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), found[role], tree)


@pytest.mark.parametrize('form', ['alternating', 'simultaneous'])
def test_each_player_descends_its_own_loss(form):
  changes = {'adversarial': form, 'adversarial_weight': 0.3}
  method, batch, params, state = made(**changes)
  expected = separate_gradients(method, batch, params, state, 0.3)
  if form == 'simultaneous':
    assert not method.phases
    found = jax.jit(jax.grad(lambda p: method.loss(p, state, batch, KEY, STEP)[0]))(params)
    return assert_close(found, expected)
  assert [phase.roles for phase in method.phases] == [('encoder', 'decoder'), ('discriminator',)]
  found = {}
  for phase in method.phases:
    loss = lambda p, own=phase: own.loss(p, state, batch, KEY, STEP)[0]  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(params)
    found |= {role: gradient[role] for role in phase.roles}
    others = [gradient[role] for role in params if role not in phase.roles]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(others)), 'none for the other player'
  return assert_close(found, expected)


def test_statistics_move_once_for_the_generator_and_for_both_kinds_of_holes():
  changes = {'discriminator_stages': 2}
  small = batch_of(NAME, rows=6)['views'][0]
  large = {'views': (np.kron(small, np.ones((1, 2, 2, 1), np.float32)),)}
  states = {}
  for form in ('alternating', 'simultaneous'):
    method = make(NAME, axis=None, adversarial=form, **changes)
    batch, params, state = begin(method, batch_of(NAME, rows=6) | large)
    for loss in [phase.loss for phase in method.phases] or [method.loss]:
      state = jax.jit(loss)(params, state, batch, KEY, STEP)[1].method_state
    states[form] = state.bn
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *states.values())
  mean = np.asarray(states['alternating']['discriminator']['stage2_bn']['mean'])
  assert np.any(mean)


def test_pictures_keep_what_was_seen_and_fill_the_hole():
  method, _, params, state = made(
    hole='blocks', overlap=0, setting={'mean': (0.5,) * 3, 'std': (0.2,) * 3}
  )
  plain = batch_of(NAME, rows=6)
  shown = pictures_of(method, params, state, plain, jax.random.key(5))
  assert list(shown) == ['image', 'input', 'output']
  holes_there = np.asarray(shown['input'] != shown['image']).any(-1)
  same = np.asarray(shown['output'] == shown['image']).all(-1)
  assert np.all(same[~holes_there]) and holes_there.mean() > 0.03
  again = jax.jit(lambda batch, key: transformed(method, batch, key, STEP))(
    plain, jax.random.key(5)
  )
  np.testing.assert_array_equal(
    np.asarray(again['painted'])[..., 0] | ~holes_there, np.ones_like(holes_there)
  )
  assert set(holes.HOLES) == {'center', 'blocks', 'region'}


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'hole': 'star'}, "unknown hole 'star'.*center"),
    ({'adversarial': 'yes'}, "unknown adversarial 'yes'.*alternating"),
    ({'share': 1.0}, 'share=1.0'),
    ({'overlap': -1}, 'overlap=-1'),
    ({'overlap_weight': 0.0}, 'overlap_weight=0.0'),
    ({'adversarial_weight': 1.5}, 'adversarial_weight=1.5'),
    ({'discriminator_stages': 0}, 'discriminator_stages=0'),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make(NAME, axis=None, **changes)


@pytest.mark.parametrize('hole', ['center', 'blocks', 'region'])
def test_a_border_of_the_whole_hole_is_refused(hole):
  """Nothing would be hidden, and the task were to copy."""
  batch = batch_of(NAME)
  side = batch['views'][0].shape[1]
  method = make(NAME, axis=None, hole=hole, share=0.25, overlap=side // 4)
  with pytest.raises(ValueError, match=f'overlap={side // 4} leaves nothing of a hole'):
    jax.eval_shape(lambda: transformed(method, batch, KEY, STEP))


def test_a_discriminator_that_is_too_deep_for_the_image():
  method = make(NAME, axis=None, discriminator_stages=3)
  with pytest.raises(ValueError, match='at least 32 pixels, not 8x8'):
    jax.eval_shape(lambda: begin(method, batch_of(NAME)))
