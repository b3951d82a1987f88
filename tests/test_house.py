"The house: who may import whom, one name for one thing, one idea a line."
import ast
import importlib.util
from collections import Counter, defaultdict
from statistics import mean

import pytest

from citrus.core.files import root
from citrus.core.parameters import STAGES, STUDIES

PACKAGE = root() / 'citrus'
CHAIN = {s for s in STAGES if s not in STUDIES}
FILES = {'.'.join(p.relative_to(root()).with_suffix('').parts): p for p in sorted(PACKAGE.rglob('*.py')) if p.name not in ('__init__.py', '_modidx.py')}
TREES = {module: ast.parse(p.read_text(encoding='utf-8')) for module, p in FILES.items()}
FUNCTIONS = {f'{module}.{n.name}': n for module, tree in TREES.items() for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}
CODE = [line for p in FILES.values() for line in p.read_text(encoding='utf-8').split('\n') if line.strip() and not line.strip().startswith('#')]


def imported(module):
    "Modules of the library that a module imports, wherever the import stands"
    package = module.rpartition('.')[0]
    for n in ast.walk(TREES[module]):
        if isinstance(n, ast.Import): yield from (a.name for a in n.names if a.name in FILES)
        if isinstance(n, ast.ImportFrom):
            target = importlib.util.resolve_name('.' * n.level + (n.module or ''), package) if n.level else n.module
            yield from ({target} | {f'{target}.{a.name}' for a in n.names}) & set(FILES)


IMPORTS = {module: set(imported(module)) - {module} for module in FILES}


def circle(imports):
    "A circle of imports, [] if there is none"
    left = {m: set(others) for m, others in imports.items()}
    while free := [m for m, others in left.items() if not others]:
        for m in free: del left[m]
        for others in left.values(): others.difference_update(free)
    path = [min(left)] if left else []
    while path and path[-1] not in path[:-1]: path.append(min(left[path[-1]]))
    return path


def test_no_module_imports_itself_in_a_circle():
    assert circle(dict(a={'b'}, b={'c'}, c={'a'}, d=set())) == ['a', 'b', 'c', 'a']   # the control
    assert circle(IMPORTS) == []


@pytest.mark.parametrize('module', FILES)
def test_the_library_imports_no_stage_and_nothing_a_study(module):
    kind = lambda m: 'study' if m.startswith('citrus.studies.') else 'stage' if m.split('.')[1] in CHAIN else 'library'
    wrong = {m for m in IMPORTS[module] if kind(m) == 'study' or kind(m) == 'stage' and kind(module) == 'library'}
    assert not wrong


def public_names(tree):
    "Names that a module gives to functions, classes and constants"
    for n in tree.body:
        patched = any('patch' in ast.unparse(d) for d in getattr(n, 'decorator_list', []))
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not patched: yield n.name
        if isinstance(n, ast.Assign): yield from (x.id for t in n.targets for x in ast.walk(t) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store))


def test_no_public_name_is_defined_in_two_modules():
    places = defaultdict(set)
    for module, tree in TREES.items():
        for name in public_names(tree): places[name].add(module)
    assert {name: sorted(ms) for name, ms in places.items() if len(ms) > 1 and not name.startswith('_')} == {}


def nodes(tree): return sum(isinstance(n, (ast.expr, ast.stmt, ast.comprehension, ast.keyword)) for n in ast.walk(tree))


def test_one_idea_a_line():
    "Width in columns, and syntax nodes a line"
    a_line = Counter((module, n.lineno) for module, tree in TREES.items() for n in ast.walk(tree) if isinstance(n, (ast.expr, ast.stmt)))
    wide, widest = (sum(len(line) > k for line in CODE) / len(CODE) for k in (120, 160))
    dense = sum(v > 25 for v in a_line.values()) / len(a_line)
    print(f'{len(CODE)} lines: {wide:.2%} over 120 columns, {widest:.2%} over 160; {mean(a_line.values()):.2f} nodes a line, {dense:.2%} over 25')
    assert mean(a_line.values()) <= 6.5 and dense <= 0.01
