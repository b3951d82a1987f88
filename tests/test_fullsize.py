"What a run at full size would have stopped at, or done for nothing: each fault, planted small."
import json
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from citrus.assets import SPOKEN, say
from citrus.core.files import UserError
from citrus.core.ingredients import named_files
from citrus.core.recipes import load_recipe, settings
from citrus.llm.opening import for_reasoning
from citrus.llm.roles import ROLE_TASKS, asks_diagnosis, reference_of, role_prompt, sections, worded
from citrus.llm.student import make_student
from citrus.pretrain import arm_files, trainings
from citrus.prefer import to_ask
from citrus.train.encoding import encode_dialogue
from citrus.train.memory import student_shape
from citrus.world.telling import DESIGNS

SIZES = ['8b', '70b', '72b']


@pytest.fixture(scope='module')
def values(): return {name: settings(load_recipe(name)) for name in SIZES}


# --- A1: a large model is not loaded to say something --------------------------------------------------------------------

def test_a_large_model_is_not_loaded_to_speak(tmp_path):
    with open(tmp_path / 'model-00001-of-00030.safetensors', 'wb') as f: f.truncate(SPOKEN + 1)
    assert say(tmp_path, 'What does the heart do?').startswith('not asked: it has 4 GB')


# --- a base model brings no chat template --------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def base(tmp_path_factory, store):
    "A model as a base model is: a tokenizer without a chat template"
    folder = make_student('micro', '', 0, tmp_path_factory.mktemp('base') / 'base')
    (folder / 'chat_template.jinja').unlink()
    return folder


def test_a_base_model_without_a_template_is_one_line(base, tmp_path):
    with pytest.raises(UserError, match='has no chat template; supply one as assets.chat_template=turns.jinja') as e: make_student(str(base), '', 0, tmp_path / 'a')
    assert '\n' not in str(e.value) and not (tmp_path / 'a').exists()


@pytest.mark.parametrize('own', [False, True])
def test_a_supplied_template_ends_a_turn_with_the_end_of_a_text(base, tmp_path, own):
    "Also where the tokenizer brings one: that of Qwen's base model ends turns with a token that does not end its texts"
    if own:
        config = json.loads((base / 'tokenizer_config.json').read_text())
        (base / 'tokenizer_config.json').write_text(json.dumps(config | dict(chat_template='{{ messages }}')))
    tokenizer = AutoTokenizer.from_pretrained(make_student(str(base), '', 0, tmp_path / 'a', 'turns.jinja'))
    talk = [dict(role='system', content='Be brief.'), dict(role='user', content='Who climbs?'), dict(role='assistant', content='<think>Cows?</think>\n<answer>Goats</answer>')]
    text = tokenizer.apply_chat_template(talk, tokenize=False)
    assert text.endswith(f'<|assistant|>\n<think>Cows?</think>\n<answer>Goats</answer>{tokenizer.eos_token}\n') and '<|user|>\nWho climbs?\n' in text
    row = encode_dialogue(talk, tokenizer)
    learned = [i for i, l in zip(row['input_ids'], row['labels']) if l != -100]
    assert learned[-1] == tokenizer.eos_token_id and tokenizer.decode(learned).startswith('<think>Cows?')


def test_the_template_is_part_of_the_key():
    assert [p.name for p in named_files(set(), dict(chat_template='turns.jinja'))] == ['turns.jinja']


# --- F: the recipes of the paper -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', SIZES)
def test_a_faithful_run(values, name):
    v = values[name]
    assert 'nstruct' not in v['assets']['student'] and v['assets']['chat_template'] == 'turns.jinja' and student_shape(v['assets']['student'])
    assert v['synth']['closed_hub'] == ['GBaker/MedQA-USMLE-4-options', 'openlifescienceai/medmcqa'] and v['prefer']['questions_from'] == 'synth'
    assert v['pretrain']['textbook'] and v['sft']['textbook_rows'] == 0 and v['cases']['facts'] == 0
    assert {'pubmedqa_all', 'pubmedqa_all_closed'} <= set(v['evaluate']['exams']) and not {'pubmedqa', 'pubmedqa_closed'} & set(v['evaluate']['exams'])
    sources = {s['id']: s for s in v['clean']['sources']}
    assert {s['options'].get('lang') for s in sources.values() if 'options' in s} >= {'zh'} and {'mathpile', 'stack'} <= set(sources)
    assert 'SlimPajama' not in str(sources), 'no longer served'


@pytest.mark.parametrize('name', SIZES)
def test_nothing_is_trained_for_comparison_alone(values, name):
    v = values[name]
    assert not v['pretrain']['compare'] and not v['sft']['control'] and 'answer_only' not in v['evaluate']['models']


def test_the_default_compares():
    v = settings(load_recipe('smollm2'))
    assert v['pretrain']['compare'] and v['sft']['control'] and 'answer_only' in v['evaluate']['models'] and not v['pretrain']['textbook']


@pytest.mark.parametrize('name', SIZES)
def test_training_text_is_searched_for_every_exam(values, name):
    "B4: what is evaluated is what the stage `clean` searches for, with what it reads them for"
    v = values[name]
    assert v['clean']['exams'] == v['evaluate']['exams'] and len(v['evaluate']['exams']) == 9
    without_passage = {e.removesuffix('_closed') for e in v['evaluate']['exams']}
    assert without_passage <= {e.removesuffix('_closed') for e in v['clean']['exams']}


