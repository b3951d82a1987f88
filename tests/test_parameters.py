"What a notebook declares reaches what it does."
import ast
import importlib
import inspect
import json

import pytest

from citrus.core.recipes import OWN_ARMS, consistent, load_recipe, settings
from citrus.core.parameters import STAGES, allowed, notebook_path, parameters
from citrus.core.files import UserError
from citrus.core.ingredients import followed, own_module
from citrus.core.runner import chosen
from library import code, flagged

SMOLLM2 = load_recipe('smollm2')
PARAMS = {'p', 'params'}   # names under which functions of a notebook get the parameters of their stage


def words(node): return {w for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str) for w in n.value.split()}


def all_fields(function, classes):
    "The fields of the classes that a function goes through"
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call) and ast.unparse(n.func) == 'fields']
    return {name for call in calls for name in classes.get(ast.unparse(call.args[0]), ())}


def fields_of(trees):
    "class -> names of its fields"
    return {n.name: {s.target.id for s in n.body if isinstance(s, ast.AnnAssign)} for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}


def is_params(node, names=PARAMS): return ast.unparse(node).split('.')[-1] in names


def looked_up(tree, classes, names=PARAMS):
    "The parameters that functions take by name: `p['x']`, or `p[k]` for names in the same function or for the `fields` of a class"
    for function in [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]:
        for n in ast.walk(function):
            if isinstance(n, ast.Subscript) and is_params(n.value, names):
                yield from words(n.slice if isinstance(n.slice, ast.Constant) else function)
                if not isinstance(n.slice, ast.Constant): yield from all_fields(function, classes)


def unpacked(trees):
    "Functions that are called with `**params`, and the arguments of theirs that they name"
    called = {ast.unparse(n.func) for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call) and any(k.arg is None and is_params(k.value) for k in n.keywords)}
    for function in [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in called]:
        yield from (a.arg for a in function.args.args + function.args.kwonlyargs)
        if function.args.kwarg: yield from looked_up(ast.Module([function], []), {}, {function.args.kwarg.arg})


def read_by(stage):
    "Names that the run section of a notebook uses, and parameters that the functions which it can run look up"
    _, marked, reached = followed(stage)
    run = [ast.parse(d.code) for _, d in marked]
    used = {n.id for tree in run for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    trees = [ast.parse(d.code) for d in reached.values()]
    classes = fields_of(trees)
    return used.union(unpacked(run + trees), *(looked_up(tree, classes) for tree in trees))


def test_parameters_are_read_by_name_and_by_the_fields_of_a_class():
    tree = ast.parse("class Plan:\n    steps: int\nclass Other:\n    seed: int\ndef f(p): return Plan(**{x.name: p[x.name] for x in fields(Plan)}), p['rate']")
    assert set(looked_up(tree, fields_of([tree]))) == {'steps', 'rate'}
    tree = ast.parse("def f(a, **how): return a, how['b'], [how[k] for k in 'c d'.split()]\ndef g(e, **how): return how['h']\nf(**s.params)\ng(e=1)")
    assert set(unpacked([tree])) == set('abcd')


@pytest.mark.parametrize('stage', STAGES)
def test_every_declared_parameter_is_read(stage):
    assert set(parameters(notebook_path(stage))) - {'run'} <= read_by(stage)


def launched():
    "(stage, `module.function`) of every training that a notebook starts"
    for stage in STAGES:
        for c in code(notebook_path(stage)):
            for n in ast.walk(ast.parse(c['source'])):
                if isinstance(n, ast.Call) and ast.unparse(n.func) == 'launch': yield stage, n.args[0].value


def test_trainings_have_no_defaults_of_their_own():
    "A setting that a caller forgets is an error, not a value that no recipe can change"
    assert {f for _, f in launched()} == {'pretrain.pretrain', 'sft.fine_tune', 'prefer.train_preferred', 'train.reinforce.reinforce'}
    for stage, name in launched():
        module, _, function = name.rpartition('.')
        signature = inspect.signature(getattr(importlib.import_module(f'citrus.{module}'), function))
        given = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty}
        assert given.items() <= dict(tokens='', data='').items(), f'{stage}: {name}'   # where prepared files lie is no setting


