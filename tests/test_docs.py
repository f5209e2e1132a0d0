"""The documentation's site: its pages, links, reference and diagrams fit the project.

`make docs` builds it strictly and runs the tutorials; these checks need none of its packages.
"""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

import stsa_jax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob('*.md'))
LINK = re.compile(r'\]\(([^)\s]+)\)')
FENCE = re.compile(r'^```.*?^```', re.MULTILINE | re.DOTALL)


@pytest.fixture(scope='module')
def site() -> dict:
    return yaml.safe_load((ROOT / 'mkdocs.yml').read_text())


@pytest.fixture(scope='module')
def diagrams():
    spec = importlib.util.spec_from_file_location('diagrams', DOCS / 'tools' / 'diagrams.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_navigation(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in in_navigation(part)]


def text(page: Path) -> str:
    """A page without its code."""
    return FENCE.sub('', page.read_text())


def anchors(page: Path) -> set[str]:
    """Of the headings, as MkDocs and GitHub make them."""
    titles = re.findall(r'^#+ (.*)$', text(page), re.MULTILINE)
    return {re.sub(r'[\s]+', '-', re.sub(r'[^\w\s-]', '', t).strip().lower()) for t in titles}


def test_every_page_is_in_the_navigation_once(site):
    elsewhere = {'benchmarks.md', 'changelog.md', 'contributing.md'}  # docs/tools/hooks.py
    assert sorted(in_navigation(site['nav'])) == sorted([*PAGES, *elsewhere])


@pytest.mark.parametrize(
    'page', ['README.md', 'CONTRIBUTING.md', 'benchmarks/README.md', *(f'docs/{p}' for p in PAGES)]
)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for link in LINK.findall(text(path)):
        if link.startswith(('http://', 'https://')):
            continue
        name, _, anchor = link.partition('#')
        there = (path.parent / name).resolve() if name else path
        assert there.is_file(), f'{page}: {link} leads nowhere'
        if anchor:
            assert anchor in anchors(there), f'{page}: {link}: no such heading'


def described() -> dict[str, list[str] | None]:
    """What the reference describes: module or object -> its chosen members, None for all."""
    found = {}
    for page in (DOCS / 'reference').glob('*.md'):
        for block in re.split(r'^::: ', page.read_text(), flags=re.MULTILINE)[1:]:
            members = re.search(r'members: \[(.*?)\]', block)
            names = members and [name.strip() for name in members[1].split(',') if name.strip()]
            found.setdefault(block.split()[0], names)
    return found


def test_the_reference_has_every_public_name():
    reference = described()
    for name in stsa_jax.__all__:
        value = getattr(stsa_jax, name)
        module = value.__module__
        chosen = reference.get(module, ())
        shown = f'{module}.{value.__qualname__}' in reference or chosen is None or name in chosen
        assert shown, f'docs/reference has no {module}.{name}'


def test_what_the_reference_names_exists():
    for name, members in described().items():
        try:
            value = importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, last = name.rpartition('.')
            value = getattr(importlib.import_module(module), last)
        for member in members or ():
            assert hasattr(value, member), f'{name} has no {member}'


@pytest.mark.parametrize('name', ['house.svg', 'network.svg'])
def test_diagrams_fit_the_project(diagrams, name):
    drawn = (DOCS / name).read_text()
    assert drawn == diagrams.PICTURES[name](), 'run python docs/tools/diagrams.py'


def test_the_house_is_that_of_the_contracts(diagrams):
    allowed = diagrams.may_import()
    assert allowed['stsa_jax.models'] == {'stsa_jax.ops', 'stsa_jax.errors'}
    assert allowed['stsa_jax.errors'] == set()
    assert 'data' in allowed['stsa_jax.training']
    assert not any('experiments' in below for below in allowed.values())


def test_tutorials_are_notebooks_without_outputs():
    """Blocks of python and bash, which are its cells; and code that at least parses."""
    tutorials = [p for p in PAGES if p.startswith('tutorials/') and not p.endswith('/index.md')]
    assert len(tutorials) == 7
    for page in tutorials:
        source = (DOCS / page).read_text()
        assert set(re.findall(r'^```(\w*)\n', source, re.MULTILINE)) - {''} <= {'python', 'bash'}
        for block in re.findall(r'^```python\n(.*?)^```', source, re.MULTILINE | re.DOTALL):
            compile(block, page, 'exec')
