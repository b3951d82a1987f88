"The library and the notebooks that it is exported from, read once for all tests."
import ast
import re

from citrus.core.files import root
from citrus.core.parameters import STAGES, STUDIES, cells

CHAIN = {s for s in STAGES if s not in STUDIES}
MODULES = {'.'.join(p.relative_to(root()).with_suffix('').parts): p for p in sorted((root() / 'citrus').rglob('*.py')) if p.name not in ('__init__.py', '_modidx.py')}
TEXTS = {module: path.read_text(encoding='utf-8') for module, path in MODULES.items()}
TREES = {module: ast.parse(text) for module, text in TEXTS.items()}

NOTEBOOKS = sorted(p for p in (root() / 'nbs').rglob('*.ipynb') if p.name != 'index.ipynb' and '.ipynb_checkpoints' not in p.parts)
PAGES = [str(p.relative_to(root() / 'nbs').with_suffix('')) for p in NOTEBOOKS]   # `lib/core/stats` of each
CELLS = {path: cells(path) for path in NOTEBOOKS}


def code(path): return [c for c in CELLS[path] if c['cell_type'] == 'code']


def flagged(cell, flag):
    "Whether a cell is marked with `#| flag`"
    return re.search(rf'^#\| *{flag}\b', cell['source'], re.M) is not None


def code_everywhere():
    "(file, node) of every node of the library and of the code cells"
    for module, tree in TREES.items():
        for node in ast.walk(tree): yield MODULES[module].name, node
    for path in NOTEBOOKS:
        for c in code(path):
            for node in ast.walk(ast.parse(c['source'])): yield path.name, node


def functions(tree):
    "The functions in a tree, at any depth"
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
