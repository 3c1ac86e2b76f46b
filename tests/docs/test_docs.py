"""The documentation: links, navigation, commands, code blocks, and the site itself."""

import importlib
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import yaml

from byoljax import cli, main
from byoljax import config as config_lib
from byoljax.workdir import run_dir
from tests import markdown_pages
from tests.markdown_pages import ROOT, pages, recipe_pages

WRITTEN = markdown_pages.written()
API = [origin for origin in WRITTEN if origin.startswith('docs/api/')]
# Pages whose Python is not run here, and why.
ELSEWHERE = {
  'docs/adding_a_method.md': 'tests/docs/test_worked_example.py',
  'docs/shapes.md': 'renders the whole data set and writes TFDS files: test_shapes.py',
}


def anchors(text):
  """Ids of the headings, as the site and code hosts make them."""
  headings = re.findall(r'^#+ +(.*)$', pages._CODE.sub('', text), re.M)
  plain = (re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading) for heading in headings)
  return {re.sub(r'[^\w\- ]', '', heading).strip().lower().replace(' ', '-') for heading in plain}


@pytest.mark.parametrize('origin', sorted(WRITTEN))
def test_links_resolve(origin):
  for link in pages.links(WRITTEN[origin]):
    target = pages.target(origin, link)
    assert (ROOT / target).exists(), f'{origin} links to {link}'
    anchor = link.partition('#')[2]
    if anchor and target in WRITTEN:
      assert anchor in anchors(WRITTEN[target]), f'{origin} links to {link}'


def faults_of_layout(text):
  """Lines at which Markdown shows something else than what is meant, or twice."""
  lines = re.sub(r'^```.*?^```', '', text, flags=re.S | re.M).splitlines()
  for before, line, after in zip(['', *lines], lines, [*lines[1:], ''], strict=False):
    row, rule = re.fullmatch(r'\|.*\|', line), re.fullmatch(r'\|[-:| ]+\|', after)
    if before.strip() and (re.match('#+ ', line) or (row and not before.startswith(('|', '<!--')))):
      yield line  # A heading or a table would be the end of a paragraph.
    if rule and not row or line.strip() and line == after or re.search(r'\S :   ', line):
      yield line  # A table without a header, a line twice, a term and its definition in one line.


def test_pages_are_laid_out_as_meant():
  found = {origin: list(faults_of_layout(text)) for origin, text in WRITTEN.items()}
  assert not {origin: lines for origin, lines in found.items() if lines}
  right = 'text\n\n# b\n\n<!-- -->\n| a |\n|---|\n| b |\n\nc\n:   d\n\n```\n# e\n```\n'
  assert not list(faults_of_layout(right))
  for wrong in ('a\n# b', 'a\n| b |\n|---|', 'a:\n|---|\n| b |', 'a b\na b', 'a :   b'):
    assert list(faults_of_layout(wrong)), wrong


def test_tests_that_are_named_exist():
  """`test_x.py::test_y` in any folder; a part that begins with `::` continues the one before."""
  files = {path.name: path for path in (ROOT / 'tests').rglob('test_*.py')}
  named = 0
  for origin, text in WRITTEN.items():
    path, found = None, re.findall(r'`((?:tests/[\w/]*)?test_\w+\.py)?((?:::\w+)*)`', text)
    for given, rest in found:
      if given:
        path = ROOT / given if '/' in given else files.get(given)
        assert path is not None and path.exists(), f'{origin} names {given}'
      if path is None:
        continue
      for name in rest.split('::')[1:]:
        named += 1
        assert re.search(rf'^ *(def|class) {name}\b', path.read_text(), re.M), f'{origin}: {name}'
  assert named > 20


def test_links_of_notebooks_resolve():
  for path in sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb')):
    origin = path.relative_to(ROOT).as_posix()
    for link in pages.links(markdown_pages.notebooks.markdown(markdown_pages.notebooks.read(path))):
      assert (ROOT / pages.target(origin, link)).exists(), f'{origin} links to {link}'


def test_link_targets_are_found_and_code_is_left_alone():
  text = (
    'a [b](../configs/byol.py) `[c](d)`\n```\n[e](f)\n```\n[g](methods/) [h](https://i) [j](#k)'
  )
  assert list(pages.links(text)) == ['../configs/byol.py', 'methods/', '#k']
  assert pages.rewritten(text, 'docs/x.md', 'x.md') == text.replace(
    '../configs/byol.py', 'source/configs/byol.py.md'
  ).replace('(methods/)', '(methods/README.md)')
  assert pages.rewritten('[a](docs/shapes.md)', 'README.md', 'index.md') == '[a](shapes.md)'
  moved = pages.rewritten('[a](../../README.md#methods)', 'docs/methods/byol.md', 'methods/byol.md')
  assert moved == '[a](../index.md#methods)'


