"Facts that hold across notebooks."
import random

import pytest

from citrus.core.records import read_jsonl


def rows(store, name, stage, file, record):
    return read_jsonl(store / 'runs' / name / stage / file, record)


# --- cases -----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def world(store):
    from citrus.world.families import load_world
    return load_world('ORPHA')


def test_answers_are_unique_by_brute_force(micro, store, world):
    "Every family of the namespace is tried on every kept question, without the tables that made it"
    def covers(findings, t): return any(t in world.ancestors(f) for f in findings)
    questions = rows(store, 'micro', 'cases', 'patients.jsonl', 'question') + rows(store, 'micro', 'cases', 'diseases.jsonl', 'question')
    for q in random.Random(0).sample(questions, 12):
        m = q['meta']
        fit = [f.name for f in world.families.values() if all(covers(f.findings, t) for t in m['present'])
               and not any(freq == 1.0 and t in world.ancestors(g) for t in m['absent'] for g, freq in f.findings.items())]
        assert fit == [q['answer_text']]


def test_key_position_is_uniform(world):
    from citrus.cases import choose_families
    from citrus.world.questions import questions
    known, _ = choose_families(world, 8, 1, 0, 5, 8)
    qs, _ = questions(world, 'train', known, 800, 1, 5, 8, 4)
    counts = [sum(q['answer'] == letter for q in qs) for letter in 'ABCD']
    assert sum((c - 200) ** 2 / 200 for c in counts) < 16.3, counts   # chi-square, 3 degrees of freedom, p = 0.001


def test_twenty_one_options(world):
    from citrus.world.questions import NONE, questions
    from citrus.cases import choose_families
    known, _ = choose_families(world, 24, 1, 0, 5, 8)
    qs, _ = questions(world, 'train', known, 420, 2, 5, 8, 21)
    assert all(len(q['options']) == 21 and q['options'][-1]['text'] == NONE and len({o['text'] for o in q['options']}) == 21 for q in qs)
    none = sum(q['answer'] == 'U' for q in qs)
    assert 6 <= none <= 40, none   # expected 20 of 420
    keyed = [q for q in qs if q['answer'] != 'U']
    assert all(next(o['text'] for o in q['options'] if o['label'] == q['answer']) == q['answer_text'] for q in keyed)
    assert all(q['answer_text'] not in {o['text'] for o in q['options']} for q in qs if q['answer'] == 'U')


def test_questions_do_not_depend_on_their_number(world):
    from citrus.cases import choose_families
    from citrus.world.questions import questions
    known, _ = choose_families(world, 8, 1, 0, 5, 8)
    few, many = (questions(world, 'train', known, n, 3, 5, 8, 4)[0] for n in (10, 40))
    assert few == many[:10]


# --- no leak ---------------------------------------------------------------------------------------------------------

TRAINING = [('synth', 'sft3.jsonl', 'sft'), ('sft', 'sft1.jsonl', 'sft'), ('sft', 'sft2.jsonl', 'sft'), ('sft', 'sft3.jsonl', 'sft'),
            ('sft', 'answer_only.jsonl', 'sft'), ('prefer', 'pairs.jsonl', 'pair')]


def test_no_held_out_case_in_training(micro, store):
    held = [q for f in ('patients.jsonl', 'diseases.jsonl') for q in rows(store, 'micro', 'cases', f, 'question')]
    stems = [q['open_stem'].rsplit(' What is', 1)[0] for q in held]
    assert len(stems) > 8
    texts = [str(r) for stage, file, kind in TRAINING for r in rows(store, 'micro', stage, file, kind)]
    texts += [d['text'] for p in (store / 'runs' / 'micro' / 'clean' / 'arms').glob('*.jsonl') for d in read_jsonl(p, 'document')]
    assert len(texts) > 100
    assert not [s for s in stems if any(s in t for t in texts)]
    new = {q['answer_text'].lower() for q in rows(store, 'micro', 'cases', 'diseases.jsonl', 'question')}
    model_made = [t.lower() for stage, file, kind in TRAINING for t in map(str, rows(store, 'micro', stage, file, kind))]
    assert not [n for n in new if any(n in t for t in model_made)]


def test_no_benchmark_question_in_training(micro, store):
    from citrus.data.questions import BENCHMARKS
    from citrus.data.contamination import build_index, overlaps, record_text
    index = build_index({name: load() for name, load in BENCHMARKS.items()})
    texts = [record_text(r) for stage, file, kind in TRAINING for r in rows(store, 'micro', stage, file, kind)]
    texts += [d['text'] for p in (store / 'runs' / 'micro' / 'clean' / 'arms').glob('*.jsonl') for d in read_jsonl(p, 'document')]
    assert overlaps(texts, index).empty
    planted = 'Introduction. ' + BENCHMARKS['medqa']()[7]['stem'] + ' End.'
    assert not overlaps([planted], index).empty


# --- the prompt ------------------------------------------------------------------------------------------------------

def test_training_prompt_is_sampling_prompt(micro, store):
    "Tokens before the answer in training are the tokens that sampling starts from"
    from transformers import AutoTokenizer
    from citrus.llm.prompt import ask, target
    from citrus.train.encoding import encode_dialogue
    tokenizer = AutoTokenizer.from_pretrained(store / 'runs' / 'micro' / 'assets' / 'base')
    for q in rows(store, 'micro', 'cases', 'patients.jsonl', 'question')[:4]:
        for form in ('open', 'options'):
            row = encode_dialogue([*ask(q, form), dict(role='assistant', content=target('a', 'b'))], tokenizer)
            n = next(i for i, l in enumerate(row['labels']) if l != -100)
            sent = tokenizer.apply_chat_template(ask(q, form), add_generation_prompt=True, tokenize=True, return_dict=True)['input_ids']
            assert row['input_ids'][:n] == list(sent)
