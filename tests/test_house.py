"""The house: who may import whom, one name for one thing, one idea a line, and how much fits on a page.

A rule finds places. Those in `exceptions.csv` break it today; the list can only become shorter."""
import ast
import csv
import importlib.util
from collections import Counter, defaultdict
from statistics import mean, median

import pytest

from citrus.core.files import root
from citrus.core.parameters import notebook_path
from library import CELLS, CHAIN, MODULES, NOTEBOOKS, PAGES, TEXTS, TREES, flagged, functions

BY_PAGE = dict(zip(PAGES, CELLS.values()))
CHAIN_PAGES = {page for page, path in zip(PAGES, NOTEBOOKS) if path in {notebook_path(s) for s in CHAIN}}


# --- who imports whom ----------------------------------------------------------------------------------------------------

def imported(module, tree):
    "Modules of the library that a module imports, wherever the import stands"
    package = module.rpartition('.')[0]
    for n in ast.walk(tree):
        if isinstance(n, ast.Import): yield from (a.name for a in n.names if a.name in MODULES)
        if isinstance(n, ast.ImportFrom):
            target = importlib.util.resolve_name('.' * n.level + (n.module or ''), package) if n.level else n.module
            yield from ({target} | {f'{target}.{a.name}' for a in n.names}) & set(MODULES)


IMPORTS = {module: set(imported(module, tree)) - {module} for module, tree in TREES.items()}


def circle(imports):
    "A circle of imports, [] if there is none"
    left = {m: set(others) for m, others in imports.items()}
    while free := [m for m, others in left.items() if not others]:
        for m in free: del left[m]
        for others in left.values(): others.difference_update(free)
    path = [min(left)] if left else []
    while path and path[-1] not in path[:-1]: path.append(min(left[path[-1]]))
    return path


def kind(module):
    "study, stage or library"
    if module.startswith('citrus.studies.'): return 'study'
    return 'stage' if module.split('.')[1] in CHAIN else 'library'


def forbidden(module, imports):
    "What a module may not import: the library no stage, and nothing a study"
    return {m for m in imports if kind(m) == 'study' or kind(m) == 'stage' and kind(module) == 'library'}


def test_no_module_imports_itself_in_a_circle():
    assert circle(dict(a={'b'}, b={'c'}, c={'a'}, d=set())) == ['a', 'b', 'c', 'a']   # the control
    assert circle(IMPORTS) == []


@pytest.mark.parametrize('module', MODULES)
def test_the_library_imports_no_stage_and_nothing_a_study(module): assert not forbidden(module, IMPORTS[module])


def test_an_import_of_a_stage_or_a_study_is_seen():
    lazy = ast.parse('def f():\n    from ..pretrain import pretrain\n    import citrus.studies.rules')
    assert set(imported('citrus.train.steps', lazy)) == {'citrus.pretrain', 'citrus.studies.rules'} == forbidden('citrus.train.steps', {'citrus.pretrain', 'citrus.studies.rules', 'citrus.core.keys'})
    assert forbidden('citrus.sft', {'citrus.pretrain', 'citrus.studies.rules'}) == {'citrus.studies.rules'}


# --- one name for one thing ----------------------------------------------------------------------------------------------

def public_names(tree):
    "Names that a module gives to functions, classes and constants"
    for n in tree.body:
        patched = any('patch' in ast.unparse(d) for d in getattr(n, 'decorator_list', []))
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not patched: yield n.name
        if isinstance(n, ast.Assign): yield from (x.id for t in n.targets for x in ast.walk(t) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store))


def twice(trees):
    "public name -> modules, of those that several modules define"
    places = defaultdict(set)
    for module, tree in trees.items():
        for name in public_names(tree): places[name].add(module)
    return {name: sorted(ms) for name, ms in places.items() if len(ms) > 1 and not name.startswith('_')}


def test_no_public_name_is_defined_in_two_modules():
    assert twice(dict(a=ast.parse('def f(): return 1\nK, L = 1, 2'), b=ast.parse('class f: pass\nL = 3\n_own = 1'), c=ast.parse('_own = 1'))) == dict(f=['a', 'b'], L=['a', 'b'])
    assert twice(TREES) == {}


# --- rules that some places break today ----------------------------------------------------------------------------------

POOR = set('said found made kept told at hope most'.split())