def test_navigation_lists_every_page_and_no_other():
  nav = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav']
  found = [*pages.sources(), 'recipes.md']
  listed = list(pages._leaves(pages.expanded(nav, found)))
  assert sorted(listed) == sorted(found)


def test_the_reference_has_every_package_and_no_missing_module():
  named = re.findall(r'^::: (\S+)$', '\n'.join(WRITTEN[origin] for origin in API), re.M)
  for name in named:
    path = ROOT / name.replace('.', '/')
    in_package = hasattr(importlib.import_module(name.rpartition('.')[0]), name.rpartition('.')[2])
    assert path.with_suffix('.py').exists() or (path / '__init__.py').exists() or in_package, name
  packages = {path.parent.name for path in (ROOT / 'byoljax').glob('*/__init__.py')}
  # The tasks are described by `byoljax --help`.
  assert packages - {name.split('.')[1] for name in named if '.' in name} == {'tasks'}


def commands():
  """(page, line) of every `byoljax ...` and `python -m byoljax.main ...` of docs/ and README."""
  for origin, text in WRITTEN.items():
    if not origin.startswith(('docs/', 'README.md')):
      continue
    lines = [
      line
      for block in markdown_pages.blocks(text, '')
      for line in block.text.replace('\\\n', ' ').splitlines()
    ]
    if origin in ELSEWHERE:
      continue
    inline = re.findall(r'`(byoljax [^`]*)`', text.replace('\n', ' '))
    for line in [*lines, *inline]:
      words = line.strip()
      if words.startswith(('byoljax ', 'python -m byoljax.main --')):
        yield pytest.param(origin, words, id=f'{origin}: {words[:60]}')


@pytest.mark.parametrize(('origin', 'line'), list(commands()))
def test_commands_name_real_recipes_and_fields(origin, line, monkeypatch):
  monkeypatch.chdir(ROOT)
  words = shlex.split(line, comments=True)
  split = list(shlex.shlex(line, posix=True, punctuation_chars='()'))
  assert not {'(', ')'} & set(split), 'a shell takes parentheses only in quotes'
  if words[0] == 'byoljax':
    if len(words) == 2:  # A command's name, without what it is applied to.
      assert words[1].partition(':')[0] in {*cli.COMMANDS, '--help'}
      return
    _, options, overrides = cli.parse(words[1:])
  else:
    options, overrides = main.parse(words[3:])
  if 'config' in options:
    config_lib.load(options.config, overrides)


def test_commands_are_found():
  assert len(list(commands())) > 25


# Runs that a reader has: of the README's first command, and of the quick start.
GIVEN = {'runs/byol', 'runs/simclr'}


def runs_of(line):
  """(runs and folders of embeddings that a command reads, those that it writes)."""
  words = shlex.split(line, comments=True)
  if words[0] != 'byoljax':
    words = ['byoljax', 'pretrain', *words[3:]]
    options, overrides = main.parse(words[2:])
    recipe, read = options.config, [text for name, text in overrides if name == 'pretrained']
  else:
    if len(words) == 2:
      return [], []
    _, options, overrides = cli.parse(words[1:])
    recipe = getattr(options, 'recipe', '')
    named = [getattr(options, name, []) for name in ('run', 'embeddings')]
    read = [one for many in named for one in ([many] if isinstance(many, str) else many)]
  other = ('init_from', 'teacher.pretrained')
  read += [text for name, text in overrides if name in other and '/' in text]
  written = [options.workdir] if getattr(options, 'workdir', '') else []
  if not written and recipe and words[1] == 'pretrain':
    written = [run_dir.default_workdir(recipe)]
  return [re.split('/(?:checkpoints|evals)/', path)[0] for path in read], written


@pytest.mark.parametrize('origin', sorted({param.values[0] for param in commands()}))
def test_runs_of_a_page_are_made_there(origin, monkeypatch):
  """What evaluates runs/x stands on a page that writes it, or is about a run of the README."""
  monkeypatch.chdir(ROOT)
  found = [runs_of(line) for page, line in (param.values for param in commands()) if page == origin]
  there = GIVEN.union(*(writes for _, writes in found))
  for reads, _ in found:
    for path in reads:
      assert not path.startswith('runs/') or path in there, f'{origin}: nothing writes {path}'


