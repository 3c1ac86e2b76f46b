"""The model card of an exported encoder, as Markdown that Hugging Face's hub reads."""

from collections.abc import Mapping, Sequence
from importlib import resources
import string
from typing import Any

from byoljax import own
from byoljax.encoders.encoder import EMBEDDING
from byoljax.encoders.load import BASELINES
from byoljax.models import convnext, vit
from byoljax.models.resnet import RESNETS
from byoljax.models.small import SmallResNet
from byoljax.weights import timm_words

_CIFAR_STEM = """\
model.conv1 = torch.nn.Conv2d(3, model.conv1.out_channels, 3, 1, 1, bias=False)
model.maxpool = torch.nn.Identity()
"""
_ALEXNET_FC_DIM = 4096  # torchvision's
_RGB = 3


def render(card: Mapping[str, Any], timm: timm_words.Model | None = None) -> str:
  """Fills the templates beside this module.

  Args:
    card: what `exporting.write` stores as model_card.json.
    timm: what timm makes the network from, where it has it.
  """
  side = card['image_size']
  encoder = card['encoder'] or {'name': 'a module of its own', 'width': 1}
  use = ''
  if card['names'] == 'torchvision' and encoder['width'] == 1:
    use = _with_torchvision(encoder)
  if card['tap'] == EMBEDDING and _is_plain_small(encoder, len(card['mean'])):
    channels = tuple(encoder['width'] * count for count in SmallResNet.channels)
    use = _fill('small', channels=', '.join(map(str, channels)))
  if timm is not None:
    arguments = ', '.join(f'{name}={value!r}' for name, value in timm.arguments.items())
    use = _fill('timm', model=timm.name, arguments=arguments)
  return _fill(
    'card',
    encoder=encoder['name'],
    width=encoder['width'],
    details=_details(encoder) + _place(card['tap']),
    numbers=f'{card["numbers"]:,}',
    side=side,
    features=card['features'],
    images=images(len(card['mean']), side, card['range']),
    mean=_numbers(card['mean']),
    std=_numbers(card['std']),
    method=card['method'],
    training='before training' if card['network'] in BASELINES else 'pretrained',
    data=card['data'],
    network=card['network'],
    step=card['step'],
    version=card['byoljax'],
    photographs=photographs(card),
    own=_fill('byoljax') if _is_loadable(card) else '',
    use=use,
    results=_results(card['results'], card['network']),
  )


def images(channels: int, side: int, range_: str) -> str:
  """What exported programs take, see `Preprocessing.image`: 'uint8 [b, 32, 32, 3]'."""
  kind = 'float32 in [0, 1]' if range_ else 'uint8'
  return f'{kind} [b, {side}, {side}, {channels}]'


def photographs(card: Mapping[str, Any]) -> str:
  """What evaluation does to an image file, without byoljax; '' of others than 8-bit RGB."""
  if len(card['mean']) != _RGB or card['range']:
    return ''
  mean, std = _numbers(card['mean']), _numbers(card['std'])
  return _fill('photographs', side=card['image_size'], mean=mean, std=std)


def _with_torchvision(encoder: Mapping[str, Any]) -> str:
  """How torchvision makes the network; '' where its constructor cannot."""
  if encoder['name'] in RESNETS:
    changed = 'model.fc = torch.nn.Identity()\n'
    changed += _CIFAR_STEM if encoder['stem'] == 'cifar' else ''
    return _fill('torchvision', encoder=encoder['name'], changed=changed)
  if encoder['fc_dim'] != _ALEXNET_FC_DIM:
    return ''
  changed = 'model.classifier[6] = torch.nn.Identity()\n'
  return _fill('torchvision', encoder='alexnet', changed=changed)


def _is_loadable(card: Mapping[str, Any]) -> bool:
  """Whether a folder says enough of it, as `exported.about` demands."""
  encoder = card['encoder']
  return bool(encoder) and not own.is_path(encoder['name']) and card['tap'] == EMBEDDING


def _is_plain_small(encoder: Mapping[str, Any], channels: int) -> bool:
  """Whether this is the small encoder as PyTorch can pad it."""
  padded = encoder.get('padding') == 'torch' and encoder.get('input', 'rgb') == 'rgb'
  return encoder['name'] == 'small' and padded and channels == _RGB


def _fill(template: str, **fields: object) -> str:
  path = resources.files('byoljax.weights').joinpath('templates', f'{template}.md')
  return string.Template(path.read_text(encoding='utf-8')).substitute(fields)


def _details(encoder: Mapping[str, Any]) -> str:
  text = ''
  if encoder.get('input', 'rgb') != 'rgb':
    text += f', input {encoder["input"]}'
  if encoder['name'] in RESNETS:
    text += f', stem {encoder["stem"]}'
  if encoder['name'] in convnext.CONVNEXTS:
    patch = encoder['patch_size'] or convnext.CONVNEXTS[encoder['name']].patch
    text += f', patches of {patch} pixels'
  if encoder['name'] in vit.VITS:
    patch = encoder['patch_size'] or vit.VITS[encoder['name']].patch
    text += f', patches of {patch} pixels, embedding {encoder["pool"]}'
  return text


def _place(tap: str) -> str:
  return '' if tap == EMBEDDING else f', read out at `{tap}`'


def _results(results: Mapping[str, Any], network: str) -> str:
  if not results and network != 'online':
    return f"None: the run's own results are of its online network, not of its {network} network."
  if not results:
    return 'None were stored with the run.'
  lines = ['| encoder | k-NN top-1 | balanced | linear top-1 | balanced |', '|---|---|---|---|---|']
  shown = [(kind, score) for kind in ('knn', 'linear') for score in ('top1', 'mean_per_class')]
  lines += [
    f'| {name} | ' + ' | '.join(f'{each[kind][score]:.1%}' for kind, score in shown) + ' |'
    for name, each in results.items()
  ]
  return '\n'.join([*lines, '', "From the run's own results.json, which holds the protocol."])


def _numbers(numbers: Sequence[float]) -> str:
  return '(' + ', '.join(f'{number:g}' for number in numbers) + ')'
