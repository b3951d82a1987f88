"What a notebook declares reaches what it does."
import ast
import importlib
import inspect
import json

import pytest

from citrus.run import STAGES, cells, notebook_path, parameters

PARAMS = {'p', 'params'}   # names under which functions of a notebook get the parameters of their stage


def words(node): return {w for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str) for w in n.value.split()}


def looked_up(tree):
    "The parameters that functions take by name: `p['x']`, or `{k: p[k] for k in ...}` with the names in the same function"
    for function in [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]:
        for n in ast.walk(function):
            if isinstance(n, ast.Subscript) and ast.unparse(n.value).split('.')[-1] in PARAMS:
                yield from words(n.slice if isinstance(n.slice, ast.Constant) else function)


def read_by(stage):
    "Names that the run section of a notebook uses, and parameters that its functions look up"
    code = [c['source'] for c in cells(notebook_path(stage)) if c['cell_type'] == 'code']
    run = [ast.parse(source) for source in code if '#| stage' in source]
    used = {n.id for tree in run for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return used.union(*(looked_up(ast.parse(source)) for source in code if source.startswith('#| export')))


@pytest.mark.parametrize('stage', STAGES)
def test_every_declared_parameter_is_read(stage):
    assert set(parameters(notebook_path(stage))) - {'run'} <= read_by(stage)


def launched():
    "(stage, `module.function`) of every training that a notebook starts"
    for stage in STAGES:
        for c in cells(notebook_path(stage)):
            if c['cell_type'] != 'code': continue
            for n in ast.walk(ast.parse(c['source'])):
                if isinstance(n, ast.Call) and ast.unparse(n.func) == 'launch': yield stage, n.args[0].value


def test_trainings_have_no_defaults_of_their_own():
    "A setting that a caller forgets is an error, not a value that no recipe can change"
    assert {f for _, f in launched()} == {'mix.train', 'sft.train', 'prefer.train'}
    for stage, name in launched():
        module, function = name.split('.')
        signature = inspect.signature(getattr(importlib.import_module(f'citrus.{module}'), function))
        assert not [p for p in signature.parameters.values() if p.default is not p.empty], f'{stage}: {name}'


def test_prefer_trains_with_its_parameters():
    "Every setting of the training that the notebook declares is given under its own name"
    from citrus.prefer import train
    call, = (n for c in cells(notebook_path('prefer')) if '#| stage' in c['source']
             for n in ast.walk(ast.parse(c['source'])) if isinstance(n, ast.Call) and ast.unparse(n.func) == 'launch')
    given = {k.arg: ast.unparse(k.value) for k in call.keywords}
    declared = parameters(notebook_path('prefer')).keys() & inspect.signature(train).parameters.keys()
    assert given.keys() == inspect.signature(train).parameters.keys()
    assert {'length', 'micro_batch', 'lora_rank'} <= declared and all(given[k] == k for k in declared)


def test_the_record_of_a_training_holds_the_parameters_of_its_stage(micro, store):
    folder = store / 'runs' / 'micro' / 'sft'
    params = json.loads((folder / 'manifest.json').read_text())['params']
    for model in ('stage1', 'stage2', 'stage3', 'answer_only'):
        held = json.loads((folder / model / 'training.json').read_text())
        shared = params.keys() & held.keys() - {'epochs'}
        assert shared >= set('length lora_rank learning_rate global_batch weight_decay beta2 clip seed'.split())
        assert {k: held[k] for k in shared} == {k: params[k] for k in shared}
