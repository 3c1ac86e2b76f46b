"""A classifier beside its exported encoder, for other libraries.

    classifier.stablehlo     all of it: uint8 [b, S, S, C] -> probabilities float32 [b, K]
    classifier.safetensors   what stands on the features: 'weight' [K, D] and 'bias' [K] as of a
                             torch.nn.Linear, or of k-NN 'bank' [N, D] and 'labels' [N]
    classes.json             the K names in their order, the temperature, the readout's settings

ONNX is not written: nothing here converts to it. `classifier.stablehlo` needs JAX alone.
"""

import pathlib

import jax
from jax import export
import numpy as np

from byoljax.encoders.classifier import Classifier
from byoljax.weights import exporting
from byoljax.workdir.files import write_json

_CARD = """
## Classes

{count} classes, by {readout}: {names}

```python
run = export.deserialize(bytearray(open('classifier.stablehlo', 'rb').read()))
chances = run.call(images)  # uint8 [b, {side}, {side}, {channels}] -> float32 [b, {count}]
```

In this order, as in `classes.json`; probabilities are calibrated with the temperature {heat:.4g}.
"""


def serialized(classifier: Classifier) -> bytes:
  """The classifier with its weights as StableHLO, for any batch size."""
  _, side, _, channels = classifier.encoder.preprocessing.example().shape
  (batch,) = export.symbolic_shape('b')
  images = jax.ShapeDtypeStruct((batch, side, side, channels), np.uint8)
  compiled = jax.jit(classifier.apply)
  return bytes(export.export(compiled, platforms=exporting.PLATFORMS)(images).serialize())


def write(classifier: Classifier, folder: pathlib.Path) -> None:
  """Adds the classifier to a folder that `exporting.write` has written of its encoder.

  Raises:
    OSError: it cannot be written.
  """
  from safetensors.numpy import save

  arrays, settings = {}, {}
  for name, value in classifier.readout._asdict().items():
    if name == 'kernel':
      arrays['weight'] = np.ascontiguousarray(value.T)
    elif isinstance(value, np.ndarray):
      arrays[name] = np.ascontiguousarray(value)
    else:
      settings[name] = value
  (folder / 'classifier.safetensors').write_bytes(save(arrays, metadata={'format': 'pt'}))
  (folder / 'classifier.stablehlo').write_bytes(serialized(classifier))
  kind = 'a linear classifier' if 'weight' in arrays else f'{settings["k"]} nearest neighbors'
  write_json(
    folder / 'classes.json',
    {
      'classes': list(classifier.classes),
      'temperature': classifier.temperature,
      'readout': {'kind': kind, **settings},
      'result': dict(classifier.protocol).get('result', {}),
    },
  )
  _, side, _, channels = classifier.encoder.preprocessing.example().shape
  card = folder / 'README.md'
  text = _CARD.format(
    count=len(classifier.classes),
    readout=kind,
    names=', '.join(classifier.classes),
    side=side,
    channels=channels,
    heat=classifier.temperature,
  )
  card.write_text(card.read_text() + text)