OWN = {('preferences', 'Sampling', 'temperature')}   # the survival table goes through temperatures of its own


def left_out(stage):
    "(function, parameter) of calls in a run section that leave a declared parameter to the default of the function"
    module = importlib.import_module(f'citrus.{own_module(notebook_path(stage))}')
    declared = parameters(notebook_path(stage)).keys()
    run = [ast.parse(c['source']) for c in code(notebook_path(stage)) if flagged(c, 'stage')]
    for call in [n for tree in run for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]:
        function = getattr(module, call.func.id, None)
        if not getattr(function, '__module__', '').startswith('citrus.') or any(k.arg is None for k in call.keywords): continue
        known = list(inspect.signature(function).parameters.values())
        given = {p.name for p in known[:len(call.args)]} | {k.arg for k in call.keywords}
        yield from ((call.func.id, p.name) for p in known if p.default is not p.empty and p.name in declared - given)


@pytest.mark.parametrize('stage', STAGES)
def test_no_declared_parameter_is_left_to_a_default(stage):
    assert {(stage, *call) for call in left_out(stage)} <= OWN


def test_prefer_trains_with_its_parameters():
    "Every setting of the training that the notebook declares is given under its own name"
    from citrus.prefer import train_preferred
    call, = (n for c in code(notebook_path('prefer')) if flagged(c, 'stage')
             for n in ast.walk(ast.parse(c['source'])) if isinstance(n, ast.Call) and ast.unparse(n.func) == 'launch')
    given = {k.arg: ast.unparse(k.value) for k in call.keywords}
    declared = parameters(notebook_path('prefer')).keys() & inspect.signature(train_preferred).parameters.keys()
    assert given.keys() == inspect.signature(train_preferred).parameters.keys()
    assert {'length', 'micro_batch', 'lora_rank'} <= declared and all(given[k] == k for k in declared)


def test_the_record_of_a_training_holds_the_parameters_of_its_stage(micro, store):
    folder = store / 'runs' / 'micro' / 'sft'
    params = json.loads((folder / 'manifest.json').read_text())['params']
    for model in ('sft1', 'sft2', 'sft3', 'answer_only'):
        held = json.loads((folder / model / 'training.json').read_text())
        shared = params.keys() & held.keys() - {'epochs'}
        assert shared >= set('length lora_rank learning_rate global_batch weight_decay beta2 clip seed'.split())
        assert {k: held[k] for k in shared} == {k: params[k] for k in shared}


# --- which values there are --------------------------------------------------------------------------------------------

FREE = {'sources', 'executor_options', 'engine', 'build'}   # what these may hold is known to the notebook that reads them


@pytest.mark.parametrize('stage', STAGES)
def test_every_number_and_list_says_its_values(stage):
    for name, p in parameters(notebook_path(stage)).items():
        if p.kind in (int, float, list, dict) and name not in FREE: assert allowed(p.doc), f'{stage}.{name}: {p.doc}'


def named(stage, parameter): return allowed(parameters(notebook_path(stage))[parameter].doc).names


def test_the_names_that_are_declared_are_those_of_the_code():
    from citrus.data.arms import ARMS
    from citrus.data.hub import HUB
    from citrus.train.bandit import REWARDS, MIX_RULES
    from citrus.llm.models import BACKENDS
    from citrus.data.corpus import EXECUTORS
    from citrus.evaluate import MADE_BY
    from citrus.eval.exams import EXAMS
    from citrus.world.telling import DESIGNS
    from citrus.llm.opening import EASY_RULES as DIFFICULTY
    assert named('pretrain', 'rule') == named('rules', 'rules') == list(MIX_RULES) and named('pretrain', 'reward') == ['', *REWARDS]
    assert named('evaluate', 'models') == named('evaluate', 'likely_models') == list(MADE_BY)
    assert named('evaluate', 'exams') == [*EXAMS, '*.jsonl'] and named('clean', 'executor') == ['', *EXECUTORS]
    assert named('synth', 'design') == list(DESIGNS) and set(named('synth', 'difficulty')) == set(DIFFICULTY)
    for kind, lists in dict(question=[('synth', 'closed_hub')], sft=[('synth', 'general_hub'), ('prefer', 'general_hub'), ('sft', 'sft1_hub')]).items():
        for stage, name in lists: assert [n.rstrip('*') for n in named(stage, name) if n] == [i for i, a in HUB.items() if a.record == kind]
    assert named('sft', 'sft1_hub') == named('sft', 'sft2_hub') == named('sft', 'sft3_hub')
    roles = {n.partition(':')[0] for n in named('synth', 'reasoner')}
    assert roles == {'expert', 'transformers', 'openai', 'vllm', 'serve'} <= set(BACKENDS) and OWN_ARMS == list(ARMS)