def test_no_page_trains_two_recipes_in_one_directory():
  """The second would be refused."""
  trained = {}
  for origin, line in (param.values for param in commands()):
    found = re.match(r'byoljax pretrain (\S+) .*--workdir[= ](\S+)', line)
    if found:
      trained.setdefault((origin, found[2]), set()).add(found[1])
  assert len(trained) > 5
  assert not {where: recipes for where, recipes in trained.items() if len(recipes) > 1}


def test_a_page_that_reads_another_run_is_noticed():
  assert runs_of('byoljax pretrain simclr:folder_small --data.dir=photos') == (
    [], ['runs/simclr-folder_small']
  )  # fmt: skip
  line = 'byoljax embed runs/simclr-folder --workdir runs/index'
  assert runs_of(line) == (['runs/simclr-folder'], ['runs/index'])
  assert runs_of('byoljax compare runs/a runs/b --out c') == (['runs/a', 'runs/b'], [])
  assert runs_of('byoljax search runs/index x.jpg')[0] == ['runs/index']


def test_extras_and_files_that_are_named_exist():
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
  named = 0
  for origin, text in WRITTEN.items():
    for extra in re.findall(r"(?:byoljax|'\.|\"\.|install \.)\[(\w+)\]", text):
      named += 1
      assert extra in extras, f'{origin} names [{extra}]'
    if origin.startswith(('docs/', 'README.md')):
      for path in re.findall(
        r'(?:python |--config=)((?:configs|experiments|docs)/[\w/]+\.py)', text
      ):
        assert (ROOT / path).exists() or origin in ELSEWHERE, f'{origin} names {path}'
  assert named > 5


@pytest.fixture
def with_a_run(untrained, tmp_path, monkeypatch):
  """An empty directory with the runs that pages speak of."""
  (tmp_path / 'runs').mkdir()
  for name in ('byol', 'simclr'):
    (tmp_path / 'runs' / name).symlink_to(untrained, target_is_directory=True)
  monkeypatch.chdir(tmp_path)


# Trains, evaluates and classifies, which tests/api do by default.
LONG = {'docs/python.md'}


@pytest.mark.parametrize(
  'origin',
  [
    pytest.param(origin, marks=pytest.mark.slow if origin in LONG else ())
    for origin, text in sorted(WRITTEN.items())
    if origin not in ELSEWHERE and markdown_pages.blocks(text, 'python')
  ],
)
def test_python_blocks_run(origin, with_a_run):
  """In order, in one namespace per page, which begins with some images."""
  namespace = {'images': np.zeros((2, 12, 12, 3), np.uint8)}
  for block in markdown_pages.blocks(WRITTEN[origin], 'python'):
    if block.runs:
      exec(compile(block.text, origin, 'exec'), namespace)


def test_the_page_of_recipes_holds_them_all():
  text = recipe_pages.page()
  for name in cli.recipes():
    assert f'### {name}\n' in text
    first, *rest = recipe_pages._docstring(name).splitlines()
    assert f'### {name}\n\n{first}\n\n' + '\n'.join(rest).strip('\n') in text
  for scale in ('cifar10', 'imagenette_small', 'npz'):
    assert f'| `{scale}` |' in text
  assert cli.table() in text
  row = next(line for line in text.splitlines() if line.startswith('| [`moco`]'))
  assert 'queue_size 1024' in row and 'queue_size 65536' in row


def test_strict_build(tmp_path):
  """Every warning of the documentation's build is an error: links, anchors, pages, references."""
  pytest.importorskip('material', reason="the site needs pip install '.[docs]'")
  pytest.importorskip('mkdocstrings', reason="the site needs pip install '.[docs]'")
  built = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert built.returncode == 0, built.stderr
  pages_built = [path for path in (tmp_path / 'site').rglob('*.html') if path.name != '404.html']
  assert len(pages_built) > 40
  for path in [*pages_built, *(tmp_path / 'site').rglob('*.css')]:
    loaded = re.findall(
      r'(?:<script[^>]+src|<link[^>]+rel="stylesheet"[^>]+href|<img[^>]+src)="(https?://[^"]+)',
      path.read_text(),
    ) + re.findall(r'@import[^;]*https?:[^;]*', path.read_text())
    assert not loaded, f'{path.name} loads {loaded[0]}'
  home = (tmp_path / 'site' / 'index.html').read_text()
  assert str(pathlib.Path(ROOT)) not in home
