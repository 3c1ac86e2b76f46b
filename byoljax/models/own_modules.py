"""What networks expect of a linen module, which a user may have written.

It has parameters and running statistics ('params', 'batch_stats') and nothing else that lasts,
takes no random numbers when it is called, and an encoder returns a vector for each image.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax


def init(module: nn.Module, key: jax.Array, x: Any, more: Mapping[str, Any]) -> dict[str, Any]:
  """The initial variables of a module, 'params' and 'batch_stats', where it has them.

  Args:
    module: called as `module(x, train=..., **more)`.
    key: for the parameters.
    x: its input, or the shape of that.
    more: its further inputs.

  Raises:
    ValueError: it drops values, or has other variables.
  """
  # Inner maps, which modules around others may read, are mutable, too.
  with nn.intercept_methods(_refuse_dropout):
    variables = dict(module.init(key, x, train=False, mutable=True, **more))
  variables.pop('intermediates', None)
  for name in variables.keys() - {'params', 'batch_stats'}:
    leaves = jax.tree.leaves(variables.pop(name), is_leaf=lambda x: isinstance(x, tuple))
    if not all(isinstance(leaf, tuple) for leaf in leaves):  # Else they are sown.
      raise ValueError(
        f"the module {type(module).__name__} has variables in '{name}', but 'params' and "
        "'batch_stats' are all that is kept: leave them out."
      )
  return variables


def _refuse_dropout(
  call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
) -> Any:
  if isinstance(context.module, nn.Dropout) and context.module.rate:
    raise ValueError(
      f'the module {context.module.path and context.module.path[-1]} is an nn.Dropout, but '
      'networks get no random numbers: set its rate to 0, or drop values in the method.'
    )
  return call(*args, **kwargs)


def check_embedding(module: nn.Module, made: Any) -> None:
  """Checks what an encoder returns for a batch of images, an array or its shape.

  Raises:
    ValueError: it is no vector for each image, [b, D].
  """
  shape = getattr(made, 'shape', ())
  if len(shape) != 2:
    raise ValueError(
      f'the encoder {type(module).__name__} returns {list(shape)} for a batch of images, but an '
      'embedding is [b, D]: end it with a mean over all positions, such as x.mean((1, 2)).'
    )
