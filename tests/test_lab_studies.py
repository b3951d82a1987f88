"The laboratory's chain and its studies, run as notebooks on a small world."
import pandas as pd
import pytest

from citrus.core.files import root
from citrus.core.records import read_jsonl
from conftest import alone, citrus_run

LAB = str(root() / 'tests' / 'lab.yml')
SETS = {'patients', 'presentations', 'diseases', 'unread'}


@pytest.fixture(scope='session')
def lab(store, shared):
    "The chain, and the students that its studies begin with, made once"
    with alone(shared / 'lab.lock'):
        citrus_run(store, '--recipe', LAB)
        citrus_run(store, '--recipe', LAB, '--only', 'students')
    return store / 'runs' / 'lab'


def study(lab, store, name):
    "The folder of a study, run now"
    citrus_run(store, '--recipe', LAB, '--only', name)
    folder = lab / name
    assert not list(folder.rglob('*.safetensors')) and not (folder / '.courses').exists(), 'of a student its answers are kept'
    return folder


def test_every_held_out_set_is_evaluated(lab):
    scores = pd.read_csv(lab / 'evaluate' / 'scores.csv')
    assert {'cases_patients', 'cases_presentations', 'cases_diseases', 'cases_unread'} <= set(scores.benchmark)


def test_students_differ_in_their_worlds_and_weights(lab):
    folder = lab / 'students'
    facts = [(folder / str(n) / 'facts.jsonl').read_text() for n in (1, 2)]
    weights = [(folder / str(n) / link / 'model.safetensors').read_bytes() for n in (1, 2) for link in ('base', 'pretrained', 'sft1', 'model')]
    assert facts[0] != facts[1] and len(set(weights)) == 8


def test_traces(lab, store):
    folder = study(lab, store, 'traces')
    answers = pd.DataFrame(read_jsonl(folder / 'answers.jsonl'))
    assert set(answers.set) == SETS and set(answers.student) == {0, 1}, 'the last student is for rates'
    assert len(answers.kind.unique()) == 6 and set(pd.read_csv(folder / 'contrasts.csv').kind) == set(answers.kind) - {'traces'}


def test_stages(lab, store):
    from citrus.studies.stages import ORDERS
    assert set(pd.read_csv(study(lab, store, 'stages') / 'orders.csv').kind) == set(ORDERS)


def test_preferences(lab, store):
    from citrus.studies.preferences import WAYS
    folder = study(lab, store, 'preferences')
    assert set(pd.read_csv(folder / 'ways.csv').kind) == {'before', *WAYS} and pd.read_csv(folder / 'sampled.csv').pairs.min() > 0


def test_mixing(lab, store):
    from citrus.studies.mixing import NOTHING
    known = pd.read_csv(study(lab, store, 'mixing') / 'known.csv')
    assert set(known.kind) == {'uniform', 'odm', NOTHING} and set(known.set) == {'by finding', 'by disease'}


def test_scaling(lab, store):
    sizes = pd.read_csv(study(lab, store, 'scaling') / 'sizes.csv')
    assert sizes.groupby('kind').students.first().to_dict() == {
        f'{name}, {share} of the tokens{end}': n
        for name, n in (('small', 2), ('wide', 1)) for share in ('50%', '100%') for end in ('', ', control: bare answers')
    }
