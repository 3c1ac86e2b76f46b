"""What a whole data set's features say about collapse: by hand and against other forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.evals import collapse, spectrum
from byoljax.report import by_tap


def random(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def test_values_by_hand():
  # Unit rows e1, -e1, e2, -e2: mean 0, standard deviation sqrt(1/2) in both dimensions.
  x = np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0], [0.0, -1.0]])
  found = spectrum.measure(x)
  assert found['std'] == pytest.approx(1.0)
  assert found['spectrum'] == pytest.approx([0.5**0.5] * 2)
  assert found['effective_rank'] == pytest.approx(2) and found['centered_rank'] == pytest.approx(2)
  # Two of six pairs are opposite, four orthogonal.
  assert found['mean_cosine'] == pytest.approx(-1 / 3)
  assert found['dead'] == 0 and (found['images'], found['dimensions']) == (4, 2)


def test_dead_dimensions_are_told_from_quiet_ones():
  x = random(0, 500, 6)
  x[:, 1] = 4.0
  x[:, 2] *= 0.05  # quiet
  x[:, 3] *= 0.005
  assert spectrum.measure(x)['dead'] == 2
  assert spectrum.measure(np.ones((5, 3)))['dead'] == 3


@pytest.mark.parametrize('shape', [(60, 20), (20, 60), (400, 30)])
def test_equals_other_forms(shape):
  x = random(1, *shape) * np.logspace(0, -1, shape[1]) + 1
  found = spectrum.measure(x.astype(np.float32))
  as_jax = jnp.asarray(x, jnp.float32)
  assert found['std'] == pytest.approx(float(collapse.normalized_std(as_jax)), rel=1e-5)
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  in_float32 = collapse.effective_rank(jnp.asarray(unit, jnp.float32))
  assert found['effective_rank'] == pytest.approx(float(in_float32), rel=1e-3)
  eigenvalues = np.linalg.eigvalsh(np.cov(unit.T, bias=True))[::-1][: min(shape)]
  np.testing.assert_allclose(found['spectrum'], np.sqrt(np.abs(eigenvalues)), atol=1e-7)
  cosines = unit @ unit.T
  pairs = cosines[np.triu_indices(len(x), 1)]
  assert found['mean_cosine'] == pytest.approx(pairs.mean())
  spread = np.sort(unit.std(0))[::-1] * shape[1] ** 0.5
  np.testing.assert_allclose(found['std_by_dimension'], spread, rtol=1e-4)


def test_verdicts():
  healthy, point = random(0, 300, 40), np.ones((300, 40)) + 0.01 * random(1, 300, 40)
  line = random(2, 300, 2) @ random(3, 2, 40)
  measured = {name: spectrum.measure(x) for name, x in
              (('healthy', healthy), ('point', point), ('line', line))}  # fmt: skip
  assert [spectrum.verdict(each) for each in measured.values()] == [
    'healthy', 'collapsed', 'low rank',
  ]  # fmt: skip
  said = spectrum.summary({'embedding': measured['healthy']})
  assert said.startswith('Not collapsed') and '0.05' in said and '10%' in said
  said = spectrum.summary({'embedding': measured['healthy'], 'projection': measured['line']})
  assert said.startswith('Not collapsed') and 'projection 2.0' in said
  said = spectrum.summary({'embedding': measured['line']})
  assert said.startswith('Dimensional collapse') and '2.0 of at most 40' in said
  # Losses see the projection, which collapses before the embedding does.
  said = spectrum.summary({'embedding': measured['healthy'], 'projection': measured['point']})
  assert said.startswith('Collapsed') and 'projection 0.0' in said


def test_bad_input():
  with pytest.raises(ValueError, match='at least two'):
    spectrum.measure(np.ones((1, 4)))
  with pytest.raises(ValueError, match='NaN or infinite'):
    spectrum.measure(np.array([[1.0, np.nan], [1.0, 2.0]]))


def test_constant_features_can_be_drawn(tmp_path):
  rows = {name: spectrum.measure(x) for name, x in
          (('embedding', random(0, 30, 8)), ('projection', np.zeros((30, 8))))}  # fmt: skip
  path = by_tap.plot(rows, tmp_path / 'spectrum.png')
  assert path.read_bytes()[:4] == b'\x89PNG'
