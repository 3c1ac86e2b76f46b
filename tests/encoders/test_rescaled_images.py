"""On which images the rescaled random network is fitted."""

import numpy as np

from byoljax import config as config_lib
from byoljax.encoders import load
from byoljax.encoders.encoder import Preprocessing
from tests.paths import ROOT


def test_they_are_of_the_classes_that_the_run_has(tmp_path):
  labels = np.arange(40) % 4
  images = np.repeat(10 * labels.astype(np.uint8), 8 * 8 * 3).reshape(40, 8, 8, 3)
  np.savez(tmp_path / 'four.npz', x_train=images, y_train=labels, x_test=images, y_test=labels)
  changes = [('data.dir', str(tmp_path / 'four.npz')), ('data.classes', '(2,)')]
  config = config_lib.load(f'{ROOT}/configs/byol.py:npz', changes)
  found = load._some_images(config, Preprocessing((0.0,) * 3, (1.0,) * 3, 8))
  np.testing.assert_allclose(found, np.full((10, 8, 8, 3), 20 / 255), rtol=1e-6)
