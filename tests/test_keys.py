"A stage is made of what its stage cells can run, and of nothing else."
import ast
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from library import code_everywhere
from traced import uncovered

from citrus.core.keys import definition
from citrus.core.parameters import STAGES
from citrus.core.runner import chosen
from citrus.core.ingredients import hashed_files, ingredients, library_of
from citrus.core.files import root
from citrus.core.recipes import settings

VALUES = settings({})


def code_of(stage):
    "The library definitions among the ingredients of a stage"
    return set(ingredients(stage, VALUES[stage], {})['code'])


def made_of(folder):
    "stage -> ingredients, by the code of a folder"
    script = 'import json; from citrus.core.parameters import STAGES; from citrus.core.ingredients import ingredients; from citrus.core.recipes import settings; v = settings({}); print(json.dumps({s: ingredients(s, v[s], {}) for s in STAGES}))'
    env = os.environ | dict(PYTHONPATH=str(folder))
    return json.loads(subprocess.run([sys.executable, '-c', script], env=env, cwd=folder, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope='module')
def before(): return made_of(root())


@pytest.fixture
def copy(tmp_path):
    for name in ('nbs', 'citrus', 'tests'): shutil.copytree(root() / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    return tmp_path


def changed(before, copy):
    "Stages whose ingredients differ from those of before"
    after = made_of(copy)
    return {s for s in before if before[s] != after[s]}


def edit(copy, notebook, *pairs):
    "Replace code in a notebook and in the module exported from it"
    module = re.sub(r'^(lib/|\d\d_)', '', notebook)
    for path in (copy / 'nbs' / f'{notebook}.ipynb', copy / 'citrus' / f'{module}.py'):
        text = path.read_text()
        for old, new in pairs:
            assert old in text or path.suffix == '.ipynb', f'{old!r} is not in {path}'
            text = text.replace(old, new)
        path.write_text(text)


def add_cell(copy, notebook, source, position=-1):
    path = copy / 'nbs' / f'{notebook}.ipynb'
    nb = json.loads(path.read_text())
    nb['cells'].insert(position, dict(cell_type='code', id='extra', metadata={}, source=[source], outputs=[], execution_count=None))
    path.write_text(json.dumps(nb))


COURSES = 'traces', 'stages', 'preferences', 'mixing', 'scaling', 'met', 'paths', 'opinions', 'huatuo_o1', 'huatuo2'   # studies that train from where students stand

FOREIGN = tuple(f'citrus.{m}.' for m in ('synth', 'llm.opening', 'llm.threads', 'llm.look_up', 'world.expert_parts', 'data.pages', 'data.page_lines', 'data.page_errors',
                                         'data.page_pictures', 'textbook', 'llm.textbook_expert'))


def test_what_is_foreign_is_left_out():
    pretrain, report = code_of('pretrain'), code_of('report')
    assert not [name for name in pretrain | report if name.startswith(FOREIGN)]
    assert 'citrus.pretrain.pretrain' in pretrain and 'citrus.train.bandit.Bandit.update' in pretrain and 'citrus.train.memory.forecast' in pretrain
    assert len(pretrain) < 250 and len(report) < 150, 'by names alone they had 697 and 1,017'


def test_a_class_has_the_methods_that_are_patched_into_it():
    assert {'citrus.core.store.Stage', 'citrus.core.store.Stage.read', 'citrus.core.store.Stage.write'} <= code_of('report')


@pytest.mark.parametrize('stage, names', [
    ('sft', ['citrus.sft.fine_tune']), ('prefer', ['citrus.prefer.train_preferred']), ('preferences', ['citrus.prefer.train_preferred', 'citrus.sft.fine_tune', 'citrus.studies.preferences.sample_pairs']),
    ('traces', ['citrus.sft.fine_tune', 'citrus.train.courses.ask_after']), ('knowledge', ['citrus.pretrain.pretrain']), ('cost', ['citrus.studies.cost.measure_step'])])
def test_what_is_launched_by_name_is_followed(stage, names):
    assert set(names) <= code_of(stage)


def test_lazy_imports_are_followed():
    assert 'citrus.data.pages.read_pages' in code_of('clean') and 'citrus.data.entities.tags' in code_of('clean')


def test_a_table_brings_what_other_modules_put_into_it():
    "The expert's skills of a dialogue are put into `world.expert.SKILLS` by `world.expert_parts`"
    assert 'citrus.world.expert_parts.reason_skill' in code_of('synth') and 'citrus.world.expert_parts.reason_skill' not in code_of('cases')


def test_files_that_a_stage_reads_are_ingredients():
    of = lambda stage: ingredients(stage, VALUES[stage], {})['files']
    assert 'nbs/paper.csv' in of('report') and 'tests/data/entities.csv' in of('entities')
    reads = definition(ast.parse("usual = parameters(notebook_path('pretrain'))").body[0], 'citrus')
    assert list(hashed_files([reads], {})) == ['parameters of pretrain']
    folder = ingredients('published', VALUES['published'] | dict(phenopackets='tests/data'), {})['files']
    assert 'tests/data/negation.jsonl' in folder


def test_a_lesson_a_plot_prose_and_the_books_rerun_nothing(before, copy):
    edit(copy, '50_pretrain', ("panels(10, 4", "panels(11, 4"))
    edit(copy, 'lib/train/rule_figures', ("panels(", "panels(1 + "))
    edit(copy, 'lib/core/store', ('write the manifest of this stage', 'write its manifest'), ("recipe = os.environ.get('CITRUS_RECIPE', '')", "recipe = os.environ.get('CITRUS_RECIPE', 'none')"))
    add_cell(copy, '20_cases', 'len([1, 2, 3])', position=12)
    add_cell(copy, '90_evaluate', 'another = [1, 2, 3]', position=12)
    assert changed(before, copy) == set()


def test_a_study_is_nobody_elses_ingredient(before, copy):
    add_cell(copy, 'studies/rules', '#| stage\nlen(rows)')
    add_cell(copy, 'studies/knowledge', '#| stage\nlen(table)')
    assert changed(before, copy) == {'rules', 'knowledge'}


def test_a_training_is_an_ingredient_of_all_that_train_so(before, copy):
    edit(copy, '70_sft', ("set_seed(settings['seed'])", "set_seed(settings['seed'] + 1)"))
    assert changed(before, copy) == {s for s in STAGES if 'citrus.sft.fine_tune' in before[s]['code']} == {'sft', 'students', *COURSES}


def test_a_lesson_that_takes_a_name_of_the_stage_is_an_ingredient(before, copy):
    "The kernel would use what the lesson binds"
    add_cell(copy, '50_pretrain', 'compare_losses = print', position=12)
    assert changed(before, copy) == {'pretrain'}


def test_what_runs_is_an_ingredient(micro, store):
    "Which functions really run while the stages of the micro chain run"
    lines = (store / 'trace.txt').read_text().splitlines()
    assert {line.split()[0] for line in lines} >= set(chosen()) and len(lines) > 300
    assert uncovered(lines) == []


def test_what_is_launched_is_named_by_a_text():
    "Only so can it be followed: `launch(f'{module}.train')` could not"
    modules = library_of(root() / 'citrus')
    for where, node in code_everywhere():
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ('launch', 'in_process')): continue
        target = node.args[0]
        assert isinstance(target, ast.Constant), f'{where}: {ast.unparse(node)[:80]}'
        module, _, name = target.value.rpartition('.')
        if where.endswith('.ipynb') or module in ('lesson',): continue   # a lesson may launch what is not there
        assert name in modules[f'citrus.{module}'].names, f'{where}: {target.value}'


def test_no_import_hides_what_it_brings():
    for where, node in code_everywhere():
        if isinstance(node, ast.ImportFrom): assert not any(a.name == '*' for a in node.names), f'{where}: {ast.unparse(node)}'
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(('import_module', '__import__')):
            name = ast.unparse(node.args[0])
            assert 'citrus' not in name or where in ('launch.py', 'launch.ipynb'), f'{where}: {name}'
