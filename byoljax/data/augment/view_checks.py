"""Which views fit which images: colors need RGB, and series are told apart by their place."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from byoljax.data.augment import views
from byoljax.wording import counted


def check_channels(spec: views.ViewSpec, channels: int) -> None:
  """Refuses operations on color for images that are not RGB; all others take any channels.

  Raises:
    ValueError: the settings that must be 0.
  """
  if channels == 3:
    return
  jitter = [name for name in ('saturation', 'hue') if spec.jitter_prob > 0 and getattr(spec, name)]
  wrong = [*jitter, *(['gray_prob'] if spec.gray_prob > 0 else [])]
  if wrong:
    raise ValueError(
      f'the images have {counted(channels, "channel")}, but these operations need red, green and '
      f'blue: set {" and ".join(f"{name}=0" for name in wrong)} in the view.'
    )


# What leaves the places of an image's numbers and their values as they are, by field.
WHOLE: Mapping[str, Any] = MappingProxyType(
  dict.fromkeys(views.PROBABILITIES, 0.0)
  | {'crop_scale': (1.0, 1.0), 'crop_ratio': (1.0, 1.0), 'rotate_degrees': 0.0, 'own': ''}
  | {'zoom': None, 'shift': 0.0, 'elastic': 0.0, 'randaugment_ops': 0, 'randaugment_prob': 0.5}
)


def require_whole(spec: views.ViewSpec, name: str) -> None:
  """Refuses views that change series, whose steps are told apart by their place.

  Raises:
    ValueError: the settings of a view of the set `name` that must be others.
  """
  wrong = {field: value for field, value in WHOLE.items() if getattr(spec, field) != value}
  if wrong:
    changes = ', '.join(f'{field}={value}' for field, value in wrong.items())
    raise ValueError(
      f'{name} holds series, which are not cropped, mirrored or recolored: set {changes} in every '
      'view, as the recipe next_step does. (If they are gray images: save them as [N, H, W, 1].)'
    )
