"Sets of the hub, through the real client: every schema, every way in which a server fails, and one commit for each."
import json
import subprocess
import sys
from pathlib import Path

import pytest

from citrus.core.files import UserError
from citrus.core.ingredients import ingredients
from citrus.core.revisions import hub_notes, hub_sets, named_sets, revision_of, revisions
from citrus.data.hub import HUB, dialogue_row, hub_records

SCRIPT = r'''
import json, os, sys, time, traceback
sys.path.insert(0, sys.argv[1])
from hub import COMMIT, Hub, THINK, QUESTION, lines, schema_sets, serve
os.environ.update(HF_ENDPOINT=serve(), HF_HOME=sys.argv[2], CITRUS_HOME=sys.argv[2] + '/runs', HF_HUB_DISABLE_TELEMETRY='1', HF_HUB_DOWNLOAD_TIMEOUT='1', HF_HUB_DISABLE_XET='1')
time.sleep = lambda seconds: None   # the client waits between two tries
import datasets
from citrus.core.files import UserError
from citrus.core.revisions import hub_notes, hub_sets, revision_of, revisions
from citrus.data import access
from citrus.data.hub import Adapter, HUB, dialogue_row, hub
from citrus.data.probe import probe_sets
from citrus.data.reading import SourceReader
from citrus.data.source import declare
access.TRIES, access.PAUSE = 2, 0
datasets.config.STREAMING_READ_MAX_RETRIES, datasets.config.STREAMING_READ_RETRY_INTERVAL = 1, 0
Hub.sets = schema_sets()
out = {}

def case(f):
    started = time.perf_counter()
    try: out[f.__name__] = f()
    except UserError as e: out[f.__name__] = f'UserError: {e}'
    except Exception: out[f.__name__] = traceback.format_exc()[-1500:]
    print(f.__name__, round(time.perf_counter() - started, 1), file=sys.stderr)

def count(id, **how): return len(list(hub(HUB[id].record, id, **how)))

@case
def schemas(): return {id: count(id, split='test' if id.startswith(('HPAI', 'TIGER')) else 'train') for id in HUB if id in Hub.sets}

@case
def commits(): return sorted(f'{id} {r}' for id, r in Hub.asked if id in HUB and r != (hub_sets()[id]['revision'] or COMMIT))

@case
def infinity(): return [count('BAAI/Infinity-Instruct', config=c) for c in ('7M', 'Gen', '0625', '7M_core')]

@case
def seeds(): return [count(id) for id in ('GBaker/MedQA-USMLE-4-options', 'openlifescienceai/medmcqa')]

def source(path, part=(0, 1), **options):
    return SourceReader(declare([dict(id='s', kind='hub', path=path, licence='ours', domain='general', options=options)])['s'], part)

@case
def books(): return len(list(source('FreedomIntelligence/HuatuoGPT2-Pretraining-Instruction', files='data/Books_cn.json')))

@case
def one_file():
    before = Hub.sent['open_guidelines.jsonl']
    ids = [d['id'] for i in range(64) for d in source('epfl-llm/guidelines', (i, 64))]
    return len(ids), len(set(ids)), Hub.sent['open_guidelines.jsonl'] - before

@case
def many_files():
    before = sum(Hub.sent.values())
    ids = [d['id'] for i in (0, 63) for d in source('MedRAG/pubmed', (i, 64), text='content')]
    return len(ids), os.path.exists(sys.argv[2] + '/hub/datasets--MedRAG--pubmed/blobs')

@case
def layouts():
    probed = dict(id='w', kind='hub', path='CASIA-LM/ChineseWebText2.0', licence='x', domain='general')
    whole = dict(clean=dict(sources=[probed | dict(options=dict(files='**/*.jsonl'))]))
    right = dict(clean=dict(sources=[probed | dict(options=dict(files='ChineseWebText2.0/**'))]))
    return probe_sets(whole, ['clean']), probe_sets(right, ['clean'])

@case
def whole_recipes():
    from citrus.core.recipes import load_recipe, settings
    from citrus.core.runner import chosen
    Hub.sets |= {id: {'config.json': b'{}'} for id in ('meta-llama/Llama-3.1-70B', 'Qwen/Qwen2.5-72B', 'meta-llama/Llama-3.1-8B')}
    values = {name: settings(load_recipe(name)) for name in ('70b', '72b', '8b')}
    faults = {name: probe_sets(v, chosen()) for name, v in values.items()}
    rows = {s['id']: len(list(source(s['path'], **s.get('options', {})))) for s in values['70b']['clean']['sources']}
    return faults, rows, [r for r in Hub.asked if r[1] not in ('main', COMMIT, hub_sets().get(r[0], {}).get('revision'))]

@case
def seeds_of_exams():
    from citrus.llm.funnel import entered
    from citrus.eval.exams import exam_rows
    exam = exam_rows('medqa4')
    drawn = entered([], 5, ['GBaker/MedQA-USMLE-4-options', 'openlifescienceai/medmcqa'], dict(medqa4=exam))
    held = entered([], 5, ['GBaker/MedQA-USMLE-4-options'], dict(medqa4=[q | dict(stem=q['stem'].replace('test', 'train')) for q in exam]))
    return [q['id'] for q in drawn], [q['meta'].get('benchmark') for q in held], [q['id'] for q in exam]

@case
def general():
    from collections import Counter
    from citrus.synth import general_rows
    return Counter(r['source'] for r in general_rows(['openai/gsm8k', 'deepmind/aqua_rat'], 10_000))

# --- a server that fails in the second of three files
names = [f'data/train-0000{k}.jsonl' for k in range(3)]
HUB['goat/three'] = Adapter('sft', lambda i, r: dialogue_row(f'g{i}', 1, 'goats', r))
Hub.sets['goat/three'] = {n: lines(*(dict(question=f'{QUESTION} {k} {i}', answer='Goat') for i in range(5))) for k, n in enumerate(names)}
def failing(**how):
    for name, value in how.items(): setattr(Hub, name, value)
    read = []
    try:
        for r in hub('sft', 'goat/three'): read.append(r['id'])
        message = ''
    except UserError as e: message = str(e)
    Hub.missing, Hub.hanging, Hub.first, Hub.status, Hub.failing = set(), set(), {}, 500, 0
    return len(read), message, count('goat/three')

@case
def gone(): return failing(missing={names[1]})
@case
def busy(): return failing(first={names[1]: 0}, status=429)
@case
def broken_server(): return failing(first={names[1]: 0}, status=500)
@case
def silent(): return failing(hanging={names[1]})
@case
def once(): return failing(failing=2)

@case
def gated():
    Hub.gated = {'jdh-algo/JMED'}
    return count('jdh-algo/JMED')

@case
def no_set(): return count('cais/mmlu')

@case
def noted_once():
    first = revision_of('goat/three'), revisions(dict(sources=[dict(kind='hub', path='goat/three')]))
    Hub.sets['goat/gone'] = Hub.sets.pop('goat/three')
    return first, revision_of('goat/three'), hub_notes()

@case
def probed():
    values = dict(
        sft=dict(sft1_hub='BAAI/Infinity-Instruct:7M', sft2_hub='BAAI/Infinity-Instruct:8M'),
        evaluate=dict(exams=['jmed', 'careqa', 'pubmedqa'], files=''),
        clean=dict(sources=[dict(id='t', kind='hub', path='MedRAG/textbooks', licence='x', domain='medical'), dict(id='u', kind='hub', path='MedRAG/textbooks', licence='x', domain='medical', options=dict(text='content'))], exams=[], files=''),
        assets=dict(student='goat/model', revision='main'))
    return probe_sets(values, ['assets', 'clean', 'sft', 'evaluate'])

@case
def other_fields():
    HUB['goat/other'] = HUB['jdh-algo/Citrus_S3']
    Hub.sets['goat/other'] = {'data/new.jsonl': lines(dict(title='Goats', body='They climb.'))}
    return probe_sets(dict(sft=dict(sft3_hub='goat/other')), ['sft'])

print(json.dumps(out))
'''


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
    "What the client saw of the hub, by case"
    folder = tmp_path_factory.mktemp('hub')
    done = subprocess.run([sys.executable, '-c', SCRIPT, str(Path(__file__).parent), str(folder)], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_schema_is_read(seen): assert set(seen['schemas'].values()) == {3} and len(seen['schemas']) >= 14


def test_every_set_is_read_at_its_commit(seen): assert seen['commits'] == []


@pytest.mark.parametrize('case, counts', [('infinity', [3] * 4), ('seeds', [3, 3]), ('books', 3)])
def test_configurations_splits_and_files_without_one(seen, case, counts): assert seen[case] == counts


def test_one_file_is_fetched_once_for_all_parts(seen):
    read, different, fetched = seen['one_file']
    assert read == different == 3 and fetched <= 5   # 64 parts; a look at the first row is among them


def test_many_files_are_streamed(seen): assert seen['many_files'] == [9, False]   # of 70 files, parts 0 and 63 have three


def test_a_layout_that_is_no_data_is_found(seen):
    wrong, right = seen['layouts']
    assert right == [] and len(wrong) == 1 and 'test.jsonl' in wrong[0]['what'] and 'CastError' in wrong[0]['fault']


@pytest.mark.parametrize('case, words', [('gone', '404'), ('busy', '429'), ('broken_server', '500'), ('silent', 'timed out')])
def test_a_server_that_fails_is_one_line_and_the_same_command_goes_on(seen, case, words):
    read, message, again = seen[case]
    assert read == 5 and again == 15 and 'file 1: cannot be reached' in message and words in message and '\n' not in message


def test_a_server_that_fails_once_is_asked_again(seen): assert seen['once'] == [15, '', 15]


@pytest.mark.parametrize('case, words', [('gated', 'gated'), ('no_set', "doesn't exist")])
def test_what_may_not_be_read_is_one_line(seen, case, words):
    assert seen[case].startswith('UserError: ') and words in seen[case] and '\n' not in seen[case]


def test_a_set_without_a_pin_keeps_the_commit_that_it_had(seen):
    (commit, key), later, notes = seen['noted_once']
    assert commit == later == 'a' * 40 == key['goat/three'] and notes['dataset goat/three@main'] == commit


def test_all_faults_are_found_at_once(seen):
    faults = {(f['stage'], f['parameter']): f['fault'] for f in seen['probed']}
    assert set(faults) == {('assets', 'student'), ('clean', 'sources: t'), ('sft', 'sft2_hub'), ('evaluate', 'exams: jmed')}
    assert "no text in field 'text'" in faults['clean', 'sources: t'] and 'content' in faults['clean', 'sources: t']
    assert '8M' in faults['sft', 'sft2_hub'] and 'gated' in faults['evaluate', 'exams: jmed'] and all('\n' not in f for f in faults.values())


def test_all_that_the_recipes_read_can_be_read(seen):
    faults, rows, elsewhere = seen['whole_recipes']
    assert faults == {'70b': [], '72b': [], '8b': []} and elsewhere == []
    assert len(rows) == 9 and min(rows.values()) >= 3, 'every source gives its documents'


def test_seeds_come_from_the_training_splits_and_exams_bar_them(seen):
    ids, barred, exam = seen['seeds_of_exams']
    assert sorted(i for i in ids if 'medqa4' in i) == [f'train-medqa4-{i}' for i in range(3)] and len(ids) == len(set(ids)) == 5 and not set(ids) & set(exam)
    assert barred == ['medqa4'] * 3


def test_general_reasoning_comes_from_several_sets(seen): assert seen['general'] == dict(gsm8k=3, aqua_rat=3)


def test_other_fields_are_found(seen):
    [fault] = seen['other_fields']
    assert 'cannot be read as a sft' in fault['fault'] and fault['fault'].endswith('it has title, body')


# --- without a server ----------------------------------------------------------------------------------------------------

TALK = [dict(role='user', content='Who climbs?'), dict(role='assistant', content='Goats.')]
TURNS = [{'from': 'human', 'value': 'Who climbs?'}, {'from': 'gpt', 'value': 'Goats.'}]


@pytest.mark.parametrize('row', [dict(messages=TALK), dict(conversations=TURNS), dict(conversations=TALK), dict(input='Who climbs?', output='Goats.'),
                                 dict(input='Who climbs?', target='Goats.'), dict(question='Who climbs?', answer='Goats.'), dict(messages=None, input='Who climbs?', output='Goats.')])
def test_any_usual_form_of_a_dialogue_is_read(row): assert dialogue_row('a', 3, 'b', row)['messages'] == TALK


@pytest.mark.parametrize('row', [dict(text='Goats.'), dict(input='Who?'), dict(messages=[]), dict(conversations=[{'from': 'tool', 'value': 'x'}])])
def test_another_form_is_refused(row):
    with pytest.raises(UserError, match='cannot be read as a sft'): list(hub_records([row], 'jdh-algo/Citrus_S3', 'train'))


def test_a_few_bad_rows_are_counted_and_many_stop_the_reading():
    from collections import Counter
    good, bad, refused = dict(messages=TALK), dict(conversations=[{'from': 'tool', 'value': 'x'}]), Counter()
    assert len(list(hub_records([good] * 30 + [bad] * 5, 'jdh-algo/Citrus_S3', 'train', refused=refused))) == 30 and refused.total() == 5
    with pytest.raises(UserError, match='row 2'): list(hub_records([bad] * 60, 'jdh-algo/Citrus_S3', 'train', refused=Counter()))


def test_every_set_that_has_a_reader_has_a_line():
    assert set(HUB) <= set(hub_sets()) and all(len(line['revision']) in (0, *range(7, 41)) for line in hub_sets().values())


def test_the_commit_is_part_of_the_key(monkeypatch, tmp_path):
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path))
    params = dict(sft1_hub='BAAI/Infinity-Instruct:7M', exams=['jmed', 'mmlu_nine'])
    assert set(named_sets(params)) == {('dataset', i) for i in ('BAAI/Infinity-Instruct', 'jdh-algo/JMED', 'cais/mmlu')}
    assert revisions(params)['BAAI/Infinity-Instruct'] == hub_sets()['BAAI/Infinity-Instruct']['revision']
    before = ingredients('report', params, {})
    monkeypatch.setitem(hub_sets()['BAAI/Infinity-Instruct'], 'revision', 'c0ffee1')
    after = ingredients('report', params, {})
    assert before != after and {k for k in before if before[k] != after[k]} == {'hub'}
    assert 'hub' not in ingredients('report', dict(longest=3), {})


def test_a_commit_that_was_noted_is_read_and_not_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path))
    (tmp_path / 'hub.json').write_text(json.dumps({'dataset goat/set@main': 'b' * 40, 'model goat/base@v1': 'c' * 40}))
    assert revision_of('goat/set') == 'b' * 40 and revision_of('goat/base', 'v1', 'model') == 'c' * 40 and len(hub_notes()) == 2
    assert revisions(dict(student='goat/base', revision='v1')) == {'goat/base': 'c' * 40}
