"""What the report says in words and tables: facts, results, protocol and changes of a run."""

import pathlib
from typing import Any

import jax

from byoljax import config as config_lib
from byoljax.config import Config
from byoljax.data.sources.source import Source
from byoljax.encoders.encoder import Encoder
from byoljax.evals import knn
from byoljax.report import by_tap, evaluations, final_table, finished
from byoljax.report.samples import MOST_POINTS, Sample
from byoljax.version import __version__
from byoljax.workdir import description


def summary(
  run: pathlib.Path,
  config: Config,
  encoder: Encoder,
  source: Source | None,
  record: list[dict[str, Any]],
  directory: pathlib.Path,
) -> dict[str, str]:
  """The first thing to read: name -> value; what is not known is left out.

  Args:
    run: its directory.
    config: its configuration.
    encoder: of its checkpoint.
    source: images for the report, which the run may have trained on among others; None: none.
    record: its metrics, of which those up to the checkpoint are of interest.
    directory: of the checkpoint, named after its step.
  """
  count = sum(x.size for x in jax.tree.leaves(encoder.params))
  step = int(directory.name)
  record = [row for row in record if 0 < row['step'] <= step]
  last, seconds = record[-1] if record else {}, finished.training_seconds(record)
  stored = evaluations.read_json(run / 'config.json')
  images = '' if source is None else f'{source.size:,} of {source.name}'
  if 'num_examples' in stored.get('facts', {}):
    title = evaluations.data_title(config.data.name, config.data.dir)
    images = f'{stored["facts"]["num_examples"]:,} of {title}'
  found = {
    'method': config.get('method', {}).get('name', 'another library'),
    'encoder': f'{encoder.fields.get("name", "own module")}, {count:,} parameters',
    'images': images,
    'length': f'step {step:,}'
    + (f', epoch {last["epoch"] * step / last["step"]:.4g}' if 'epoch' in last else ''),
    'batch': f'{config.train.batch_size}' if 'train' in config else '',
    'precision': encoder.fields.get('dtype', ''),
    'seed': str(config.seed),
    'training': '' if seconds is None else f'{seconds / 60:.1f} min',
    'speed': f'{last["time/img_per_s_run"]:,.0f} images/s' if 'time/img_per_s_run' in last else '',
    'recipe': description.short_recipe(str(stored.get('recipe', ''))),
    'byoljax': stored.get('byoljax', __version__),
  }
  return {name: value for name, value in found.items() if value}


def verdict(run: pathlib.Path) -> tuple[str, bool]:
  """Whether the trained encoder beats its baselines, in a sentence, and whether all is well.

  It does where it is better by more than twice the standard error of the difference of two shares
  of that many test images; always naming the largest class has to be beaten, too. ('', True) where
  there is nothing to compare, or only an earlier checkpoint was evaluated.
  """
  final, _, is_newest = evaluations.final(run)
  names = list(final)
  if len(names) < 2 or not is_newest:
    return '', True
  beaten, unclear, lost = [], [], []
  for kind, title, count in (('knn', 'k-NN', 'queries'), ('linear', 'linear', 'test_examples')):
    scores = final[names[0]].get(kind, {})
    rivals = {name: final[name][kind]['top1'] for name in names[1:] if kind in final[name]}
    if 'majority' in scores:
      rivals[f'always naming {final_table.MAJORITY}'] = scores['majority']
    for other, theirs in rivals.items() if scores else ():
      own, tested = scores['top1'], max(1, scores.get(count, 10_000))
      error = ((own * (1 - own) + theirs * (1 - theirs)) / tested) ** 0.5
      kept = beaten if own - theirs > 2 * error else unclear if own > theirs else lost
      if kept is not beaten or other in names:  # Chance is hardly worth a word once it is beaten.
        kept.append(f'{title} {own:.1%} against {theirs:.1%} of {other}')
  said = '; '.join(lost or unclear or beaten)
  if lost:
    return f'This encoder does not beat its baselines and has learned little of use: {said}.', False
  if unclear:
    return (
      f'This encoder is better than its baselines, but not clearly for so few test images: {said}.'
    ), False
  return f'This encoder clearly beats what it has to beat: {said}.', True


def results(run: pathlib.Path) -> dict[str, list[dict[str, str]]]:
  """The final table, and later evaluations of this run."""
  tables: dict[str, list[dict[str, str]]] = {}
  final = evaluations.final(run)
  if final.results:
    tables[final.heading] = [
      {name: f'{value:.1%}' if isinstance(value, float) else value for name, value in row.items()}
      for row in final_table.rows(final.results)
    ]
  return tables | evaluations.tables(run) | by_tap.tables(run)


def protocol(config: Config) -> dict[str, Any]:
  """Dotted field -> value: what the results depend on."""
  fields = {
    name: value
    for name, value in config_lib.flatten(config).items()
    if name.startswith(('evals.knn.k', 'evals.knn.temperature', 'evals.linear', 'evals.image_size'))
  }
  headline = f'k = {knn.HEADLINE_K}, T = {knn.HEADLINE_TEMPERATURE}, cosine, un-augmented images'
  return {'k-NN headline': headline} | fields


def changes(run: pathlib.Path, config: Config) -> list[str] | None:
  """How the run's settings differ from its recipe's; None where the recipe is not to be had.

  Recipes are code: of those that a run names, only the package's own are read.
  """
  recipe = str(evaluations.read_json(run / 'config.json').get('recipe', ''))
  try:
    folder = pathlib.Path(recipe.partition(':')[0]).resolve().parent
    if folder != config_lib.recipes_directory().resolve():
      return None
    changed = config_lib.differences(config_lib.load(recipe), config)
  except (ValueError, OSError):
    return None
  # A recipe that leaves it to the devices is not changed by their choice.
  return [line for line in changed if not line.startswith("encoder.dtype: 'auto' -> ")]


# Heading of the page -> a sentence on what stands below it.
NOTES = {
  'Augmented views': 'An image on the left, what training makes of it beside it.',
  'Spectrum': 'Singular values of the centered features of each tap, and the spread of their '
  'dimensions: a curve that falls off a cliff is dimensional collapse.',
  'First layer': 'Kernels of the first convolution, each scaled to its own range.',
}


def notes(bank: Sample, queries: Sample, same: bool) -> dict[str, str]:
  """As `NOTES`, of what is made of images.

  Args:
    bank: where neighbors are looked for.
    queries: what they are looked for.
    same: whether both are of the same images.
  """
  where = 'the others' if same else f'{len(bank.labels):,} training images'
  kind = 'images' if same else 'test images'
  return {
    'Nearest neighbors': f'Random {kind} on the left, the nearest of {where} by cosine similarity '
    'beside them. The number is the cosine of the centered features: 0 for unrelated images, 1 for '
    'equal ones.',
    'Map of the embeddings': f'{min(MOST_POINTS, len(queries.labels)):,} {kind}; t-SNE keeps '
    'neighborhoods, not distances. Point at a place to see the image, choose a class to see it '
    'alone.',
    'Classes': f'k-NN (k = {knn.HEADLINE_K}, T = {knn.HEADLINE_TEMPERATURE}) of '
    f'{len(queries.labels):,} {kind} against {where}.',
  }
