"""An encoder as a folder that other libraries read.

    model.safetensors    weights in PyTorch's layout: ResNets and AlexNet under torchvision's names,
                         ViTs and ConvNeXts under timm's; with its heads, all under our names,
                         where it is read out at another tap than its embedding
    config.json          which network, in timm's words and in ours; how to normalize images
    encoder.stablehlo    the whole encoder with its weights, for any batch size (`jax.export`)
    encoder.onnx         the same for ONNX's runtimes, where the package onnx is installed
    README.md            a model card with code to copy
    model_card.json      the same as data

Images are uint8, or float32 in [0, 1] for an encoder of images of more than 8 bits. The folder is
what Hugging Face's hub takes as a model repository. `encoder.stablehlo` needs JAX and nothing of
byoljax:

    run = export.deserialize(bytearray(open('encoder.stablehlo', 'rb').read()))  # from jax
    h = run.call(images)  # uint8 [b, S, S, 3]
"""

from collections.abc import Callable, Mapping
import functools
import pathlib
from typing import Any

from flax.traverse_util import flatten_dict
import jax
from jax import export
import numpy as np

from byoljax.encoders.encoder import EMBEDDING, Encoder
from byoljax.models import vit
from byoljax.models.alexnet import ALEXNETS
from byoljax.models.convnext import CONVNEXTS
from byoljax.models.resnet import RESNETS
from byoljax.version import __version__
from byoljax.weights import (
  alexnet_names,
  convnext_names,
  dinov3_names,
  files,
  model_card,
  onnx_file,
  timm_words,
  torch_names,
  vit_names,
)
from byoljax.workdir.files import write_json

PLATFORMS = ('cpu', 'cuda', 'tpu')


def library_of(encoder: Encoder) -> str:
  """Who else has this network, apart from its width and a ResNet's stem: whose names it gets."""
  fields = encoder.fields
  rgb = fields.get('input', 'rgb') == 'rgb' and encoder.preprocessing.channels == 3
  if not fields or not rgb or encoder.tap != EMBEDDING:
    return 'byoljax'
  if timm_words.model_of(fields, encoder.preprocessing.image_size):
    return 'timm'
  if fields['name'] == 'alexnet_plain':
    whole = fields['stem'] == 'imagenet' and fields['fc_dim'] > 0
    return 'torchvision' if whole else 'byoljax'
  other = any(
    fields.get(name)
    for name in ('selective_kernel', 'resnet_d', 'first_projection', 'output_stride')
  )
  plain = fields['name'] in RESNETS and fields['padding'] == 'torch' and not other
  return 'torchvision' if plain else 'byoljax'


def weights_of(encoder: Encoder) -> dict[str, np.ndarray]:
  """Weights by name: those of torchvision and timm where they have this network, else ours."""
  params, bn = jax.device_get((encoder.params, encoder.bn))
  if encoder.tap == EMBEDDING:
    params, bn = params['encoder'], bn['encoder']
  fields, library = encoder.fields, library_of(encoder)
  if library == 'byoljax':
    trees = {'params': params, 'batch_stats': bn}
    return {name: np.asarray(value) for name, value in flatten_dict(trees, sep='/').items()}
  if fields['name'] in RESNETS:
    return torch_names.to_torch(params, bn)
  if fields['name'] in CONVNEXTS:
    return convnext_names.to_timm(params)
  if fields['name'] in ALEXNETS:
    return alexnet_names.to_torch(params)
  size = vit.VITS[fields['name']]
  patch = fields['patch_size'] or size.patch
  if size.rotary:
    return dinov3_names.to_timm(params, patch, size.swiglu)
  table = None
  if 'positions' not in params:
    count, dim = encoder.preprocessing.image_size // patch, size.dim * fields['width']
    xy = fields.get('positions') == 'sincos_xy'
    table = vit.sincos_positions(count, count, dim, fields.get('grid') or size.grid, xy=xy)
  return vit_names.to_timm(params, patch, table)