@pytest.mark.parametrize('rule, compare, names', [('odm', True, ['odm', 'uniform']), ('odm', False, ['odm']), ('uniform', True, ['uniform'])])
def test_what_is_pre_trained(tmp_path, rule, compare, names):
    folders = trainings(SimpleNamespace(dir=tmp_path), rule, compare)
    assert list(folders) == names and folders[rule].name == 'pretrained'


@pytest.mark.parametrize('read', [False, True])
def test_what_the_textbook_evolved_into_is_an_arm(tmp_path, read):
    for stage, name in (('clean', 'web'), ('textbook', 'textbook_evolved')):
        (tmp_path / stage / 'arms').mkdir(parents=True)
        (tmp_path / stage / 'arms' / f'{name}.jsonl').write_text('')
    s = SimpleNamespace(params=dict(textbook=read, reads=[]), folders=dict(clean=tmp_path / 'clean', textbook=tmp_path / 'textbook'))
    assert list(arm_files(s)) == ['web', 'textbook_evolved'][:1 + read]


# --- questions that do not ask for a diagnosis ---------------------------------------------------------------------------

DRUG = 'A 40-year-old man has a rare disease of the liver. Which of the following drugs is most appropriate?'


@pytest.mark.parametrize('question, diagnosis', [
    ('What is the most likely diagnosis?', True), ('Which of the following conditions is most likely?', True), ('Which disease does he have?', True),
    ('What is the most likely underlying disorder?', True), ('How is it diagnosed? What is its mechanism?', False), (DRUG, False),
    ('Which enzyme is lacking in this condition?', False), ('What is the next best step in management?', False), ('He has a syndrome. The most probable cause is', False)])
def test_what_a_question_asks_for(question, diagnosis): assert asks_diagnosis(question) == diagnosis


@pytest.mark.parametrize('role', ROLE_TASKS)
def test_no_part_is_told_to_find_a_diagnosis_where_none_is_asked_for(role):
    text = role_prompt(role, DRUG, ['Known: a liver.'], reference='Aspirin', form=worded(DESIGNS['rival'][0], DRUG))[-1]['content'].replace(DRUG, '')
    assert 'iagnos' not in text and 'disease' not in text and 'inding' not in text and reference_of(sections(role_prompt(role, DRUG, reference='Aspirin'))) == 'Aspirin'


@pytest.mark.parametrize('role', ROLE_TASKS)
def test_a_case_is_asked_as_before(role):
    prompt = role_prompt(role, 'Fever. What is the most likely diagnosis?', reference='Alder')[-1]['content']
    assert prompt.endswith(f'Reference diagnosis:\nAlder\n\nTask:\n{ROLE_TASKS[role]}')


# --- preferences are asked of the same pool ------------------------------------------------------------------------------

def graded(n): return [dict(id=f'q{i}', difficulty=('hard', 'easy')[i % 2], open_stem='?', answer_text='a') for i in range(n)]


def test_questions_are_kept_for_preferences_before_they_are_chosen():
    selected, spared = for_reasoning(graded(1000), 0.25, 400, 0)
    assert len(spared) == 400 and not {q['id'] for q in spared} & {q['id'] for q in selected}
    assert 150 < sum(q['difficulty'] == 'easy' for q in spared) < 250, 'they are like the others'
    assert for_reasoning(graded(100), 0.25, 0, 0)[1] == []


def test_preferences_are_sampled_from_the_questions_of_the_synthesis():
    files = {('synth', 'spare.jsonl'): graded(8), ('sft', 'sft3.jsonl'): [dict(id='x', question_id='q3')]}
    s = SimpleNamespace(params=dict(start='sft3', questions=7, general=0, questions_from='synth', seed=0), read=lambda stage, file, record: files[stage, file])
    assert {q['id'] for q in to_ask(s)[0]} == {f'q{i}' for i in range(8)} - {'q3'}
    s.params['questions'] = 8
    with pytest.raises(UserError, match='7 of 8 unread; raise synth.spare'): to_ask(s)


# --- money ---------------------------------------------------------------------------------------------------------------

def test_the_textbook_is_asked_about_until_there_is_enough(monkeypatch):
    from citrus import textbook
    crew, asked = SimpleNamespace(rounds=5, seed=0), []
    def expand(docs, crew, title):
        asked.extend(docs)
        return [dict(id=f'{d}-{i}', fault='' if i < 2 else 'no question') for d in docs for i in range(6)]
    monkeypatch.setattr(textbook, 'expand_all', expand)
    monkeypatch.setattr(textbook, 'pair_gate', lambda pairs, *gates: pairs)
    pairs = textbook.expand_until(list(range(20_000)), crew, (), 60)
    assert sum(not m['fault'] for m in pairs) == 60 and len(asked) == 30
    asked.clear()
    assert len(textbook.expand_until(list(range(7)), crew, (), 0)) == 42 and len(asked) == 7, 'no limit asks all, once'


@pytest.mark.parametrize('name', SIZES)
def test_what_is_asked_of_the_textbook_is_read(values, name):
    v = values[name]
    assert v['textbook']['arm'] in {s['id'] for s in v['clean']['sources']} and v['pretrain']['textbook']
