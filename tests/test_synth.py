"Synthesis: what a reasoner is sent, hostile replies, kills."
import asyncio
import functools
import json
import random
from dataclasses import replace

import pandas as pd
import pytest
from conftest import MICRO, citrus_run
from kill_synth import compare

from citrus.world.expert import Knowledge
from citrus.llm.models import Model, Reply
from citrus.eval.extract import extract_letter
from citrus.eval.judge import reveals
from citrus.core.files import UserError
from citrus.core.records import read_jsonl
from citrus.world.telling import DESIGNS, monologue
from citrus.world.expert_parts import reason_skill, reflect_skill, stop_skill, verify_skill, write_skill
from citrus.llm.roles import REASON, REFLECT, STOP, WRITE, Cast, accepted, sections, tag
from citrus.llm.threads import Thread
from citrus.llm.opening import asking, open_up, openable, rewrite_fault, unfit_question
from citrus.world.chart import chart
from citrus.world.steps import accepted_steps, read_step, step_record
from citrus.llm.monologue import concludes, leaked
from citrus.synth import design_rows, synthesise, think, verify
from citrus.llm.look_up import corpus_texts, knowledge_base, library
from citrus.studies.reflection import NOBODY, SHUFFLED, WAYS

TOY = Knowledge(dict(f1={'Alder': .9, 'Birch': .9}, f2={'Alder': .9}, f3={'Birch': .9}), dict(f1=['Fever'], f2=['Rash'], f3=['Cough']), 'test')
CASE = dict(id='q', source='test', split='train', stem='', open_stem='A patient has fever and rash. There is no cough.', options=[dict(label='A', text='Alder'), dict(label='B', text='Birch')], answer='A',
            answer_text='Alder', aliases=['Alder type 1'], context=None, difficulty=None, meta={})
SKILLS = {REASON: reason_skill, REFLECT: reflect_skill, STOP: stop_skill, WRITE: write_skill}
TOY_CAST = Cast(*[Model('toy', 'toy')] * 3)


def rows(store, stage, file, kind):
    return read_jsonl(store / 'runs' / 'micro' / stage / file, kind)


class Door:
    "The toy expert behind a door; a function of (part, text) may say something else"
    def __init__(self, instead=lambda part, text, index: None): self.instead, self.seen = instead, []

    async def ask(self, messages, model, sampling, role=''):
        self.seen.append((role, messages[-1]['content']))
        def say(i):
            other = self.instead(role, messages[-1]['content'], i)
            return SKILLS[messages[0]['content']](TOY, messages, 0.0, random.Random(i)) if other is None else other
        return [Reply(say(i), 1, 'stop', 0.0) for i in range(sampling.n)]


def run(coroutine): return asyncio.run(coroutine)


# --- no leak ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def reflected(micro, store):
    "The study of reflection on what the micro chain made"
    citrus_run(store, '--recipe', str(MICRO), '--only', 'reflection')
    return store / 'runs' / 'micro' / 'reflection'


def test_no_reasoner_prompt_holds_the_answer(reflected, store):
    """Reads every prompt in the ledger that was sent to a reasoning expert. An answer or alias may be in it in two places only: in an accepted step, which must then be, word for word,
    what a reasoner said of that question; and in external knowledge, which must be what the library says again to the same words, knowing of no question"""
    asked = {}
    for synth in (store / 'runs').glob('*/synth'):   # other tests make runs in this store too
        cases = synth.with_name('cases')
        tell = library(cases / 'knowledge.json', functools.partial(corpus_texts, synth.with_name('clean')))
        asked |= {q['open_stem']: (q, tell) for q in read_jsonl(cases / 'train.jsonl', 'question')}
    sent = [r for path in (store / 'ledger').rglob('*.jsonl') for r in read_jsonl(path) if r.get('messages', [{}])[0].get('content') == REASON]
    parts = [sections(r['messages']) for r in sent]
    spoken = {(p['Question'], tag(r['text'], 'step')) for p, r in zip(parts, sent)}
    for part in parts:
        q, tell = asked[part['Question'].strip()]
        assert set(part) <= {'Question', 'Accepted steps', 'Feedback', 'External knowledge', 'Look ups left', 'Number of candidates', 'Task'}
        assert not any(reveals(text, q) for title, text in part.items() if title not in ('Accepted steps', 'External knowledge'))
        assert all((part['Question'], step) in spoken for step in accepted(part.get('Accepted steps', '')))
        for learned in part.get('External knowledge', '').split('Q: ')[1:]:
            query, _, answer = learned.strip().partition('\n')
            assert tell(query) == answer
    assert len(sent) > 200 and any('External knowledge' in p for p in parts) and any('Feedback' in p for p in parts)


