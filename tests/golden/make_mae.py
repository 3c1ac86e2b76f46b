"""Makes mae.npz: lightly's masked autoencoder on timm's ViT, in float64, and its gradients.

Run with PyTorch, timm and lightly installed: python tests/golden/make_mae.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib

from lightly.models import utils
from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
import mae_tensors as mae
import numpy as np
from timm.models.vision_transformer import VisionTransformer
import torch
from torch.nn import functional

COUNTED = {'vit_base': 768, 'vit_large': 1024}


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
  """Encoder and decoder with the weights that are drawn by name."""
  vit = VisionTransformer(**mae.VIT, num_classes=0, global_pool='token')
  encoder = MaskedVisionTransformerTIMM(vit).double()
  decoder = MAEDecoderTIMM(
    num_patches=mae.PLACES, patch_size=mae.VIT['patch_size'], embed_dim=mae.VIT['embed_dim'],
    **mae.DECODER,
  ).double()  # fmt: skip
  state = {name: torch.from_numpy(x).double() for name, x in mae.state().items()}
  fixed = {'pos_embed': vit.pos_embed, 'decoder_pos_embed': decoder.decoder_pos_embed}
  for name, positions in fixed.items():
    assert torch.allclose(state[name], positions.double(), atol=1e-6), name
  vit.load_state_dict({name: state[name] for name in vit.state_dict()})
  own = decoder.state_dict()
  decoder.load_state_dict({name: state[name] for name in own})
  assert set(state) == set(vit.state_dict()) | set(own)
  return encoder, decoder


def pixels_of(encoder, decoder, images, keep, hidden):
  """Predictions of all patches: the steps of lightly's example."""
  width = mae.DECODER['decoder_embed_dim']
  encoded = decoder.embed(encoder.encode(images, idx_keep=keep))
  tokens = decoder.mask_token.expand(len(images), 1 + mae.PLACES, width)
  tokens = utils.set_at_index(tokens.clone(), keep, encoded)
  tokens = utils.set_at_index(tokens, hidden, decoder.mask_token.expand(*hidden.shape, width))
  return decoder.predict(decoder.decode(tokens))[:, 1:]


def main() -> None:
  encoder, decoder = networks()
  images = torch.from_numpy(mae.images().transpose(0, 3, 1, 2).copy()).double()
  order = torch.from_numpy(mae.noise()).argsort(dim=1)
  zero = torch.zeros(len(images), 1, dtype=torch.int64)
  keep = torch.cat([zero, 1 + order[:, : mae.VISIBLE]], dim=1)
  hidden = 1 + order[:, mae.VISIBLE :]
  pixels = pixels_of(encoder, decoder, images, keep, hidden)
  patches = utils.patchify(images, mae.VIT['patch_size'])
  targets = utils.normalize_mean_var(patches)
  # lightly counts the class token as the first patch.
  own, wanted, raw = (utils.get_at_index(x, hidden - 1) for x in (pixels, targets, patches))
  loss = functional.mse_loss(own, wanted)
  names = dict(encoder.vit.named_parameters()) | dict(decoder.named_parameters())
  gradients = torch.autograd.grad(loss, [names[name] for name in mae.GRADIENTS])
  results = {
    'pixels': pixels.detach().numpy()[:, :, :: mae.STRIDE].astype(np.float32),
    'masked': np.ones((len(images), mae.PLACES), bool),
    'mse, normalized': np.float64(loss.item()),
    'mse': np.float64(functional.mse_loss(own, raw).item()),
    'l1': np.float64(functional.l1_loss(own, raw).item()),
    'zeros': np.float64(functional.mse_loss(torch.zeros_like(wanted), wanted).item()),
  }
  np.put_along_axis(results['masked'], order[:, : mae.VISIBLE].numpy(), False, axis=1)
  for name, gradient in zip(mae.GRADIENTS, gradients, strict=True):
    results[f'gradient of {name}'] = gradient.numpy().astype(np.float32)
  for name, dim in COUNTED.items():
    results[f'count/{name}'] = np.int64(count(dim))
  path = pathlib.Path(__file__).with_name('mae.npz')
  np.savez_compressed(path, **results)
  print({name: x if x.ndim == 0 else x.shape for name, x in results.items()})
  print(path, path.stat().st_size)


def count(dim: int) -> int:
  """Parameters of the paper's decoder at 224 pixels, fixed positions left out."""
  with torch.device('meta'):
    decoder = MAEDecoderTIMM(
      num_patches=196, patch_size=16, embed_dim=dim, initialize_weights=False
    )
  return sum(p.numel() for p in decoder.parameters()) - decoder.decoder_pos_embed.numel()


if __name__ == '__main__':
  main()
