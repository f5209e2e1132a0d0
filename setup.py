"""The wheel has `data/` and `configs/` as `stsa_jax.data` and `stsa_jax.configs`.

As top-level packages of an environment, these two names would clash with those of other projects.
In the checkout they stay where they are, because TFDS imports a builder by its path
(`tfds build data/dhf1k.py`) and configs are named by theirs. So the modules import `data` and
`configs` by these names, and the wheel gets copies that import `stsa_jax.data` and
`stsa_jax.configs`, and name the command `stsa-jax` instead of the scripts. An editable
installation is the checkout itself.
"""

import ast
import re
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

MOVED = {'data': 'stsa_jax.data', 'configs': 'stsa_jax.configs'}
REPLACED = (
    (r'^(\s*)from (data|configs)(?=[. ])', r'\1from stsa_jax.\2'),
    (r'^(\s*)import (data|configs)$', r'\1from stsa_jax import \2'),
    (r'python -m data\.(prepare|inspect|fixations)\b', r'stsa-jax \1'),
    (r'python -m stsa_jax\.(port|cost)\b', r'stsa-jax \1'),
    (r'(?:python )?\b(train|evaluate|predict)\.py\b', r'stsa-jax \1'),
)


def moved(source: str, name: str) -> str:
    """The source text of a module as it is in the wheel. Raises ValueError for imports left."""
    for pattern, replacement in REPLACED:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    for node in ast.walk(ast.parse(source, name)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or '']
        if left := [n for n in names if n.split('.')[0] in MOVED]:
            raise ValueError(
                f'{name}:{node.lineno}: import {left[0]} with `from`, or `import data`'
            )
    return source


class Wheel(bdist_wheel):
    """Moves the packages before anything is built."""

    def finalize_options(self) -> None:
        """Tells `build_py` and the metadata where packages lie."""
        if 'editable_wheel' in self.distribution.commands:  # the checkout as it is
            super().finalize_options()
            return
        packages = self.distribution.packages
        for i, package in enumerate(packages):
            first, dot, rest = package.partition('.')
            packages[i] = MOVED.get(first, first) + dot + rest
        self.distribution.package_dir = {new: old for old, new in MOVED.items()}
        super().finalize_options()


class Modules(build_py):
    """Copies modules, with the changes for a wheel."""

    def build_module(self, module: str, module_file: str, package: str) -> tuple:
        """See `distutils.command.build_py`."""
        outfile, copied = super().build_module(module, module_file, package)
        if self.distribution.package_dir and not self.editable_mode:
            path = Path(outfile)
            path.write_text(moved(path.read_text(encoding='utf-8'), module_file), encoding='utf-8')
        return outfile, copied


if __name__ == '__main__':
    setup(cmdclass={'bdist_wheel': Wheel, 'build_py': Modules})