@pytest.mark.parametrize('says', ['It is Alder.', 'Think of alder TYPE 1', 'ALDER'])
def test_feedback_that_tells_is_thrown_away(says):
    door = Door(lambda part, text, i: f'<rating>0</rating><feedback>{says}</feedback>' if part == 'reflect' else None)
    t = run(think(door, CASE, Cast(*[Model('toy', 'toy')] * 3, rounds=5)))
    assert t.leaks == 5 * 3 and not t.accepted and all(s['feedback'] == '' for s in t.steps)
    assert not any(reveals(text, CASE) for part, text in door.seen if part == 'reason')


MARFAN = Knowledge(dict(f1={'Marfan syndrome': .9, 'Birch syndrome': .9}, f2={'Marfan syndrome': .9}, f3={'Birch syndrome': .9}), dict(f1=['Fever'], f2=['Rash'], f3=['Cough']), 'test')
TALL = CASE | dict(options=[], answer=None, answer_text='Marfan syndrome', aliases=['Marfan syndrome, type 1'])


class Telling(Door):
    "A door whose reflector refuses the first steps with a hint, and then plays its part"
    def __init__(self, hint): super().__init__(self.hinted); self.hint = hint

    def hinted(self, part, text, i):
        hints = sum(role == 'reflect' for role, _ in self.seen)
        return f'<rating>0</rating><feedback>{self.hint}</feedback>' if part == 'reflect' and hints <= 3 else None

    async def ask(self, messages, model, sampling, role=''):
        self.seen.append((role, messages[-1]['content']))
        say = lambda i: self.instead(role, messages[-1]['content'], i) or SKILLS[messages[0]['content']](MARFAN, messages, 0.0, random.Random(i))
        return [Reply(say(i), 1, 'stop', 0.0) for i in range(sampling.n)]


@pytest.mark.parametrize('hint', ['Think of Marfan instead.', "It is Marfan's  syndrome.", 'MARFAN-SYNDROME fits.', 'Have you thought of the syndrome of Marfan?'])
def test_a_reflector_that_tells_is_caught_in_the_loop_however_it_spells_the_name(hint):
    door = Telling(hint)
    t, trace = run(synthesise(door, TALL, TOY_CAST))
    named = next(i for i, s in enumerate(t.steps) if reveals(s['text'], TALL))
    early = [text for steps, text in t.prompts if steps <= named]
    assert t.leaks == trace['withheld'] == 3 and early and not any(reveals(text, TALL) for text in early)
    assert trace['outcome'] == 'kept' and not trace['leaked']


def test_a_leak_counts_though_the_reasoner_names_the_answer_later():
    "A reflector that is not known to hold the answer may say it; the prompt that carries it came before any step that names it"
    t = run(think(Telling('Think of Marfan instead.'), TALL, replace(TOY_CAST, gold=False)))
    assert t.done and any(reveals(s['text'], TALL) for s in t.steps) and leaked(t)
    honest = run(think(Telling('Look at the skin.'), TALL, replace(TOY_CAST, gold=False)))
    assert honest.done and not leaked(honest)


@pytest.mark.parametrize('last, concluded', [('So I decide for Alder.', True), ('So I decide against Alder and for Birch.', False), ('So it is not Alder.', False), ('So I decide now.', False), ('Alder it is, rather than Birch.', False),
                                             ('This leaves Alder. All fits.', False), ('It is not Birch, so it is Alder.', True), ('I decide against Birch and for alder.', True), ('Neither Alder nor Birch.', False)])
def test_the_conclusion_is_last(last, concluded): assert concludes(f'Fever fits Alder and Birch. {last}', 'Alder', ['Birch']) == concluded


