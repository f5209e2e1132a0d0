"""What MkDocs does besides reading the pages of docs/; see mkdocs.yml.

Pages that lie elsewhere in the repository become part of the site, and links to them and from them
are turned accordingly; where a link names a file, the site has the page's title. A tutorial shows
what its cells printed and drew, if `make docs` ran them.
"""

import base64
import posixpath
import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
RAN = ROOT / 'build' / 'docs'  # notebooks with their outputs
# Path in the repository -> path in the site. Others are the same without docs/.
ELSEWHERE = {
    'benchmarks/README.md': 'benchmarks.md',
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
}
LINKED = ELSEWHERE | {'README.md': 'index.md'}
LINK = re.compile(r'\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)')
LOADED = re.compile(
    r'<(?:script|img|iframe|link|source|video)\b[^>]*?(?:src|href)="(https?:[^"]*)"'
)
ESCAPES = re.compile(r'\x1b\[[0-9;]*[A-Za-z]')
IMAGES = {'image/png': 'png', 'image/svg+xml': 'svg'}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from elsewhere, the notebooks, and their images."""
    for source, target in ELSEWHERE.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text('utf-8')))
    for path in sorted(RAN.glob('tutorials/*.ipynb')):
        name = f'tutorials/{path.stem}'
        if files.get_file_from_path(f'{name}.md') is None:
            continue  # of a tutorial that is no longer there
        files.append(File.generated(config, f'{name}.ipynb', abs_src_path=str(path)))
        for file, content in rendered(path)[1].items():
            files.append(File.generated(config, f'tutorials/{file}', content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's text, with outputs and links as above."""
    name = page.file.src_uri
    notebook = RAN / Path(name).with_suffix('.ipynb')
    if name.startswith('tutorials/') and not name.endswith('/index.md'):
        if notebook.exists():
            markdown, _ = rendered(notebook)
            markdown = with_note(
                markdown,
                'The outputs on this page are those of its cells, which run on a CPU whenever the '
                f'documentation is built. [As a notebook]({notebook.name})',
            )
        else:
            markdown = with_note(markdown, 'The cells were not run: `make docs` does.')
    return with_links_of_site(markdown, name)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuses pages that load anything from another server: the site is read without one."""
    for path in Path(config.site_dir).rglob('*.html'):
        if found := LOADED.findall(path.read_text('utf-8')):
            raise PluginError(f'{path}: loads {", ".join(found)} from another server')


def with_note(markdown: str, note: str) -> str:
    """The page with a line under its title."""
    title, newline, rest = markdown.lstrip().partition('\n')
    return f'{title}{newline}\n*{note}*\n{rest}'


def with_links_of_site(markdown: str, name: str) -> str:
    """Links that work in the repository, made to work in the site, for the page `name` of it."""
    sources = {target: source for source, target in ELSEWHERE.items()}
    source = sources.get(name, f'docs/{name}')

    def link(match: re.Match) -> str:
        text, path, anchor = match.groups()
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if wanted not in LINKED and not wanted.startswith('docs/'):
            return match[0]
        if text.endswith('.md'):  # a reader of the site knows pages by their titles
            text = title_of(ROOT / wanted)
        there = LINKED.get(wanted, wanted.removeprefix('docs/'))
        path = posixpath.relpath(there, posixpath.dirname(name) or '.')
        return f'[{text}]({path}{anchor or ""})'

    return LINK.sub(link, markdown)


def title_of(page: Path) -> str:
    """The first heading of a page."""
    return page.read_text('utf-8').partition('# ')[2].partition('\n')[0]


def rendered(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its outputs as Markdown, and the images that it shows, by name."""
    parts, images = [], {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == 'markdown':
            parts.append(cell.source)
            continue
        language, code = 'python', cell.source
        if code.startswith('%%bash\n'):
            language, code = 'bash', code.removeprefix('%%bash\n')
        parts.append(f'```{language}\n{code}\n```')
        parts += [shown(output, path.stem, images) for output in cell.outputs]
    return '\n\n'.join(part for part in parts if part), images


def shown(output: nbformat.NotebookNode, stem: str, images: dict[str, bytes]) -> str:
    """One output of a cell as Markdown; adds to `images`."""
    data = output.get('data', {})
    for kind, extension in IMAGES.items():
        if kind in data:
            name = f'{stem}_files/{len(images) + 1}.{extension}'
            text = data[kind]
            images[name] = base64.b64decode(text) if extension == 'png' else text.encode()
            return f'![output]({name})'
    text = output.get('text', data.get('text/plain', ''))
    if not text.strip():
        return ''
    # A progress bar overwrites its line; only what stays on the screen is kept.
    lines = [line.rsplit('\r', 1)[-1] for line in ESCAPES.sub('', text).rstrip().split('\n')]
    return '```{ .text .output }\n' + '\n'.join(lines) + '\n```'