def serialized(function: Callable[[jax.Array], jax.Array], image: jax.ShapeDtypeStruct) -> bytes:
  """A function of images with all that it closes over, as StableHLO for any number of images.

  Args:
    function: images [b, S, S, C] -> float32 [b, D].
    image: shape and type of one image, as `Preprocessing.image`.
  """
  (batch,) = export.symbolic_shape('b')
  images = jax.ShapeDtypeStruct((batch, *image.shape), image.dtype)
  return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(images).serialize())


def write(encoder: Encoder, folder: pathlib.Path, about: Mapping[str, Any]) -> None:
  """Fills the folder.

  Args:
    encoder: what to write.
    folder: which is there, and empty.
    about: what the card says: {'method', 'data', 'step', 'results', ...}.

  Raises:
    OSError: it cannot be written.
  """
  from safetensors.numpy import save

  weights = weights_of(encoder)
  numbers = sum(array.size for array in weights.values() if array.dtype == np.float32)
  card = _card(encoder, about, numbers)
  (folder / files.SAFETENSORS).write_bytes(save(weights, metadata={'format': 'pt'}))
  (folder / 'encoder.stablehlo').write_bytes(
    serialized(
      functools.partial(encoder.apply, encoder.params, encoder.bn), encoder.preprocessing.image
    )
  )
  write_json(folder / 'model_card.json', card)
  timm = None
  if card['names'] == 'timm':
    timm = timm_words.model_of(encoder.fields, encoder.preprocessing.image_size)
  (folder / 'README.md').write_text(model_card.render(card, timm))
  write_json(folder / 'config.json', _config(encoder))


def write_onnx(encoder: Encoder, folder: pathlib.Path) -> None:
  """Adds `encoder.onnx` to a folder that `write` has written.

  Raises:
    ValueError: the package onnx is not installed, or the network cannot be translated.
    OSError: it cannot be written.
  """
  made = onnx_file.model(
    functools.partial(encoder.apply, encoder.params, encoder.bn), encoder.preprocessing.image
  )
  (folder / 'encoder.onnx').write_bytes(made)
  card = folder / 'README.md'
  card.write_text(card.read_text() + _ONNX)


_ONNX = """
## ONNX

```python
import onnxruntime

run = onnxruntime.InferenceSession('encoder.onnx')
(features,) = run.run(None, {'images': images})  # the images that the StableHLO takes
```
"""


def _config(encoder: Encoder) -> dict[str, Any]:
  fields, preprocessing = dict(encoder.fields), encoder.preprocessing
  side = preprocessing.image_size
  ours = {
    'encoder': fields,
    'tap': encoder.tap,
    'mean': list(preprocessing.mean),
    'std': list(preprocessing.std),
    'image_size': side,
    'range': preprocessing.range,
    'version': __version__,
  }
  library = library_of(encoder)
  model = timm_words.model_of(fields, side) if library == 'timm' else None
  resnet = library == 'torchvision' and fields['name'] in RESNETS
  if model:
    own = {'architecture': model.name, 'model_args': model.arguments}
    side, network = model.side, model.about
  elif resnet and fields['width'] == 1 and fields['stem'] == 'imagenet':
    own = {'architecture': fields['name']}
    network = {'pool_size': [-(-side // 32)] * 2, 'first_conv': 'conv1', 'classifier': 'fc'}
  else:
    return {'library_name': 'byoljax', 'byoljax': ours}
  return {
    'library_name': 'timm',
    **own,
    'num_classes': 0,
    'num_features': encoder.dim,
    'pretrained_cfg': {
      'input_size': [preprocessing.channels, side, side],
      'mean': list(preprocessing.mean),
      'std': list(preprocessing.std),
      'crop_pct': 0.875,
      'interpolation': 'bicubic',
      'num_classes': 0,
      **network,
    },
    'byoljax': ours,
  }


def _card(encoder: Encoder, about: Mapping[str, Any], numbers: int) -> dict[str, Any]:
  preprocessing = encoder.preprocessing
  return {
    'encoder': dict(encoder.fields),
    'tap': encoder.tap,
    'features': encoder.dim,
    'numbers': numbers,
    'image_size': preprocessing.image_size,
    'mean': list(preprocessing.mean),
    'std': list(preprocessing.std),
    'range': preprocessing.range,
    'names': library_of(encoder),
    'byoljax': __version__,
    **about,
  }