AGAINST_IT = ['So I prefer Birch over Alder.',
    'Birch is better than Alder.',
    'So Birch beats Alder.',
    'So Birch, and Alder is out.',
    'Alder can be dismissed.',
    'I doubt Alder.',
    'Alder seems wrong.',
    'Alder fails to explain the rash.',
    'Is it Alder?',
    'Birch and Alder remain.',
    'Both Birch and Alder fit.',
    'It may be Alder.',
    'Alder it is, rather than Birch.',
    'So Alder is out, not Birch.',
    'Something is better than Alder.',
    "It can't be Alder.",
    'Birch outweighs Alder.',
    '我怀疑Alder。',
    'Alder lacks the rash.',
    'So it is Birch; Alder was a weak idea.']
FOR_IT = ['Hence Alder, not Birch.',
    'No doubt it is Alder.',
    'So I decide for Alder.',
    'It is not Birch, so it is Alder.',
    'I decide against Birch and for alder.',
    'There is no doubt that it is Alder.',
    'Alder stands out.',
    'Thus Alder explains all of it.',
    'Birch is out, which leaves Alder.']


@pytest.mark.parametrize('last', AGAINST_IT)
def test_a_thought_that_decides_against_its_answer(last):
    assert not concludes(f'Fever fits Alder and Birch. {last}', 'Alder', ['Birch'])


@pytest.mark.parametrize('last', FOR_IT)
def test_a_thought_that_decides_for_its_answer(last):
    assert concludes(f'Fever fits Alder and Birch. {last}', 'Alder', ['Birch'])


@pytest.mark.parametrize('name', ['Chromosome 8q22.1 duplication syndrome', 'Symphalangism, C. S. Lewis type', 'Leukemia, acute, ?X-linked', 'Deafness, without other findings', 'Anemia, not due to iron'])
def test_a_name_may_hold_what_ends_a_sentence(name): assert concludes(f'Fever fits it. So I decide for {name}.', name, ['Alder'])


@pytest.mark.parametrize('answer', ['not Alder', 'Anything but Alder', 'Alder or Birch', 'Alder or something rare', 'Alder (excluded)', 'Brother of a patient with Alder', 'Birch, not Alder', 'Alder excluded', 'unlike Alder'])
def test_the_expert_as_judge_does_not_take_a_denial(answer):
    messages = [dict(role='system', content=''), dict(role='user', content=f'Question:\n?\n\nGiven answer:\n{answer}\n\nReference diagnosis:\nAlder')]
    assert verify_skill(TOY, messages, 0.0, random.Random(0)) == '<same>0</same>'


def test_feedback_without_the_answer_may_name_a_disease():
    door = Door(lambda part, text, i: '<rating>0</rating><feedback>Alder does not fit.</feedback>' if part == 'reflect' else None)
    t = run(think(door, CASE, Cast(*[Model('toy', 'toy')] * 3, gold=False, rounds=3)))
    assert t.leaks == 0 and 'Reference diagnosis' not in ''.join(text for _, text in door.seen)


# --- the loop --------------------------------------------------------------------------------------------------------

def test_the_reasoner_sees_steps_and_last_feedback():
    "A refused step leaves, its feedback stays for one turn"
    refused = []
    def instead(part, text, i):
        if part == 'reflect' and 'Proposed step:\nRash' in text and not refused: return refused.append(1) or '<rating>0</rating><feedback>Look at the skin.</feedback>'
    door = Door(instead)
    t = run(think(door, CASE, TOY_CAST))
    prompts = [sections([dict(content=text)]) for part, text in door.seen if part == 'reason']
    advised = [i for i, p in enumerate(prompts) if p.get('Feedback') == 'Look at the skin.']
    assert len(advised) == 1 and accepted(prompts[advised[0]]['Accepted steps'])[-1].startswith('Fever fits') and t.answer == 'Alder'
    assert [s['rating'] for s in t.steps].count(0) == 1 and len(t.accepted) == len(t.steps) - 1


