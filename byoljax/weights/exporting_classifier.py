"""A classifier beside its exported encoder, for other libraries.

classifier.stablehlo     all of it: images [b, S, S, C] -> probabilities float32 [b, K]
classifier.safetensors   what stands on the features: 'weight' [K, D] and 'bias' [K] as of a
                         torch.nn.Linear, or of k-NN 'bank' [N, D] and 'labels' [N]
classes.json             the K names in their order, the temperature, the readout's settings
classifier.onnx          all of it for ONNX's runtimes, where the package onnx is installed
"""

import functools
import pathlib

import numpy as np

from byoljax.encoders.classifier import Classifier
from byoljax.ops import readouts
from byoljax.weights import exporting, model_card, onnx_file
from byoljax.weights.onnx_graph import Graph
from byoljax.workdir.files import write_json

_CARD = """
## Classes

{count} classes, by {readout}: {names}. In this order, as in `classes.json`;
probabilities are calibrated with the temperature {heat:.4g}.

```python
run = export.deserialize(bytearray(open('classifier.stablehlo', 'rb').read()))
chances = run.call(images)  # {images} -> float32 [b, {count}]
```
"""

_PYTORCH = """
In PyTorch, of its features above:

```python
head = safetensors.torch.load_file('classifier.safetensors')
{unit}chances = ((features @ head['weight'].T + head['bias']) / {heat:.7g}).softmax(1)
```
"""
_UNIT = 'features = features / (features.norm(dim=1, keepdim=True) + 1e-5)\n'

_ONNX = """
```python
run = onnxruntime.InferenceSession('classifier.onnx')
(chances,) = run.run(None, {'images': images})
```
"""


def write_onnx(classifier: Classifier, folder: pathlib.Path) -> None:
  """Adds `classifier.onnx` to a folder that `write` has written.

  Raises:
    ValueError: the package onnx is not installed, or the network cannot be translated.
    OSError: it cannot be written.
  """
  encoder, readout = classifier.encoder, classifier.readout
  image = encoder.preprocessing.image
  if isinstance(readout, readouts.Neighbors):
    made = onnx_file.model(
      functools.partial(encoder.apply, encoder.params, encoder.bn),
      image,
      lambda graph, features: _votes(graph, features, readout, classifier.temperature),
    )
  else:
    made = onnx_file.model(classifier.apply, image)
  (folder / 'classifier.onnx').write_bytes(made)
  card = folder / 'README.md'
  card.write_text(card.read_text() + _ONNX)


def _votes(graph: Graph, features: str, readout: readouts.Neighbors, temperature: float) -> str:
  """`Neighbors.logits` and the softmax: votes are added up by an operation of ONNX's own."""

  def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)

  axis = np.array([1], np.int64)
  length = graph.add('ReduceL2', [features, axis])
  unit = graph.add('Div', [features, graph.add('Max', [length, number(1e-12)])])
  similarity = graph.add('MatMul', [unit, np.ascontiguousarray(readout.bank.T)])
  nearest, rows = graph.add_several('TopK', [similarity, np.array([readout.k], np.int64)], 2)
  best = graph.add('ReduceMax', [nearest, axis])
  weights = graph.add('Div', [graph.add('Sub', [nearest, best]), number(readout.temperature)])
  own = graph.add('Gather', [readout.labels.astype(np.int64), rows])
  count = graph.add('Shape', [features], start=0, end=1)
  shape = graph.add('Concat', [count, np.array([readout.classes], np.int64)], axis=0)
  none = graph.add('Expand', [number(0), shape])
  votes = graph.add(
    'ScatterElements', [none, own, graph.add('Exp', [weights])], axis=1, reduction='add'
  )
  total = graph.add('Add', [graph.add('ReduceSum', [votes, axis]), number(readouts.PRIOR)])
  shared = graph.add('Add', [votes, number(readouts.PRIOR / readout.classes)])
  scores = graph.add('Log', [graph.add('Div', [shared, total])])
  return graph.add('Softmax', [graph.add('Div', [scores, number(temperature)])], axis=1)


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
  program = exporting.serialized(classifier.apply, classifier.encoder.preprocessing.image)
  (folder / 'classifier.stablehlo').write_bytes(program)
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
  card = folder / 'README.md'
  its = classifier.encoder.preprocessing
  text = _CARD.format(
    count=len(classifier.classes),
    readout=kind,
    names=', '.join(classifier.classes),
    images=model_card.images(its.channels, its.image_size, its.range),
    heat=classifier.temperature,
  )
  about = card.read_text()
  if 'weight' in arrays and 'import safetensors.torch' in about:
    unit = _UNIT if settings['unit'] else ''
    text += _PYTORCH.format(unit=unit, heat=classifier.temperature)
  card.write_text(about + text)
