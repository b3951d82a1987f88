"Textbook: what a writer or judge can say, what may not reach training, and the rows of a whole run."
import json

import pytest

from citrus.eval.judge import names
from citrus.eval.naming import spelling
from citrus.llm.models import Model, Reply
from citrus.data.entities import Recogniser
from citrus.core.files import UserError
from citrus.core.records import check, read_jsonl
from citrus.llm.support import PairLimits, names_any, unsupported
from citrus.textbook import Crew, choose, expand, pair_gate, order, tagged_answer, read_question, near_repeats

LEAF = 'Blue nails\n\nNails of a blue colour that appear without fever in at least 3 fingers.\nAlso called: Sky nails.\nA kind of: Nail change.'
TOY = Recogniser({('finding', 'f1'): ['Blue nails'], ('finding', 'f2'): ['Fever'], ('finding', 'f3'): ['Rash'], ('finding', 'f4'): ['Nail change']})
ROUNDS = 4
DOC = dict(id='HP:1', source='toy', text=LEAF, domain='medical', lang='en', meta={})


class Says:
    "A door behind which everybody says the same"
    def __init__(self, text): self.text, self.seen = text, []
    async def ask(self, messages, model, sampling, role):
        self.seen.append(messages[-1]['content'])
        return [Reply(self.text, 1, 'stop', 0.0)] * sampling.n


def alone(coroutine):
    try: coroutine.send(None)
    except StopIteration as end: return end.value


CREW = Crew(Model('w', 'expert'), Model('j', 'expert'), TOY, PairLimits(), rounds=ROUNDS, max_tokens=8)
REPLIES = ['', '\x00', '<question>', '<question></question>', '<question>' * 1000, 'I cannot help with that.', '?' * 100, 'Why?', '<answer>?</answer>', '\ud800?', 'What is it? ' * 500, '\u202eما هذا؟\u202c ما هو هذا الشيء الأزرق?']


@pytest.mark.parametrize('reply', REPLIES, ids=range(len(REPLIES)))
def test_rubbish_is_refused_with_a_reason(reply):
    pairs = alone(expand(Says(reply), DOC, CREW))
    assert len(pairs) == 1 + ROUNDS and all(m['fault'] for m in pairs)
    assert json.dumps(pairs)


def test_a_judge_that_always_agrees_cannot_let_the_unsupported_through():
    pairs = alone(expand(Says('<question>What are blue nails in fact?</question><answer>Swollen joints of hands.</answer><supported>1</supported>'), DOC, CREW))
    assert {m['fault'] for m in pairs} == {'words not in the passage', 'like its parent'}


def test_a_judge_that_never_agrees_keeps_everything_out():
    pairs = alone(expand(Says('<question>What are blue nails in fact?</question><answer>Nails of a blue colour.</answer><supported>0</supported>'), DOC, CREW))
    assert pairs[0]['fault'] == 'the judge refuses'


def test_the_judge_sees_no_more_than_passage_question_and_answer():
    door = Says('<question>What are blue nails in fact?</question><answer>Nails of a blue colour.</answer><supported>1</supported>')
    alone(expand(door, DOC, CREW))
    judged = [text for text in door.seen if '\n\nAnswer:\n' in text]
    assert judged and not any('Change:' in text for text in judged)


def test_other_signs_and_numbers_are_no_support():
    assert unsupported(LEAF, '', 'Nails of a blue colour that appear without fever.', TOY, PairLimits()) == ''
    assert unsupported(LEAF, '', 'Nails of a blue colour that appear and fever.', TOY, PairLimits()) == 'an entity not in the passage'
    assert unsupported(LEAF, '', 'Nails of a blue colour in 5 fingers.', TOY, PairLimits()) == 'a number not in the passage'


def test_reading_is_kind():
    assert read_question('Sure!\nWhat is it?\nBye') == 'What is it?' and read_question('<question>What\n is it?</question>') == 'What is it?'
    assert tagged_answer('A b.\n\nC d.') == 'A b.' and tagged_answer('<answer>A b.') == 'A b.'


def test_held_out_names_keep_a_passage_out():
    held = [spelling('Blue nails')]
    assert names_any('It is BLUE-NAILS disease', held) and not names_any('Blue nail', held)
    with pytest.raises(UserError, match='lower it'): choose([DOC], TOY, held, 'toy', .1, 5, 0)
    assert len(choose([DOC], TOY, [], 'toy', .1, 5, 0)[0]) == 1


def test_operators_alternate():
    import random
    from citrus.llm.textbook_expert import OPERATORS
    assert [OPERATORS[o][0] for o in order(6, random.Random(0))] == ['depth', 'breadth'] * 3 and order(0, random.Random(0)) == []


def test_empty():
    assert near_repeats([], 0).tolist() == [] and pair_gate([], [], None, 0) == []
    assert list(near_repeats(['', 'a', '', 'one two three'], 0))[-1] == False


@pytest.fixture(scope='module')
def folder(micro, store): return (store / 'runs' / 'micro' / 'textbook').resolve()


def test_rows_of_a_run(folder, store):
    rows = read_jsonl(folder / 'textbook.jsonl', 'sft')
    held = [spelling(n) for q in read_jsonl(store / 'runs' / 'micro' / 'cases' / 'diseases.jsonl', 'question') for n in names(q)]
    assert rows and len({r['id'] for r in rows}) == len(rows)
    for r in rows:
        check(r, 'sft', r['id'])
        assert [m['role'] for m in r['messages']] == ['user', 'assistant'] and r['meta']['passage'] in r['id'] and r['meta']['writer'] == 'expert'
        assert not names_any(' '.join(m['content'] for m in r['messages']), held)
    rejected = read_jsonl(folder / 'rejected.jsonl')
    assert rejected and all(r['fault'] for r in rejected) and not {r['id'] for r in rejected} & {r['id'] for r in rows}


def test_pairs_with_another_passage_are_refused(folder):
    import pandas as pd
    t = pd.read_csv(folder / 'control.csv').set_index('shown_with')
    assert t.both['own passage'] == 1 and t.both['another passage'] < .1 and t.both["another pair's answer"] < .1


def test_a_prompt_that_the_model_refuses_is_the_fault_of_the_pair():
    from citrus.llm.models import refused_reply
    class Refuses(Says):
        async def ask(self, messages, model, sampling, role): return [refused_reply('400 content_filter')] * sampling.n
    assert {m['fault'] for m in alone(expand(Refuses(''), DOC, CREW))} == {'set aside: 400 content_filter'}