def test_the_loop_ends_on_two_votes_in_a_row_or_at_the_cap():
    votes = iter([1, 0, 1, 1])
    t = run(think(Door(lambda part, text, i: f'<stop>{next(votes)}</stop>' if part == 'stop' else None), CASE, TOY_CAST))
    assert t.votes == [1, 0, 1, 1] and t.done
    never = run(think(Door(lambda part, text, i: '<stop>10</stop>' if part == 'stop' else None), CASE, Cast(*[Model('toy', 'toy')] * 3, rounds=7)))
    assert never.turns == 7 and not never.done and never.answer == ''


@pytest.mark.parametrize('reply', ['', 'Known: fever.', '<step>a</step><step>b</step>', '<step></step>', '<step>unclosed', '<ask>What?</ask>'])
def test_unreadable_steps_are_refused_and_asked_for_again(reply):
    "The second time the prompt comes it gets its second sample; there is no library, so nothing can be looked up"
    t = run(think(Door(lambda part, text, i: reply if part == 'reason' and i < 2 and 'Accepted' not in text else None), CASE, TOY_CAST))
    assert t.done and [s['rating'] for s in t.steps[:2]] == [0, 0] and t.answer == 'Alder'


def test_look_ups_are_steps_and_are_limited():
    from dataclasses import replace
    cast = replace(TOY_CAST, library=lambda query: knowledge_base(TOY, query), look_ups=2, rounds=6)
    door = Door(lambda part, text, i: '<ask>Who has\na rash?</ask>' if part == 'reason' else None)
    t = run(think(door, CASE, cast))
    assert [s['role'] for s in t.steps] == ['knowledge'] * 2 + ['reasoning'] * 4 and t.steps[0]['text'] == 'Who has a rash?\nRash: Alder (90 %).'
    assert all(s['rating'] == 0 for s in t.steps[2:]) and 'External knowledge:\nQ: Who has a rash?\nRash: Alder (90 %).' in door.seen[-1][1]


def test_no_reasons_no_trace():
    t, trace = run(synthesise(Door(lambda part, text, i: 'no' if part == 'reason' else None), CASE, TOY_CAST))
    assert trace['outcome'] == 'no end within the rounds' and not t.accepted and not trace['verified']


def test_a_prompt_that_a_model_refuses_is_the_outcome_of_its_question():
    from citrus.llm.models import refused_reply
    class Refuses:
        async def ask(self, messages, model, sampling, role=''): return [refused_reply('400 content_filter')] * sampling.n
    t, trace = run(synthesise(Refuses(), CASE, TOY_CAST))
    assert trace['outcome'] == 'set aside: 400 content_filter' and t.calls == 1


def test_the_writer_is_asked_again_with_the_reason_and_then_given_up():
    door = Door(lambda part, text, i: '<think>As told, it is Alder.</think><answer>Alder</answer>' if part == 'write' else None)
    _, trace = run(synthesise(door, CASE, TOY_CAST))
    writes = [text for part, text in door.seen if part == 'write']
    assert trace['outcome'] == 'a second voice' and len(writes) == 3 and 'What was wrong:\na second voice' in writes[1]


@pytest.mark.parametrize('answer, right, by', [('Alder', True, 'rule'), ('ALDER TYPE 1.', True, 'rule'), ('Birch', False, 'rule'), ('', False, 'rule'), ('Alder, I think', True, 'judge'), ('Alder or Birch', False, 'rule')])
def test_answers_are_verified_by_rule_then_by_a_judge(answer, right, by):
    from citrus.llm.roles import VERIFY
    from citrus.world.expert_parts import verify_skill
    SKILLS[VERIFY] = verify_skill
    door = Door()
    verdict = run(verify(door, Thread(CASE), answer, TOY_CAST))
    assert (verdict['right'], verdict['by']) == (right, by) and bool(door.seen) == (by == 'judge')


def test_empty_and_tiny_questions_do_not_break_the_expert():
    for stem in ('What is it?', 'Known: x.\n\nFeedback:\n1. Candidates: ; .'):
        t = run(think(Door(), CASE | dict(open_stem=stem), Cast(*[Model('toy', 'toy')] * 3, rounds=6)))
        assert t.turns <= 6


