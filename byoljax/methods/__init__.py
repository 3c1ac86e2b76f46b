"""The table of methods: name in a configuration -> builder.

A builder is called as `build(make_encoder, setting, **fields of config.method)` and returns a
`byoljax.method.Method`. Adding a method is one file here, one line below, one configuration and one
row in the contract test.
"""

from collections.abc import Callable

from byoljax.method import Method
from byoljax.methods.joint_embedding import (
  barlow_twins,
  bridge,
  byol,
  deepcluster,
  deepcluster_v2,
  dino,
  instance_discrimination,
  interclr,
  moco,
  moco_v3,
  nnclr,
  simclr,
  simsiam,
  swav,
  triplet,
  vicreg,
  w_mse,
)
from byoljax.methods.pretext import (
  counting,
  exemplar,
  geometric,
  jigsaw,
  relative_patch_location,
  rotation,
)
from byoljax.methods.supervised import distillation, linear_probe, supervised

METHODS: dict[str, Callable[..., Method]] = {
  'barlow_twins': barlow_twins.build,
  'bridge': bridge.build,
  'byol': byol.build,
  'counting': counting.build,
  'deepcluster': deepcluster.build,
  'deepcluster_v2': deepcluster_v2.build,
  'dino': dino.build,
  'distillation': distillation.build,
  'exemplar': exemplar.build,
  'geometric': geometric.build,
  'instance_discrimination': instance_discrimination.build,
  'interclr': interclr.build,
  'jigsaw': jigsaw.build,
  'linear_probe': linear_probe.build,
  'moco': moco.build,
  'moco_v3': moco_v3.build,
  'nnclr': nnclr.build,
  'relative_patch_location': relative_patch_location.build,
  'rotation': rotation.build,
  'simclr': simclr.build,
  'simsiam': simsiam.build,
  'supervised': supervised.build,
  'swav': swav.build,
  'triplet': triplet.build,
  'vicreg': vicreg.build,
  'w_mse': w_mse.build,
}
