"""What a run computes on, in words, and why not on something else: settled before it begins.

JAX's own warnings, such as that there is a GPU but no CUDA in jaxlib, would be lost among those
that are silenced; and a platform that is asked for and not there ends in a bare AssertionError.
"""

from collections.abc import Iterator
import contextlib
import logging
from typing import Any

import jax

_LOGGER = 'jax._src.xla_bridge'
# Switch of JAX: (values with which a run works, why not with others). With other switches it works.
_SWITCHES: dict[str, tuple[tuple[object, ...], str]] = {
  'jax_enable_x64': ((False,), 'runs compute in float32, or in bfloat16 with encoder.dtype'),
  'jax_disable_jit': ((False,), 'a step that is not compiled takes minutes'),
  'jax_numpy_dtype_promotion': (('standard',), 'flax and optax rely on promotion'),
  'jax_transfer_guard': ((None, 'allow', 'log'), 'batches and numbers are sent to the devices'),
}


AUTO = 'auto'
# Compute capability of Ampere, NVIDIA's first GPUs that multiply bfloat16.
_AMPERE = 8.0


def compute_type() -> str:
  """The compute type that suits the devices here, which a recipe calls `AUTO`.

  'bfloat16' where every device of the run multiplies it faster than float32: TPUs, and NVIDIA's
  GPUs of compute capability 8.0 or more. 'float32' on all others, CPUs among them.
  """
  return 'bfloat16' if all(map(_multiplies_bfloat16, jax.devices())) else 'float32'


def _multiplies_bfloat16(device: Any) -> bool:
  if device.platform == 'tpu':
    return True
  try:  # '9.0'; of AMD's GPUs 'gfx942', and others have none.
    return device.platform == 'gpu' and float(getattr(device, 'compute_capability', 0)) >= _AMPERE
  except ValueError:
    return False


def require_usual_switches() -> None:
  """Checks the switches of JAX, as the environment sets them.

  Raises:
    ValueError: one has a value with which nothing here works.
  """
  for name, (valid, why) in _SWITCHES.items():
    value = getattr(jax.config, name, valid[0])  # Other versions may have other switches.
    if value not in valid:
      raise ValueError(f'{name.upper()}={value} does not work here, because {why}: unset it.')


@contextlib.contextmanager
def warnings_of_jax() -> Iterator[list[str]]:
  """Collects what JAX says about devices while it looks for them, even where it is silenced."""
  said: list[str] = []
  logger = logging.getLogger(_LOGGER)
  handler = logging.Handler(logging.WARNING)
  handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
  level = logger.level
  logger.addHandler(handler)
  logger.setLevel(logging.WARNING)
  try:
    yield said
  finally:
    logger.setLevel(level)
    logger.removeHandler(handler)


def describe(warnings: list[str]) -> str:
  """The devices of a run: '8 x NVIDIA H200', '1 CPU device: a GPU may be present, but ...'.

  Args:
    warnings: what `warnings_of_jax` has collected.

  Raises:
    ValueError: JAX cannot use the platform that it was told to use.
  """
  asked = jax.config.jax_platforms or ''  # type: ignore[attr-defined]
  try:
    devices = jax.devices()
  except (RuntimeError, AssertionError) as error:
    reason = str(error).partition('. (')[0] or 'none is visible'
    if not asked:
      raise ValueError(f'JAX cannot use the devices of this machine: {reason}.') from error
    raise ValueError(
      f'JAX_PLATFORMS={asked}: JAX cannot use such a device here ({reason}). Unset it, or install '
      f"JAX for that device, such as by pip install 'byoljax[cuda]'."
    ) from error
  count, kind = len(devices), devices[0].device_kind
  text = f'{count} CPU device{"s" * (count > 1)}' if kind == 'cpu' else f'{count} x {kind}'
  if kind == 'cpu' and asked:
    text += f' (JAX_PLATFORMS={asked})'
  if not warnings:
    return text
  hint = "pip install 'byoljax[cuda]'" if any('CUDA-enabled' in said for said in warnings) else ''
  return f'{text}: {" ".join([*warnings, hint])}'.strip()
