"""What was drawn for a view, as numbers: the targets of whoever predicts the augmentation.

Made from the very draws that make the picture: crops from the box that was cut, photometric
parameters from the columns of the same uniforms. An operation that was not applied, because of its
probability, its strength or the size of the view, has the parameter 0.

    columns     what                                                                  range
    crop        center y, center x, height, width; fractions of the whole image       [0, 1]
    flip        1 where the view is mirrored                                          0, 1
    color       brightness, contrast, saturation, hue; 0 is no change, 1 the width    [-1/2, 1/2]
                of the range that the view draws from
    gray        1 where the color is dropped                                          0, 1
    blur        sigma over the view's largest                                         [0, 1]
    solarize    1 where the view is solarized                                         0, 1

The center is that of the image as it is stored, before any mirroring.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.data.augment import views

COLUMNS: dict[str, slice] = {
  'crop': slice(0, 4),
  'flip': slice(4, 5),
  'color': slice(5, 9),
  'gray': slice(9, 10),
  'blur': slice(10, 11),
  'solarize': slice(11, 12),
}
NUM_WINDOW = 5
NUM_PARAMETERS = 12


def window(xp: Any, boxes: Any, flip: Any, height: Any, width: Any) -> Any:
  """The geometry of a view, where it is cut: the columns 'crop' and 'flip'.

  Args:
    xp: array namespace: numpy or jax.numpy.
    boxes: crops int32 [b, 4] (y, x, h, w) in pixels.
    flip: bool [b], whether the view is mirrored.
    height: of the image in pixels, a scalar or integer [b].
    width: of the image in pixels, a scalar or integer [b].

  Returns:
    float32 [b, NUM_WINDOW].
  """
  y, x, h, w = (xp.asarray(boxes[:, i], dtype=np.float32) for i in range(4))
  height, width = (xp.asarray(side, dtype=np.float32) for side in (height, width))
  mirrored = xp.asarray(flip, dtype=np.float32)
  center = ((y + 0.5 * h) / height, (x + 0.5 * w) / width)
  return xp.stack([*center, h / height, w / width, mirrored], axis=-1)


def parameters(window: jax.Array, u: jax.Array, spec: views.ViewSpec) -> jax.Array:
  """All parameters of a view, float32 [b, NUM_PARAMETERS], see the module.

  Args:
    window: from `window`.
    u: the uniforms float32 [b, views.NUM_DRAWS] that the view's photometric operations read.
    spec: of the view.
  """

  def happens(column: int, probability: float) -> jax.Array:
    return (u[:, column] < probability).astype(jnp.float32)

  jitter = happens(views.JITTER, spec.jitter_prob)
  strengths = (
    (views.BRIGHTNESS, spec.brightness),
    (views.CONTRAST, spec.contrast),
    (views.SATURATION, spec.saturation),
    (views.HUE, spec.hue),
  )
  color = [jitter * (u[:, column] - 0.5) * float(most > 0) for column, most in strengths]
  low, high = spec.blur_sigma
  sigma = (low + u[:, views.SIGMA] * (high - low)) / high
  blurred = happens(views.BLUR, spec.blur_prob if spec.blurs else 0.0)
  gray = happens(views.GRAY, spec.gray_prob)
  solarized = happens(views.SOLARIZE, spec.solarize_prob)
  own = jnp.stack([*color, gray, blurred * sigma, solarized], axis=-1)
  return jnp.concatenate([window, own], axis=-1)
