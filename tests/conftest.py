"""Four virtual CPU devices for every test, and strict settings for our own code."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Compiling is most of a test's time; the compiled steps run only a few times.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=1'
)

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