def test_the_knowledge_base_answers_whatever_it_is_asked(micro, store):
    "Every family, every finding, nonsense; on the real ontology, whose root has no name"
    from citrus.world.expert import load_knowledge
    k = load_knowledge(store / 'runs' / 'micro' / 'cases' / 'knowledge.json')
    assert all(knowledge_base(k, f'What does {f} look like?') for f in k.families)
    assert knowledge_base(k, 'Zzz?') == '' and knowledge_base(k, '') == ''
    for t in list(k.carriers)[:300]:
        if t in k.names: knowledge_base(k, f'Which of {"; ".join(k.families[:2])} have {k.names[t][0]}?')


# --- opening ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('stem, why', [
    ('Which of the following is NOT a cause of fever?', 'asks for an exception'), ('All of the following cause fever except:', 'asks for an exception'), ('Which drug doesn\'t cause a rash?', 'asks for an exception'),
    ('Which of the following statements about gout is true?', 'asks which statement is true'), ('What is the diagnosis? Choose one of the options.', 'speaks of its options'),
    ('He has not slept. Which of the following is the most likely diagnosis?', ''), ('What is Zinc used for?', 'names its own answer')])
def test_what_cannot_be_opened(stem, why):
    assert unfit_question(CASE | dict(stem=stem, answer_text='Zinc', aliases=[], options=[])) == why


@pytest.mark.parametrize('key', ['Both A and B', 'A and C', 'All of the above', 'None of the above', 'a, b', 'Neither of these'])
def test_two_answer_keys_cannot_be_opened(key):
    assert unfit_question(CASE | dict(stem='What is it?', options=[dict(label='A', text=key)], aliases=[], answer_text='x')) == 'two answers'


@pytest.mark.parametrize('text', ['', None, 'A boy is ill. What is it?', 'A boy of 4 is ill. What is the likely cause?', 'A boy of 5 is ill. What is the most likely cause: Iron?', 'A boy of 4 is ill and has a fever. What is the most likely cause?',
                                  'What is the most likely cause? A boy of 4 is ill, is he not?', 'A boy of 4 is ill. What is the most likely cause, Iron or Zinc?', 'A boy of 4 is ill. The most likely cause'])
def test_a_rewriter_may_change_the_asking_only(text):
    q = CASE | dict(stem='A boy of 4 is ill. Which of these is the most likely cause?', options=[dict(label='A', text='Iron'), dict(label='B', text='Zinc')])
    assert rewrite_fault(q, text)
    assert rewrite_fault(q, 'A boy of 4 is ill. What is the most likely cause?') == ''


def test_opening_is_made_for_cases_as_they_were_built(micro, store):
    from citrus.llm.opening import open_ask
    for q in rows(store, 'cases', 'train.jsonl', 'question'):
        before, ask, after = asking(q['stem'])
        assert ' '.join(p for p in (before, open_ask(ask), after) if p) == q['open_stem'] and rewrite_fault(q, q['open_stem']) == ''


def test_most_exam_questions_of_a_benchmark_can_be_opened():
    from citrus.data.questions import BENCHMARKS
    t = openable(dict(medqa=BENCHMARKS['medqa']()[:300]))
    assert t.questions.sum() == 300 and t[t.outcome == 'open'].questions.item() > 200


def test_foreign_questions_that_are_in_a_benchmark_do_not_enter(monkeypatch):
    "The test questions of MedQA, as if they came from the hub, and one that nobody asked before"
    from citrus.llm import funnel
    from citrus.data.questions import BENCHMARKS
    new = CASE | dict(stem='Zubrowka of the left mandible came and went with the tides of the moon for a man who sold bells. What is it?')
    monkeypatch.setattr(funnel, 'records_named', lambda kind, name: iter([new, *BENCHMARKS['medqa']()[:40]]))
    entered = funnel.entered([], 41, ['a/set'], dict(medqa=BENCHMARKS['medqa']()))
    assert [bool(q['meta'].get('benchmark')) for q in entered] == [False] + [True] * 40
    assert all(run(open_up(None, q | dict(open_stem=stem), TOY_CAST))[1] for q in entered[1:] for stem in (q['stem'], None))


