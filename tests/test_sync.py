"The repository is one thing in two forms: notebooks and the library exported from them."
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pyflakes.checker import Checker
from pyflakes.messages import UndefinedName

from citrus.core.parameters import STAGES, cells, notebook_path, parameters
from citrus.core.lineage import lineage, maker, figure_tables
from citrus.core.prose import readme_text
from citrus.core.files import root
from citrus.core.publish import published, takes, with_takes
from library import NOTEBOOKS, PAGES, code


def test_clean_and_export_change_nothing(tmp_path):
    for name in ('nbs', 'citrus', 'settings.ini', 'setup.py', 'README.md'):
        src = root() / name
        shutil.copytree(src, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')) if src.is_dir() else shutil.copy(src, tmp_path / name)
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.suffix in ('.ipynb', '.py')}
    for command in ('nbdev_clean', 'nbdev_export'):
        subprocess.run([str(Path(sys.executable).with_name(command))], cwd=tmp_path, check=True)
    changed = [str(p.relative_to(tmp_path)) for p, b in before.items() if p.read_bytes() != b]
    assert not changed, f'run nbdev_clean and nbdev_export: {changed}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=PAGES)
def test_imports_stand_alone(path):
    for c in code(path):
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(c['source']).body}
        assert len(kinds) < 2, f'imports mixed with other code: {c["source"][:80]}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=PAGES)
def test_exported_cells_are_small(path):
    for c in code(path):
        if not c['source'].startswith('#| export'): continue
        lines = [l for l in c['source'].split('\n') if l.strip() and not l.startswith('#|')]
        assert len(lines) <= 65, f'{len(lines)} lines: {lines[0]}'


@pytest.mark.parametrize('stage', STAGES)
def test_one_parameters_cell_with_meanings(stage):
    spec = parameters(notebook_path(stage))
    assert spec['run'].default == 'default' and all(p.doc for p in spec.values())


@pytest.mark.parametrize('stage', STAGES)
def test_how_long_a_stage_takes_is_read_from_its_manifest(stage):
    "The sentence is that of the published manifest, or names no number"
    prose = [c['source'] for c in cells(notebook_path(stage)) if '**takes**' in c['source']]
    assert len(prose) == 1
    line = prose[0][prose[0].index('**takes**'):].partition('.')[0] + '.'
    m = published(stage)
    assert line in ('**takes** what its manifest says.', m and takes(m)), 'run `citrus_publish RUN`'


def test_a_sentence_on_time_is_rewritten_whole():
    m = dict(seconds=460.6, device='x86_64 CPU, 2 cores')
    rewritten = with_takes('**Reads** nothing · **takes** 4 minutes on 2 cores. A study.', m)
    assert rewritten == '**Reads** nothing · **takes** 8 minutes on x86_64 CPU, 2 cores. A study.' == with_takes(rewritten, m)
    assert [takes(m | dict(seconds=s)).split(' on ')[0] for s in (9.6, 119, 7199, 7200)] == [f'**takes** {t}' for t in ('10 seconds', '119 seconds', '120 minutes', '2 hours')]


def bound(source):
    "Names that a cell assigns outside of functions"
    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    names, todo = set(), list(ast.parse(source).body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): names.add(node.name)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): names.add(node.id)
        if not isinstance(node, scopes): todo += ast.iter_child_nodes(node)
    return names


@pytest.mark.parametrize('stage', STAGES)
def test_no_lesson_overwrites_a_parameter(stage):
    declared = set(parameters(notebook_path(stage)))
    for c in code(notebook_path(stage)):
        if 'parameters' in c['metadata'].get('tags', []): continue
        assert not bound(c['source']) & declared, c['source'][:80]


def test_no_notebook_without_a_stage_has_parameters():
    staged = {notebook_path(s) for s in STAGES}
    for path in set(NOTEBOOKS) - staged:
        assert not any('parameters' in c['metadata'].get('tags', []) for c in cells(path)), path.name


@pytest.mark.parametrize('path', NOTEBOOKS, ids=PAGES)
def test_third_party_text_stays_out_of_published_outputs(path):
    for c in code(path):
        if '#| local' in c['source']: assert not c['outputs'], c['source'][:80]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=PAGES)
def test_every_name_is_bound(path):
    "A merge that loses an import, or a lesson that leans on another notebook, is seen without running it"
    whole = ast.parse('\n'.join(c['source'] for c in code(path)))
    unbound = [m for m in Checker(whole, path.name, builtins={'display'}).messages if isinstance(m, UndefinedName)]
    assert not unbound, ', '.join(str(m.message_args[0]) for m in unbound)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=PAGES)
def test_nothing_unsafe(path):
    for c in code(path):
        for node in ast.walk(ast.parse(c['source'])):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name): assert node.func.id not in ('eval', 'exec'), c['source'][:80]
            if isinstance(node, ast.ExceptHandler): assert node.type is not None, f'bare except: {c["source"][:80]}'
            if isinstance(node, (ast.Import, ast.ImportFrom)): assert 'pickle' not in ast.unparse(node)
            if isinstance(node, ast.keyword): assert node.arg != 'trust_remote_code'


def test_readme_is_the_index():
    index = json.loads((root() / 'nbs' / 'index.ipynb').read_text(encoding='utf-8'))
    assert (root() / 'README.md').read_text(encoding='utf-8') == readme_text(index), 'run `citrus_publish RUN`'


def test_readme_names_every_notebook():
    "Each stage and study by itself, the library as a folder"
    text = (root() / 'README.md').read_text(encoding='utf-8')
    pages = {p.relative_to(root()).as_posix() for p in NOTEBOOKS if 'lib' not in p.parts}
    assert pages >= {notebook_path(s).relative_to(root()).as_posix() for s in STAGES}
    assert all(f']({p})' in text for p in pages) and '](nbs/lib)' in text


def test_readme_is_a_page(): assert len((root() / 'README.md').read_text(encoding='utf-8').split()) <= 800


def links(path):
    "Targets of the links of a text or of the prose of a notebook, without their anchors; not those to the web"
    text = path.read_text(encoding='utf-8') if path.suffix == '.md' else '\n'.join(c['source'] for c in cells(path) if c['cell_type'] == 'markdown')
    targets = (t.partition('#')[0] for t in re.findall(r'\]\(([^()\s]+)\)', text))
    return {t for t in targets if t and '://' not in t}


@pytest.mark.parametrize('path', [*NOTEBOOKS, *(root() / n for n in ('nbs/index.ipynb', 'README.md', 'CONTRIBUTING.md'))], ids=[*PAGES, 'index', 'README', 'CONTRIBUTING'])
def test_links_lead_somewhere(path):
    lost = sorted(t for t in links(path) if not (path.parent / t).exists())
    assert not lost, lost


def test_notebooks_carry_no_widgets_or_errors():
    for path in NOTEBOOKS:
        for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
            assert not any(o['output_type'] == 'error' for o in c.get('outputs', [])), path.name


@pytest.mark.parametrize('csv', figure_tables(), ids=lambda p: p.stem)
def test_a_published_figure_is_followed_to_the_assets(csv):
    assert csv.with_suffix('.png').exists()
    assert next(iter(lineage(maker(csv)).values()))['stage'] == 'assets' and maker(csv) == maker(csv.with_suffix('.png'))
