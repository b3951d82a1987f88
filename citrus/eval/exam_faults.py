import random
from collections import Counter

import pandas as pd

from citrus.core.shares import equal_shares_p
from citrus.data.questions import LETTERS
from citrus.eval.exams import content, CONTENT, Exam, EXAMS, load_exam

def agreement_with(digest: str, known: str | None) -> str:
    "Whether the content of an exam is the one that was seen before"
    if not known: return 'not seen before'
    return 'yes' if digest == known else 'DIFFERS'

def card(name: str, questions: list) -> dict:
    "What was loaded, against what the table says"
    e = EXAMS.get(name, Exam(len(questions), '', '', 'own'))
    loaded = content(questions)
    return dict(
        exam=name,
        n=len(questions),
        options=e.options,
        source=questions[0]['meta']['exam_source'],
        licence=e.licence,
        revision=e.hub[2][:12] if e.hub else '',
        content=loaded,
        agrees=agreement_with(loaded, CONTENT.get(name)),
    )

def key_skew(questions: list) -> tuple:   # (letter, share, p)
    "The commonest key among questions with the usual number of options, and the p-value of equal shares (chi-square)"
    usual = Counter(len(q['options']) for q in questions).most_common(1)[0][0]
    keys = Counter(q['answer'] for q in questions if len(q['options']) == usual)
    share, letter = max((c / keys.total(), l) for l, c in keys.items())
    return letter, share, equal_shares_p([keys[l] for l in LETTERS[:usual]])

def odd_separator(q: dict) -> bool:
    "Whether a question holds a character that some readers take for the end of a line"
    return any(c in (q['context'] or '') + q['stem'] for c in '\u2028\u2029\x85')

def faults(name: str, questions: list) -> dict:
    "Counts of what is known to go wrong in exam files"
    letter, share, p = key_skew(questions)
    return dict(
        exam=name,
        n=len(questions),
        repeated_stems=len(questions) - len({q['stem'].strip() for q in questions}),
        repeated_options=sum(len({o['text'].strip() for o in q['options']}) < len(q['options']) for q in questions),
        odd_separators=sum(map(odd_separator, questions)),
        commonest_key=letter,
        its_share=round(share, 3),
        p_equal_shares=round(p, 4),
    )

def cards(names: list, folder: str = '') -> pd.DataFrame:   # A row for each exam
    "What was loaded and what is wrong with it"
    loaded = {name: load_exam(name, folder) for name in names}
    return pd.DataFrame([card(name, qs) | faults(name, qs) for name, qs in loaded.items()])

def with_key(q: dict, option: dict) -> dict:
    "A question with one of its options as the only right one"
    meta = {k: v for k, v in q['meta'].items() if k != 'answers'}
    return q | dict(answer=option['label'], answer_text=option['text'], aliases=[], meta=meta)

def shuffled_keys(questions: list, seed: int) -> list:
    "The same questions with keys drawn uniformly"
    rng = random.Random(seed)
    return [with_key(q, rng.choice(q['options'])) for q in questions]