@pytest.mark.parametrize('text, message', [
    ('pretrain.rule=foo', "pretrain.rule = 'foo': needs one of"), ('pretrain.rule=omd', "did you mean 'odm'"), ('pretrain.steps=-5', 'pretrain.steps = -5: needs to be at least 1'),
    ('pretrain.steps=0', 'at least 1'), ('pretrain.learning_rate=0', 'above 0'), ('pretrain.learning_rate=.nan', 'finite'), ('pretrain.learning_rate=.inf', 'finite'),
    ('sft.epochs=[1]', 'sft.epochs = [1]: needs 3 values'), ('sft.epochs=[1, -1, 1]', '-1 needs to be at least 1'), ('sft.epochs=[1, a, 1]', 'is str, needs int'),
    ('evaluate.models=[bas]', "did you mean 'base'"), ('evaluate.models=[]', 'needs 1 or more values'), ('evaluate.models=[base, base]', 'stands there twice'),
    ('evaluate.exams=[medqq]', "did you mean 'medqa'"), ('cases.namespace=ORFA', "did you mean 'ORPHA'"), ('cases.findings=[8, 5]', 'needs to rise'),
    ('cases.findings=[5]', 'needs 2 values'), ('cases.lay=1.5', 'at least 0 and at most 1'), ('clean.validation=1', 'at least 0 and below 1'),
    ('clean.executor=slrum', "did you mean 'slurm'"), ('clean.limits={noise: [1, 0]}', "clean.limits['noise'] = [1, 0]: needs to rise"),
    ('synth.graders=[exprt@4]', 'needs one of'), ('synth.reasoner=gpt', 'needs one of'), ('prefer.start=sft2', "did you mean 'sft3'"),
    ('sft.instruction_rows=all', 'is str, needs int'), ('clean.limits={noise: 1}', "needs a list"), ('cost.toy={a: [1]}', 'needs one value'),
    ('sft.sft1_hub=BAAI/Infinity', "did you mean"), ('synth.closed_hub=[medqa]', 'needs one of'), ('clean.exempt={zh: prose}', 'needs a list'),
    ('traces.rates=[0.1, 0.1]', 'stands there twice'), ('cost.lengths={toy: [1, 2, 3], student: [1, 2, 3, 4]}', 'needs 4 values'), ('common.seed=-1', 'at least 0'),
    ('preferences.rates=[]', 'needs 1 or more'), ('preferences.betas=[]', 'needs 1 or more')])
def test_a_value_that_no_stage_could_use_is_refused(text, message):
    with pytest.raises(UserError) as e: settings(SMOLLM2, [text])
    assert message in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('text', ['evaluate.exams=[medqa, own.jsonl]', 'synth.graders=[expert, "openai:http://a/v1#b@0.7"]', 'pretrain.epochs=4', 'clean.documents=all', 'prefer.probe=[]', 'prefer.probe=[1]', 'sft.sft1_hub=BAAI/Infinity-Instruct:7M'])
def test_a_value_that_a_stage_can_use_is_not(text): settings(SMOLLM2, [text])


