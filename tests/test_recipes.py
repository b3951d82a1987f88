"Every recipe loads, names only parameters that exist, and its global batches divide among its devices."
import re

import pytest
import yaml

from citrus.core.files import UserError, root
from citrus.core.runner import chosen
from citrus.core.recipes import consistent, find_recipe, load_recipe, read_recipe, recipe_end, settings

FOLDER = root() / 'nbs' / 'recipes'
RECIPES = sorted(p.stem for p in FOLDER.glob('*.yml'))


def test_all_recipes_are_here():
    assert RECIPES == ['70b', '72b', '8b', 'control', 'full', 'gpu', 'huatuo2', 'huatuo_o1', 'paper', 'smollm2'] and (FOLDER / 'zero3.yaml').exists()


@pytest.mark.parametrize('name', RECIPES)
def test_recipe_is_valid(name):
    values = settings(load_recipe(name))
    if name != 'paper': consistent(values, chosen(recipe_end(name)))   # paper is no run by itself
    for stage in ('pretrain', 'sft', 'prefer'):
        assert values[stage]['global_batch'] % values[stage]['processes'] == 0


def test_a_recipe_ends_where_it_says():
    assert chosen(recipe_end('huatuo2'))[-1] == 'huatuo2' and 'report' not in chosen(recipe_end('huatuo2')) and chosen(recipe_end('8b'))[-1] == 'report'


@pytest.mark.parametrize('name, lr', [('70b', 3e-7), ('72b', 1e-6)])
def test_paper_hyper_parameters(name, lr):
    v = settings(load_recipe(name))
    assert (v['sft']['learning_rate'], v['sft']['global_batch'], v['sft']['epochs']) == (5e-6, 512, [2, 1, 2])
    assert (v['sft']['beta2'], v['sft']['weight_decay'], v['sft']['clip']) == (0.95, 1e-4, 1.0)
    p = v['prefer']
    assert (p['beta'], p['gamma'], p['alpha'], p['learning_rate'], p['global_batch'], p['epochs']) == (10, 5.4, 0.05, lr, 16, 3)
    assert (p['samples'], p['temperature']) == (20, 1.2)


@pytest.mark.parametrize('name', [name for name in RECIPES if name != 'paper'])   # which says all that the paper says
def test_a_recipe_says_only_what_differs(name):
    "From the defaults, or from the recipe that it extends"
    own = read_recipe(find_recipe(name))
    before = settings(load_recipe(own.pop('extends', '')))
    own.pop('ends', None)
    for block, values in own.items():
        same = [k for k, v in values.items() if block != 'common' and before[block][k] == v]
        assert not same, f'{name}.{block}: {same} need not be said'


@pytest.mark.parametrize('name', ['70b', '72b', '8b', 'gpu', 'control'])
def test_a_size_is_a_few_lines(name): assert len(find_recipe(name).read_text().splitlines()) <= 15


def values_of(path):
    "The lines of a recipe that give a value"
    return [line for line in path.read_text().splitlines() if line.startswith('  ')]


def test_every_value_of_the_paper_has_its_place():
    lines = values_of(find_recipe('paper'))
    assert len(lines) > 20 and all(re.search('# (Table|section) [0-9]', line) for line in lines)
    assert find_recipe('paper').read_text().count('(ours)') == 1, 'what it does not say is marked once'


@pytest.mark.parametrize('name', ['70b', '72b', '8b'])
def test_the_sizes_have_the_values_of_the_paper(name):
    "All but the learning rate of the preferences, which the paper gives for each model"
    paper, values = read_recipe(find_recipe('paper')), settings(load_recipe(name))
    assert paper.pop('extends') == 'smollm2'
    exams = paper.pop('common')['exams']
    differ = {(s, p) for s, block in paper.items() for p, v in block.items() if values[s][p] != v}
    assert differ == ({('prefer', 'learning_rate')} if name == '72b' else set())
    assert values['clean']['exams'] == values['evaluate']['exams'] == exams


# --- recipes that extend one another -----------------------------------------------------------------------------------

@pytest.fixture
def recipes(tmp_path):
    "Writes recipes into a folder of their own, and loads the first"
    def load(*texts):
        for i, text in enumerate(texts): (tmp_path / f'{"abc"[i]}.yml').write_text(text)
        return load_recipe(str(tmp_path / 'a.yml'))
    return load


def test_the_nearest_recipe_wins_parameter_by_parameter(recipes):
    blocks = recipes('extends: b.yml\npretrain: {steps: 3}\nsft: {epochs: [3, 3, 3]}', 'extends: c.yml\npretrain: {steps: 2, seed: 2}', 'pretrain: {steps: 1, seed: 1, length: 64}\nsft: {epochs: [1, 1, 1], seed: 1}')
    assert blocks == dict(pretrain=dict(steps=3, seed=2, length=64), sft=dict(epochs=[3, 3, 3], seed=1))


def test_a_mapping_replaces_a_mapping(recipes):
    blocks = recipes('extends: b.yml\nclean: {limits: {noise: [0, 0.1]}}', 'clean: {limits: {characters: [1, 9], noise: [0, 0.01]}}')
    assert blocks['clean']['limits'] == dict(noise=[0, 0.1])


def test_a_recipe_of_ones_own_extends_one_of_these(recipes):
    assert recipes('extends: 72b\npretrain: {steps: 3}')['prefer']['learning_rate'] == 1e-6


@pytest.mark.parametrize('texts, message', [
    (['extends: a.yml'], 'extends itself, by a > a'), (['extends: b.yml', 'extends: c.yml', 'extends: b.yml'], 'extends itself, by a > b > c > b'),
    (['extends: 72c'], "unknown recipe '72c': did you mean '72b'"), (['extends: nowhere.yml'], 'extends nowhere.yml: there is no such file'),
    (['extends: [70b]'], "block 'extends' must name a recipe"), (['extends: 3'], "block 'extends' must name a recipe"),
    (['extends: b.yml', 'pretrain: 3'], "b.yml: block 'pretrain' must map parameters")])
def test_what_cannot_be_extended_is_one_line(recipes, texts, message):
    with pytest.raises(UserError) as e: recipes(*texts)
    assert message in str(e.value) and '.yml: ' in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('recipe, message', [
    ({'sft': {'lerning_rate': 1}}, "did you mean 'learning_rate'"), ({'stf': {}}, "did you mean 'sft'"), ({'sft': {'epochs': 'two'}}, 'needs list'),
    ({'common': {'sed': 1}}, "did you mean 'seed'"), ({'sft': {'run': 'x'}}, 'unknown parameter')])
def test_bad_recipes_are_refused(recipe, message):
    with pytest.raises(UserError, match=message): settings(recipe)


def test_zero3_is_zero3():
    assert yaml.safe_load((FOLDER / 'zero3.yaml').read_text())['deepspeed_config']['zero_stage'] == 3