def test_a_letter_in_a_word_is_no_choice():
    options = [dict(label=l, text=t) for l, t in zip('ABCDE', ('Zinc', 'ACE inhibitor', 'E. coli', 'Vitamin D', 'None of the above'))]
    letters = [extract_letter(a, options)[0] for a in ('ACE inhibitor', 'E. coli', 'Vitamin D', 'D', 'b) ', 'F', 'Alas', 'A or B')]
    assert letters == ['B', 'C', 'D', 'D', 'B', None, None, None]


# --- rows ------------------------------------------------------------------------------------------------------------

def test_every_design_tells_the_same_traces(micro, store):
    traces, qs = rows(store, 'synth', 'traces.jsonl', 'trace'), {q['id']: q for q in rows(store, 'synth', 'questions.jsonl', 'question')}
    retold = {d: design_rows(traces, qs, d) for d in DESIGNS}
    assert all(len({r['id'] for r in rs}) == len(traces) for rs in retold.values())
    prompts = [{str(r['messages'][:-1]) for r in rs} for rs in retold.values()]
    assert prompts[0] == prompts[1] == prompts[2]
    for t in traces:
        steps = accepted_steps(t['steps'])
        c = chart(steps)
        for d in DESIGNS:
            text = monologue(steps, d)
            assert text.endswith(f'So I decide for {c.best}.') and all(n.lower().removeprefix('no ') in text.lower() for n in c.fits)
    with pytest.raises(UserError, match='language of the knowledge expert'): design_rows([traces[0] | dict(steps=[step_record('reasoning', read_step('Hm.'), 1, '')])], qs, 'rival')
    with pytest.raises(UserError, match='one of findings'): monologue([], 'nonsense')


def test_nothing_is_dropped_without_a_reason(micro, store):
    fit, rejected = rows(store, 'synth', 'traces.jsonl', 'trace'), rows(store, 'synth', 'rejected.jsonl', None)
    assert all(t['verified'] and not t['leaked'] and t['outcome'] == 'kept' for t in fit) and all(r['reason'] for r in rejected)
    import pandas as pd
    table = pd.read_csv(store / 'runs' / 'micro' / 'synth' / 'funnel.csv')
    assert table.left.iloc[0] == 12 and table.left.iloc[-1] == len(fit)


# --- kills -----------------------------------------------------------------------------------------------------------

def test_killed_three_times_gives_the_same_traces(micro, store, tmp_path):
    "Twenty questions behind a server that misbehaves; the whole of it, with 2,000 and ten kills, is `make kill-synth`"
    from citrus.core.records import write_jsonl
    cases = store / 'runs' / 'micro' / 'cases'
    write_jsonl(tmp_path / 'questions.jsonl', rows(store, 'cases', 'train.jsonl', 'question')[:20], 'question')
    outcome = compare(tmp_path / 'questions.jsonl', cases / 'knowledge.json', 3, connections=4, latency=0.02)
    assert outcome['identical'] and outcome['traces'] > 5 and not outcome['lost'] and not outcome['doubled'], outcome
    assert outcome['kills'] >= 1 and outcome['repeated'] < 0.05, outcome


def test_a_language_model_can_take_every_part(micro, store):
    "The micro model talks nonsense: its steps are refused, nothing breaks, and the cap ends it"
    from citrus.llm.door import converse
    from citrus.world.expert import role_model
    model = role_model(f'transformers:{(store / "runs" / "micro" / "assets" / "base").resolve()}', None)
    asked = rows(store, 'cases', 'train.jsonl', 'question')[:1]
    traces = [trace for _, trace in converse(lambda door, q: synthesise(door, q, Cast(model, model, model, rounds=1)), asked)]
    assert [t['outcome'] for t in traces] == ['no end within the rounds'] and [s['rating'] for s in traces[0]['steps']] == [0]


def test_the_study_of_reflection_runs_on_what_the_chain_made(reflected):
    "Nobody who reflects accepts everything; whoever reflects with another disease in mind refuses true steps"
    table = pd.read_csv(reflected / 'figures' / 'reflection.csv').set_index('reflection')
    metrics = json.loads((reflected / 'manifest.json').read_text())['metrics']
    assert metrics['questions'] == table.n.iloc[0] > 0 and (reflected / 'look_up.csv').exists()
    assert list(table.index) == list(WAYS) and table.refused[NOBODY] == 0 < table.refused_true[SHUFFLED]
