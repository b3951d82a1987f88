"The knowledge expert's reasoning, word for word: every reply of 50 questions of a toy ontology, as they were before steps became records."
import asyncio
import json
import random
from dataclasses import replace

import pytest

from citrus.core.files import root
from citrus.core.keys import digest
from citrus.llm.look_up import knowledge_base
from citrus.llm.models import Model
from citrus.llm.roles import Cast
from citrus.synth import synthesise
from citrus.world.expert import Knowledge, expert, save_knowledge

DATA = root() / 'tests' / 'data' / 'reasoning.jsonl'
FINDINGS = [f'{a} {b}' for a in ('Blue', 'Silver', 'Heavy', 'Brittle', 'Itching') for b in ('nails', 'hair', 'eyelids', 'tongue')]
FAMILIES = ['Alder disease', 'Alder disease type 2', 'Birch syndrome', 'Cedar disease', 'Elm syndrome', 'Hazel disease', 'Larch syndrome', 'Maple disease', 'Oak syndrome', 'Pine disease', 'Rowan syndrome', 'Willow disease']


def toy_knowledge():
    "Twelve invented families with nine of twenty invented findings each"
    rng = random.Random(0)
    own = {f: {t: rng.choice((0.3, 0.6, 0.9)) for t in rng.sample(range(len(FINDINGS)), 9)} for f in FAMILIES}
    carriers = {f'F{t}': {f: fs[t] for f, fs in own.items() if t in fs} for t in range(len(FINDINGS))}
    return Knowledge(carriers, {f'F{t}': [name] for t, name in enumerate(FINDINGS)}, 'toy')


def toy_question(k, i):
    "A patient of the i-th family in turn, with three to six findings and one that is absent"
    rng = random.Random(i)
    family = FAMILIES[i % len(FAMILIES)]
    own = [t for t, c in k.carriers.items() if family in c]
    present, absent = rng.sample(own, rng.randint(3, 6)), rng.choice([t for t in k.carriers if t not in own])
    named = [k.names[t][0].lower() for t in present]
    text = f'A patient has {", ".join(named[:-1])} and {named[-1]}. There is no {k.names[absent][0].lower()}. What is the most likely diagnosis?'
    return dict(id=f'toy-{i}', source='toy', split='train', stem='', open_stem=text, options=[], answer=None, answer_text=family, aliases=[], context=None, difficulty=None, meta={})


class Transcript:
    "A door to the knowledge expert that notes what it says"
    def __init__(self): self.replies = []

    async def ask(self, messages, model, sampling, role=''):
        replies = [reply for _, reply in expert(model, sampling, [(messages, i) for i in range(sampling.n)])]
        self.replies.append([role, replies[-1].text])
        return replies


def casts(k, path):
    "Six casts: each design with and without the answer; hot reasoners, so that steps are refused and looked up"
    model = Model('expert', 'expert', str(path), digest([str(path)]))
    base = Cast(model, model, model, lambda query: knowledge_base(k, query), temperature=8.0, others=3.0)
    return [replace(base, design=design, gold=gold) for design in ('findings', 'candidates', 'rival') for gold in (True, False)]


def transcript(k, cast, i):
    "All that was said about a question, and what its trace became"
    door = Transcript()
    _, trace = asyncio.run(synthesise(door, toy_question(k, i), cast))
    return dict(id=f'toy-{i}', replies=door.replies, outcome=trace['outcome'], think=trace['think'], answer=trace['answer'])


def summary(row, whole): return row if whole else dict(id=row['id'], digest=digest(row))


@pytest.fixture(scope='module')
def transcripts(tmp_path_factory):
    k, path = toy_knowledge(), tmp_path_factory.mktemp('toy') / 'knowledge.json'
    save_knowledge(k, path)
    return [transcript(k, casts(k, path)[i % 6], i) for i in range(50)]


def test_the_experts_texts_are_what_they_were(transcripts):
    before = [json.loads(line) for line in DATA.read_text(encoding='utf-8').splitlines()]
    assert [summary(row, 'replies' in old) for row, old in zip(transcripts, before, strict=True)] == before


def test_the_questions_make_the_expert_do_all_that_it_can(transcripts):
    openings = {(role, text.split('>')[0] + '>' + text.split('>')[1].split(' ')[0]) for row in transcripts for role, text in row['replies']}
    assert {('reason', '<step>Known:'), ('reason', '<step>Candidates:'), ('reason', '<step>Conclusion:'), ('reason', '<ask>Which'), ('reflect', '<rating>0</rating'), ('stop', '<stop>1</stop')} <= openings
    assert len({row['outcome'] for row in transcripts}) > 2
