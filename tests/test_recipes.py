"Every recipe loads, names only parameters that exist, and its global batches divide among its devices."
import pytest
import yaml

from citrus.core.files import UserError, root
from citrus.core.runner import chosen
from citrus.core.recipes import consistent, load_recipe, settings

FOLDER = root() / 'nbs' / 'recipes'
RECIPES = sorted(p.stem for p in FOLDER.glob('*.yml'))


def test_all_recipes_are_here():
    assert RECIPES == ['70b', '72b', '8b', 'control', 'curriculum', 'gpu'] and (FOLDER / 'zero3.yaml').exists()


@pytest.mark.parametrize('name', RECIPES)
def test_recipe_is_valid(name):
    values = settings(load_recipe(name))
    consistent(values, chosen('curriculum' if name == 'curriculum' else None))
    for stage in ('mix', 'sft', 'prefer'):
        assert values[stage]['global_batch'] % values[stage]['processes'] == 0


@pytest.mark.parametrize('name, lr', [('70b', 3e-7), ('72b', 1e-6)])
def test_paper_hyper_parameters(name, lr):
    v = settings(load_recipe(name))
    assert (v['sft']['learning_rate'], v['sft']['global_batch'], v['sft']['epochs']) == (5e-6, 512, [2, 1, 2])
    assert (v['sft']['beta2'], v['sft']['weight_decay'], v['sft']['clip']) == (0.95, 1e-4, 1.0)
    p = v['prefer']
    assert (p['beta'], p['gamma'], p['alpha'], p['learning_rate'], p['global_batch'], p['epochs']) == (10, 5.4, 0.05, lr, 16, 3)
    assert (p['samples'], p['temperature']) == (20, 1.2)


def test_recipe_restates_no_default():
    for name in RECIPES:
        defaults = settings({})
        for block, values in load_recipe(name).items():
            same = [k for k, v in values.items() if block != 'common' and defaults[block][k] == v]
            assert not same, f'{name}.{block}: {same} are the defaults'


@pytest.mark.parametrize('recipe, message', [
    ({'sft': {'lerning_rate': 1}}, "did you mean 'learning_rate'"), ({'stf': {}}, "did you mean 'sft'"), ({'sft': {'epochs': 'two'}}, 'needs list'),
    ({'common': {'sed': 1}}, "did you mean 'seed'"), ({'sft': {'run': 'x'}}, 'unknown parameter')])
def test_bad_recipes_are_refused(recipe, message):
    with pytest.raises(UserError, match=message): settings(recipe)


def test_zero3_is_zero3():
    assert yaml.safe_load((FOLDER / 'zero3.yaml').read_text())['deepspeed_config']['zero_stage'] == 3
