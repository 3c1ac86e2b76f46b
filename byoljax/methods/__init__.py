"""The table of methods: name in a configuration -> builder.

A builder is called as `build(make_encoder, setting, **fields of config.method)` and returns a
`byoljax.method.Method`. Adding a method is one file here, one line below, one configuration and one
row in the contract test.
"""

from collections.abc import Callable

from byoljax.method import Method
from byoljax.methods import byol, linear_probe

METHODS: dict[str, Callable[..., Method]] = {
  'byol': byol.build,
  'linear_probe': linear_probe.build,
}
