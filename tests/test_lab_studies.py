"The laboratory's chain and its studies, run as notebooks on a small world."
import pandas as pd
import pytest

from citrus.core.files import root
from citrus.core.records import read_jsonl, write_jsonl
from citrus.llm.prompt import ask, target
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


def pairs_by_hand(place, n=6):
    "Right answers preferred to those of the next patient: a student of a few steps is never right by itself"
    questions = read_jsonl(place / 'train.jsonl', 'question')[-n:]
    reply = lambda q: [dict(role='assistant', content=target('Known.', q['answer_text']))]
    about = lambda q: dict(id=f'pair-{q["id"]}', question_id=q['id'], prompt=ask(q, 'open'), n_correct=1, n_samples=2)
    return [about(q) | dict(chosen=reply(q), rejected=reply(other)) for q, other in zip(questions, questions[1:])]


def test_preferences(lab, store):
    from citrus.studies.preferences import PREFERENCE_WAYS
    said = citrus_run(store, '--recipe', LAB, '--only', 'preferences', ok=False)
    assert 'give no pair; change preferences.learn or the temperature' in said
    [begun] = (store / 'store').glob('preferences-*.partial')
    for number, place in enumerate((lab / 'cases', lab / 'students' / '1', lab / 'students' / '2')):
        write_jsonl(begun / 'pairs' / f'{number}.jsonl', pairs_by_hand(place), 'pair')
    folder = study(lab, store, 'preferences')
    assert set(pd.read_csv(folder / 'ways.csv').kind) == {"before", *PREFERENCE_WAYS} and not (folder / 'starts').exists()


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