def poor_names(tree):
    "Functions, parameters and locals whose name says nothing; the fields of a class are those of its record"
    fields = {s.target for n in ast.walk(tree) if isinstance(n, ast.ClassDef) for s in n.body if isinstance(s, ast.AnnAssign)}
    for n in ast.walk(tree):
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and n.name in POOR: yield n.name
        if isinstance(n, ast.arg) and n.arg in POOR: yield n.arg
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and n.id in POOR and n not in fields: yield n.id


def nodes(tree): return sum(isinstance(n, (ast.expr, ast.stmt, ast.comprehension, ast.keyword)) for n in ast.walk(tree))


def large(tree): return (f.name for f in functions(tree) if nodes(f) > 250)


def shape(node):
    "An expression without its names and constants"
    if isinstance(node, (ast.Name, ast.Constant, ast.expr_context)): return ''
    return type(node).__name__, *(shape(n) for n in ast.iter_child_nodes(node))


def unrelated(tree):
    "Functions in which several names get values of different forms in one assignment; an exchange is one idea"
    for f in functions(tree):
        for n in ast.walk(f):
            if not (isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Tuple) and isinstance(n.value, ast.Tuple)): continue
            exchange = sorted(map(ast.unparse, n.targets[0].elts)) == sorted(map(ast.unparse, n.value.elts))
            if len({shape(v) for v in n.value.elts}) > 1 and not exchange: yield f.name


def bags(tree):
    "Functions that take the parameters of a stage as a mapping called p"
    return (f.name for f in functions(tree) for a in f.args.args + f.args.kwonlyargs if a.arg == 'p' and a.annotation and ast.unparse(a.annotation) == 'dict')


def code_lines(text):
    "Lines of code, without those that nbdev writes"
    inside = False
    for line in text.split('\n'):
        inside = inside or line.startswith('__all__ = ')
        if line.strip() and not line.strip().startswith('#') and not inside: yield line
        if line.endswith(']'): inside = False


def widest(text):
    "Lines over 160 columns, by their beginning"
    return (line.strip()[:40] for line in code_lines(text) if len(line) > 160)


def longest_row(cells):
    "Exported cells in a row without a lesson"
    longest = row = 0
    for c in cells:
        if c['cell_type'] != 'code': continue
        if flagged(c, 'exports?'): row += 1
        elif not flagged(c, 'hide'): row = 0
        longest = max(longest, row)
    return longest


def lines_of(cells): return sum(len(c['source'].splitlines()) - 1 for c in cells)


LIMITS = {'cells': 45, 'exported lines': 250, 'lines of run': 45}


def page_size(cells):
    "How long a page is"
    marked = [c for c in cells if c['cell_type'] == 'code']
    sizes = len(cells), lines_of([c for c in marked if flagged(c, 'exports?')]), lines_of([c for c in marked if flagged(c, 'stage')])
    return dict(zip(LIMITS, sizes))


def logic(cells):
    "Whether the run section does more than call"
    run = [ast.parse(c['source']) for c in cells if c['cell_type'] == 'code' and flagged(c, 'stage')]
    return any(isinstance(n, (ast.For, ast.While, ast.If, ast.Try, ast.With, ast.FunctionDef, ast.ClassDef)) for tree in run for n in tree.body)


def typical(trees): return median([nodes(f) for tree in trees for f in functions(tree)] or [0])


PACKAGES = sorted({m.rpartition('.')[0] for m in MODULES})


def of_modules(rule): return {f'{module} {name}' for module, tree in TREES.items() for name in rule(tree)}


def places():
    "rule -> places that break it"
    lines = {f'nbs/{page} {what}' for page in CHAIN_PAGES for what, size in page_size(BY_PAGE[page]).items() if size > LIMITS[what]}
    return {
        'name': of_modules(poor_names),
        'function over 250 nodes': of_modules(large),
        'values of different forms in one assignment': of_modules(unrelated),
        'parameters of a stage in the library': {place for place in of_modules(bags) if kind(place.split()[0]) == 'library'},
        'line over 160 columns': {f'{module} {line}' for module, text in TEXTS.items() for line in widest(text)},
        'module over 350 lines': {module for module, text in TEXTS.items() if len(text.splitlines()) > 350},
        'package whose median function has over 50 nodes': {p for p in PACKAGES if typical(t for m, t in TREES.items() if m.rpartition('.')[0] == p) > 50},
        'more than three exported cells in a row': {f'nbs/{page}' for page, cells in BY_PAGE.items() if longest_row(cells) > 3},
        'logic in a run section': {f'nbs/{page}' for page, cells in BY_PAGE.items() if logic(cells)},
        'size of a stage notebook': lines}