@pytest.mark.parametrize('sets, message', [
    (['sft.control=false'], 'evaluate: models names answer_only, which sft.control = False leaves out'),
    (['prefer.start=answer_only', 'sft.control=false'], 'prefer: start names answer_only'),
    (['pretrain.processes=2', 'pretrain.global_batch=3'], 'pretrain: global_batch = 3 does not divide among 2 devices'),
    (['prefer.micro_batch=3'], 'prefer: global_batch = 4 does not divide among 1 devices with 3 at a time'),
    (['synth.questions=2401'], 'synth: questions = 2401 of the 2400 questions of cases.train are too many'), (['evaluate.samples=3'], 'evaluate: samples = 3 without a temperature'),
    (['textbook.arm=hpo'], "textbook: 'hpo' is no arm of this run"), (['clean.exempt={fr: [prose]}'], "clean: 'fr' is no arm of this run"),
    (['clean.sources=[{id: mine, kind: txt, path: a, licence: b, domain: medical}]', 'clean.exempt={}', 'clean.other=[]'], "textbook: 'hpo_definitions' is no arm of this run, which has mine"),
    (['clean.sources=[{kind: jsonl}]'], "clean: sources holds {'kind': 'jsonl'}, which is no mapping with an id"),
    (['clean.sources=[{id: mine, kind: txt, path: a, licence: b, domain: medical}]', 'textbook.arm=mine', 'clean.exempt={code: [prose]}'], "clean: 'code' is no arm of this run, which has mine"),
    (['clean.other=[cod]'], "clean: 'cod' is no arm of this run"), (['assets.chat_template=none.jinja'], "assets: chat_template = 'none.jinja': there is no such file"),
    (['synth.spare=160'], 'synth: spare = 160 leaves none of 160 questions'), (['prefer.questions_from=synth'], 'prefer: questions = 24 of synth.spare = 0 are too many'),
    (['synth.closed_hub=[GBaker/MedQA-USMLE-4-options]', 'synth.questions=10179'], 'synth: questions = 10179 of the 10178 of GBaker/MedQA-USMLE-4-options are too many'),
    (['textbook.writer=openai:http://a/v1#b'], 'textbook: up to 720 pairs are asked for, of which sft.textbook_rows = 60 are read'),
    (['prefer.most_pairs=[0, 5]'], 'prefer: most_pairs = [0, 5]: general = 0 give at most 0'),
    (['prefer.general=3000', 'prefer.general_hub=[openai/gsm8k]', 'prefer.most_pairs=[0, 5000]', 'cases.train=9000', 'synth.questions=7000'], 'prefer: general = 3000: stage 3 may read 7000 of the 7473 problems of openai/gsm8k'),
    (['evaluate.exams=[nowhere.jsonl]'], "evaluate: 'nowhere.jsonl': there is no such file"), (['published.phenopackets=nowhere'], "published: 'nowhere': there is no such")])
def test_values_that_contradict_one_another_are_refused(sets, message):
    with pytest.raises(UserError) as e: consistent(settings(SMOLLM2, sets), [*chosen(), 'published'])
    assert str(e.value).startswith(message)


@pytest.mark.parametrize('stage, text, words', [
    ('clean', 'clean.limits={}', "limits = {}: 'characters' is missing"), ('clean', 'clean.limits={nois: [0, 1]}', "did you mean 'noise'"),
    ('cost', 'cost.toy={zz: 1}', "unknown name in toy 'zz'"), ('cost', 'cost.lengths={toy: [1, 2, 3, 4]}', "'student' is missing"),
    ('assets', "assets.student=''", "student = ''"), ('assets', 'assets.student=smollm', "student = 'smollm'")])
def test_a_mapping_or_a_student_that_is_none_is_refused(stage, text, words):
    with pytest.raises(UserError) as e: consistent(settings(SMOLLM2, [text]), [stage])
    assert words in str(e.value) and '\n' not in str(e.value)


def test_the_limits_that_are_declared_are_all_rules():
    from citrus.data.quality import GATES
    from citrus.data.signals import QUALITY_RULES
    from citrus.core.recipes import UNUSED_RULES
    assert {*parameters(notebook_path('clean'))['limits'].default, *UNUSED_RULES} == {*GATES, *QUALITY_RULES}
    consistent(settings(SMOLLM2, ['clean.limits={braces: [0, 1]}', 'assets.student=owner/name']), ['clean', 'assets'])


def test_a_contradiction_matters_only_where_it_runs():
    consistent(settings({}), list(STAGES))
    consistent(settings(SMOLLM2), list(STAGES))
