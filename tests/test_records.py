"A row that is wrong anywhere is refused, with the name of the field."
import json

import pytest

from citrus.core.files import UserError
from citrus.core.records import check, read_jsonl

TALK = [dict(role='user', content='Why?'), dict(role='assistant', content='So.')]
GOOD = dict(
    document=dict(id='d', source='s', text='t', domain='medical', lang='en', meta={}),
    question=dict(id='q', source='s', split='test', stem='Who?', open_stem=None, options=[dict(label='A', text='Ann'), dict(label='B', text='Ben')],
                  answer='A', answer_text='Ann', aliases=[], context=None, difficulty=None, meta={}),
    trace=dict(id='t', question_id='q', steps=[dict(role='reason', text='x')], votes=[], outcome='', think='', answer='', verified=True, leaked=False, calls=3, seed=0, models={}),
    sft=dict(id='e', stage=1, source='s', messages=TALK),
    pair=dict(id='p', question_id='q', prompt=TALK[:1], chosen=TALK[1:], rejected=TALK[1:], n_correct=1, n_samples=2),
    answer=dict(id='a', model='m', benchmark='b', question_id='q', raw='A', extracted='A', by='letter', correct=True, tokens=1))


@pytest.mark.parametrize('record', GOOD)
def test_a_good_row_passes(record): assert check(GOOD[record], record, 'here') is GOOD[record]


@pytest.mark.parametrize('record, change, words', [
    ('sft', dict(messages=[1]), 'messages'), ('sft', dict(messages=[]), 'messages'), ('sft', dict(messages=['Why?']), 'messages'), ('sft', dict(messages=[[]]), 'messages'),
    ('sft', dict(messages=[dict(role='usr', content='Why?')]), "'usr'"), ('sft', dict(messages=[dict(role='user')]), 'content of message 0'),
    ('sft', dict(messages=[dict(role='user', content=None)]), 'content of message 0'), ('sft', dict(messages=[dict(role='user', content=['Why?'])]), 'content of message 0'),
    ('sft', dict(messages=[dict(content='Why?')]), 'role None'), ('sft', dict(stage=True), "'stage'"), ('sft', dict(stage='1'), "'stage'"), ('sft', dict(stage=1.0), "'stage'"),
    ('pair', dict(prompt=[1]), "'prompt'"), ('pair', dict(chosen=[dict(role='bot', content='x')]), "'chosen'"), ('pair', dict(rejected=[dict(role='assistant', content=None)]), "'rejected'"),
    ('sft', dict(messages=TALK[:1]), "'messages'"), ('pair', dict(chosen=TALK), "'chosen'"), ('pair', dict(rejected=TALK[:1]), "'rejected'"),
    ('pair', dict(n_correct=3), "'n_correct'"), ('pair', dict(n_correct=-1), "'n_correct'"), ('question', dict(answer_text='Ben'), "'answer_text'"),
    ('trace', dict(votes=['1']), "'votes'"), ('trace', dict(votes=[True]), "'votes'"), ('trace', dict(votes=[2]), "'votes'"),
    ('pair', dict(n_correct=False), "'n_correct'"), ('pair', dict(n_samples=True), "'n_samples'"),
    ('question', dict(options=['A']), "'options'"), ('question', dict(options=[dict(label='A')]), "'options'"), ('question', dict(options=[dict(label=1, text='x')]), "'options'"),
    ('question', dict(options=[dict(label='A', text=None)]), "'options'"), ('question', dict(options=[dict(label='A', text='x'), dict(label='A', text='y')]), 'label twice'),
    ('question', dict(answer='Z'), "'answer'"), ('question', dict(options=[], answer='A'), "'answer'"), ('question', dict(aliases=[None]), "'aliases'"), ('question', dict(answer=True), "'answer'"),
    ('trace', dict(steps=['x']), "'steps'"), ('trace', dict(calls=True), "'calls'"), ('trace', dict(verified=1), "'verified'"), ('trace', dict(seed=False), "'seed'"),
    ('answer', dict(tokens=True), "'tokens'"), ('answer', dict(correct=1), "'correct'"), ('document', dict(text=None), "'text'"), ('document', dict(meta=[]), "'meta'")])
def test_a_bad_row_is_refused(record, change, words):
    with pytest.raises(UserError) as e: check(GOOD[record] | change, record, 'rows.jsonl, line 7')
    assert words in str(e.value) and str(e.value).startswith('rows.jsonl, line 7: field ') and '\n' not in str(e.value)


@pytest.mark.parametrize('row', [[], 1, 'text', None])
def test_a_row_that_is_no_mapping_is_refused(tmp_path, row):
    (tmp_path / 'rows.jsonl').write_text(json.dumps(row) + '\n')
    with pytest.raises(UserError, match='rows.jsonl, line 1: .* is no document'): read_jsonl(tmp_path / 'rows.jsonl', 'document')


def test_a_question_without_options_or_key_is_fine():
    check(GOOD['question'] | dict(options=[], answer=None), 'question', 'here')