PLACES = places()


def exceptions():
    "rule -> places that break it today, as they are listed"
    listed = {rule: set() for rule in PLACES}
    with open(root() / 'tests' / 'exceptions.csv', encoding='utf-8', newline='') as f:
        for row in csv.DictReader(f): listed[row['rule']].add(row['place'])
    return listed


@pytest.mark.parametrize('rule', PLACES)
def test_a_rule_is_broken_only_where_it_was(rule):
    new = sorted(PLACES[rule] - exceptions()[rule])
    assert not new, f'{rule}: {new}'


@pytest.mark.parametrize('rule', PLACES)
def test_the_list_of_exceptions_becomes_shorter(rule):
    done = sorted(exceptions()[rule] - PLACES[rule])
    assert not done, f'take these out of tests/exceptions.csv, {rule}: {done}'


# --- each rule can fail --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('rule, source, names', [
    (poor_names, 'def at(hope):\n    for said, x in y: found = 1\n    return [kept for kept in y]', ['at', 'hope', 'said', 'found', 'kept']),
    (poor_names, 'class Row:\n    made: int = 0\ndef f(x): return x.at[0], dict(told=x), g(most=x)', []),
    (large, f'def f(): return [{"1, " * 250}]\ndef g(): return [{"1, " * 240}]', ['f']),
    (unrelated, 'def f():\n    a, b = [], {}\ndef g():\n    a, b = b, a\n    low, high = h(1), h(2)\n    x, y = k()', ['f']),
    (unrelated, 'def f():\n    a, b = g(x), g(x)[0]', ['f']),
    (bags, 'def f(p: dict): return p\ndef g(p: float, q: dict): return p', ['f'])])
def test_a_rule_of_modules_can_fail(rule, source, names): assert sorted(rule(ast.parse(source))) == sorted(names)


def exported(n=1): return [dict(cell_type='code', source='#| export\nx = 1\n\ny = 2')] * n


LESSON, RUN, TEXT, HIDDEN = (dict(cell_type=kind, source=source) for kind, source in (('code', 'x'), ('code', '#| stage\nx\ny'), ('markdown', '#| export'), ('code', '#| hide\nx')))


def test_rules_of_pages_can_fail():
    assert [longest_row(cells) for cells in (exported(4), [*exported(3), LESSON, *exported(2)], [*exported(2), TEXT, HIDDEN, *exported(2)])] == [4, 3, 4]
    assert page_size([*exported(2), LESSON, RUN, TEXT]) == {'cells': 5, 'exported lines': 6, 'lines of run': 2}
    assert logic([dict(cell_type='code', source='#| stage\nif x: y()')]) and not logic([RUN, dict(cell_type='code', source='if x: y()')])


def test_a_wide_line_is_seen(): assert [*widest('x' * 160 + '\n' + 'y' * 161)] == ['y' * 40]


def test_a_median_is_that_of_functions(): assert typical([ast.parse('def f(): return 1\nx = [1, 2, 3, 4]\ndef g(): return 1 + 1')]) == mean([3, 5])


def test_the_pages_of_the_chain_are_found():
    assert len(CHAIN_PAGES) == 10 and len(MODULES) > 100 and {kind(m) for m in MODULES} == {'study', 'stage', 'library'}


# --- one idea a line -----------------------------------------------------------------------------------------------------

def wide(lines):
    "Share of lines over 120 columns"
    lines = list(lines)
    return sum(len(line) > 120 for line in lines) / len(lines)


def density(trees):
    "Mean of the syntax nodes of a line, and share of lines with more than 25"
    a_line = Counter((i, n.lineno) for i, tree in enumerate(trees) for n in ast.walk(tree) if isinstance(n, (ast.expr, ast.stmt)))
    return mean(a_line.values()), sum(v > 25 for v in a_line.values()) / len(a_line)


def test_lines_are_narrow():
    assert wide(['x' * 121, 'x' * 120]) == 0.5 and [*code_lines("__all__ = ['a',\n 'b']\n# c\n\nd")] == ['d']   # the controls
    assert wide(line for text in TEXTS.values() for line in code_lines(text)) <= 0.01


def test_a_line_is_one_idea():
    assert density([ast.parse(f'[{"1, " * 30}]\nx = 1')]) == (17.5, 0.5)   # the control
    each, dense = density(TREES.values())
    assert each <= 6.5 and dense <= 0.01, f'{each:.2f} nodes a line, {dense:.2%} of the lines with more than 25'
