"The stage of cleaning: kills, hostile documents, several processes."
import functools, importlib.util, itertools, json, os, random, re, shutil, signal, subprocess, sys, time, tracemalloc
from pathlib import Path

import numpy as np
import pytest

from citrus.data.arms import Arm
from citrus.data.corpus import ReadPart, executor_of, read_corpus
from citrus.data.tasks import read_batch, reading_plan, readings_of
from citrus.clean import arms_of
from citrus.data.selection import bands_of, parts, records, remove_benchmarks, remove_copies
from citrus.data.contamination import build_index
from citrus.data.near_copies import clusters
from citrus.data.quality import language, word_hashes
from citrus.data.domains import learn_domains
from citrus.core.files import UserError
from citrus.core.recipes import load_recipe, settings

P = settings(load_recipe('smollm2'))['clean'] | dict(task=10, documents=0)
INDEX = build_index({})
cluster = pytest.mark.skipif(not importlib.util.find_spec('datatrove'), reason='datatrove is not installed')


def read(folder, arms, p): return read_corpus(folder, arms, INDEX, None, reading_plan(**p))


def document(id, text, **more): return dict(id=id, source='test', text=text, domain='general', lang='en', meta={}) | more


def prose(n, seed=0):
    rng = random.Random(seed)
    words = [''.join(rng.choices('abcdefghiklmnoprstu', k=rng.randint(3, 9))) for _ in range(500)]
    return [document(f'd{i}', f'The {rng.choice(words)} of this and that ' + ' '.join(rng.choices(words, k=80)) + '.') for i in range(n)]


def slowly(n, seed):
    for d in prose(n, seed):
        time.sleep(.02)
        yield d


def found_in(folder):
    "Everything that reading leaves, but for its seconds"
    kept = {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob('*')) if p.suffix in ('.jsonl', '.sig') and p.parts[len(folder.parts)] != 'executor'}
    notes = [json.loads(p.read_text()) for p in sorted((folder / 'parts').glob('*.json'))]
    return kept, [{k: v for k, v in n.items() if k != 'seconds'} for n in notes]


SLOW = {a: Arm(functools.partial(slowly, 40, seed), 'general', 'ours') for seed, a in enumerate('xyz')}


@pytest.mark.parametrize('way', [dict(), dict(workers=2), pytest.param(dict(workers=2, executor='local'), marks=cluster)], ids=['one', 'forked', 'executor'])
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path, way):
    p = P | dict(shards=2, exempt={}) | way
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_clean import *\nread(Path({str(tmp_path / 'killed')!r}), SLOW, {p!r})"
    child = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    end = time.time() + 120
    while len(list((tmp_path / 'killed').rglob('*.jsonl'))) < 4 and time.time() < end: time.sleep(.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    done = {q: q.stat().st_mtime_ns for q in (tmp_path / 'killed').glob('arms/*/0*.jsonl')}
    assert 4 <= len(done) < 12
    table = read(tmp_path / 'killed', SLOW, p)
    assert table.documents.tolist() == [40, 40, 40] and all(q.stat().st_mtime_ns == t for q, t in done.items())
    read(tmp_path / 'whole', {a: Arm(functools.partial(prose, 40, seed), 'general', 'ours') for seed, a in enumerate('xyz')}, P | dict(shards=2, exempt={}))
    assert found_in(tmp_path / 'killed') == found_in(tmp_path / 'whole') and len(found_in(tmp_path / 'whole')[0]) == 12 + 12 * 14


@cluster
def test_neither_workers_nor_executor_nor_parts_change_what_is_kept(tmp_path):
    docs = prose(60, 1)
    docs += [docs[3] | dict(id='copy'), docs[4] | dict(id='near', text=docs[4]['text'] + ' It ended.'), document('short', 'Too short.')]
    rows = [json.dumps(dict(id=d['id'], text=d['text'])) for d in docs]
    (tmp_path / 'many').mkdir()
    for i in range(9): (tmp_path / 'many' / f'{i}.jsonl').write_text('\n'.join(rows[i::9] + ['not json']))
    (tmp_path / 'one.jsonl').write_text('\n'.join([*reversed(rows), 'not json', json.dumps(dict(text='The only one of that kind and that sort, to be with us. ' * 2))]))
    arms = arms_of([dict(id=k, kind='jsonl', path=str(tmp_path / v), licence='ours', domain='general') for k, v in dict(many='many', one='one.jsonl').items()])
    runs = dict(plain={}, parts=dict(shards=4), forked=dict(shards=4, workers=4), executor=dict(shards=4, workers=2, executor='local'))
    kept = {}
    for name, more in runs.items():
        p, folder = P | more | dict(exempt={a: ['prose', 'language'] for a in arms}), tmp_path / 'runs' / name
        table = read(folder, arms, p)
        assert table.documents.tolist() == [63, 64] and [r['not JSON'] for r in table.refused] == [9, 1]
        readings = readings_of(folder, arms)
        remove_copies(folder, readings, arms, reading_plan(**p).minhash)
        kept[name] = sorted((r.id, r.reason, r.of) for r in readings)
    assert len(set(map(str, kept.values()))) == 1 and {r for _, r, _ in kept['plain']} == {'', 'words', 'exact duplicate', 'near-duplicate'}
    assert found_in(tmp_path / 'runs' / 'parts') == found_in(tmp_path / 'runs' / 'forked') == found_in(tmp_path / 'runs' / 'executor')
    assert len(list((tmp_path / 'runs' / 'executor' / 'executor' / 'completions').iterdir())) == 8


@pytest.mark.parametrize('documents, shards', [(10, 4), (3, 5), (0, 3), (12, 3)])
def test_a_limit_is_of_the_arm_and_not_of_its_parts(tmp_path, documents, shards):
    arms = dict(a=Arm(functools.partial(prose, 40), 'general', 'ours'))
    ids = []
    for n in (1, shards):
        read(tmp_path / str(n), arms, P | dict(exempt={}, documents=documents, shards=n))
        ids.append(sorted(r.id for r in readings_of(tmp_path / str(n), arms)))
    assert ids[0] == ids[1] and len(ids[0]) == (documents or 40)


@cluster
def test_datatroves_next_steps_find_our_clusters(tmp_path):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster
    docs, rng = prose(80, 3), random.Random(4)
    for i in range(40):   # chains of copies of copies, in all parts of both arms
        words = rng.choice(docs)['text'].split(' ')
        words[rng.randrange(len(words))] = f'other{chr(97 + i % 26)}'
        docs.append(document(f'c{i}', ' '.join(words)))
    rng.shuffle(docs)
    arms = dict(a=Arm(lambda: iter(docs[:70]), 'general', 'ours'), b=Arm(lambda: iter(docs[70:]), 'general', 'ours'))
    p = P | dict(exempt={a: ['prose', 'language'] for a in arms}, shards=2)
    read(tmp_path, arms, p)
    live, config = readings_of(tmp_path, arms), MinhashConfig()
    roots = clusters(bands_of(tmp_path, live, reading_plan(**p).minhash), len(live))
    LocalPipelineExecutor([MinhashDedupBuckets(str(tmp_path / 'signatures'), str(tmp_path / 'dups'), config=config, only_dedup_in_index=False)], tasks=14, workers=1, logging_dir=str(tmp_path / 'l1')).run()
    LocalPipelineExecutor([MinhashDedupCluster(str(tmp_path / 'dups'), str(tmp_path / 'remove'), config=config, save_cluster_id=True)], tasks=1, workers=1, logging_dir=str(tmp_path / 'l2')).run()
    files = sorted(int(q.name.split('.')[0]) for q in (tmp_path / 'signatures' / 'bucket_000').iterdir())   # datatrove counts the files, we number the tasks
    theirs = {}
    for q in (tmp_path / 'remove').glob('*.clusters'):
        for doc, n in np.fromfile(q, '<u4').reshape(-1, 2).tolist(): theirs.setdefault(n, set()).add((files[int(q.stem)], doc))
    ours = {}
    for r, root in zip(live, roots.tolist()): ours.setdefault(root, set()).add((r.task, r.row))
    ours = [c for c in ours.values() if len(c) > 1]
    assert len(ours) > 15 and max(map(len, ours)) > 2 and sorted(map(sorted, ours)) == sorted(map(sorted, theirs.values()))
    removed = sum(len(np.fromfile(q, '<u4')) for q in (tmp_path / 'remove').glob('*.remove'))
    assert removed == sum(len(c) - 1 for c in ours)


@cluster
def test_options_of_an_executor(tmp_path):
    step = lambda how: ReadPart(tmp_path, dict(a=Arm(None, 'general', 'ours')), INDEX, None, reading_plan(**P | dict(shards=5) | how))
    for how, message in [(dict(executor='slrum'), "did you mean 'slurm'"), (dict(executor='slurm'), "'time'"), (dict(executor='local', executor_options=dict(wrkers=3)), "'wrkers'")]:
        with pytest.raises(UserError, match=message): executor_of(step(how))
    e = executor_of(step(dict(executor='slurm', workers=3, executor_options=dict(time='01:00:00', partition='cpu', mem_per_cpu_gb=4))))
    assert e.world_size == 5 and e.get_sbatch_args(5)['array'] == '0-4%3'
    if not shutil.which('sbatch') or subprocess.run('sinfo', capture_output=True).returncode:
        with pytest.raises(UserError, match='Slurm did not take the job'): read(tmp_path / 'run', arms_of([]), P | dict(executor='slurm', executor_options=dict(time='01:00:00', partition='cpu')))


def test_copies_by_id_address_text_and_band(tmp_path):
    a, b = prose(12, 1), prose(3, 2)
    b += [a[0], a[1] | dict(id='same text'), a[2] | dict(id='near', text=a[2]['text'] + ' It ended.'), a[3] | dict(id='page', text=b[0]['text'] + ' More of it.', url='https://www.x.org/a/')]
    a[3] = a[3] | dict(url='http://X.org/a')
    arms = dict(a=Arm(lambda: iter(a), 'general', 'ours'), b=Arm(lambda: iter([d | dict(id='b' + d['id']) if d in b[:3] else d for d in b]), 'general', 'ours'))
    p = P | dict(exempt={x: ['prose', 'language'] for x in 'ab'})
    read(tmp_path, arms, p)
    readings = readings_of(tmp_path, arms)
    remove_copies(tmp_path, readings, arms, reading_plan(**p).minhash)
    remove_benchmarks(readings)
    assert {r.id: r.reason for r in readings if r.reason} == {'d0': 'same id or address', 'same text': 'exact duplicate', 'near': 'near-duplicate', 'page': 'same id or address'}
    assert all(r.arm == 'b' for r in readings if r.reason)
    written = [d['id'] for keep in parts(readings, arms, 0.2).values() for d in records(tmp_path, readings, keep)]
    assert sorted(written) == sorted(r.id for r in readings)


def test_a_line_of_200_mb_is_counted_and_not_kept():
    text = 'word ' * 40_000_000
    tracemalloc.start()
    t = time.time()
    out, signed, _ = read_batch('a', [document('long', text)], INDEX, None, reading_plan(**P))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out[0]['reason'] == 'characters' and not len(signed) and len(out[0]['doc']['text']) <= 1000
    assert used < 100e6 and time.time() - t < 60


@pytest.mark.parametrize('text', ['', '\x00' * 1000, '\ud800' * 99, '\u202e' + 'مرحبا ' * 30, '😀' * 500, '\n' * 99_999, 'a' * 999_999, '(' * 999_999, '<div>' * 50_000, '\u0301' * 99_999, 'x\u2028' * 9999])
def test_hostile_documents_are_counted(text):
    [row], signed, _ = read_batch('a', [document('x', text)], INDEX, None, reading_plan(**P))
    assert row['reason'] and not len(signed)


def test_language_is_that_of_most_of_a_text():
    french = 'Le malade a de la fièvre depuis trois jours et une douleur à la poitrine qui ne passe pas avec le repos. '
    english = 'The fever that he had was gone within a week, and these were the only findings that have to be told. '
    chinese = '患者三天前开始发热，伴有咳嗽和头痛。医生给予休息和补液治疗，体温在一周内恢复正常。复查血常规未见异常，建议继续观察。'
    german = 'Der Kranke hat seit drei Tagen Fieber und einen Schmerz in der Brust, der auch in Ruhe nicht vergeht. '
    texts = dict(fr=2 * french + english + french, zh=chinese + english, en=4 * english + french, de=2 * english + 20 * german)
    out = read_batch('a', [document(name, text) for name, text in texts.items()], INDEX, None, reading_plan(**P))[0]
    assert [r['doc']['lang'] for r in out] == list(texts)
    assert [r['reason'] == 'language' for r in out] == [True, False, False, True]
    assert [language(t, ['fr', 'de'])[1] > .5 for t in texts.values()] == [True, False, False, True]
    for text in ('', '...', '。' * 500, 'x' * 500_000, '\n' * 99): language(text, ['en'])


def test_what_is_no_address_makes_no_duplicates(tmp_path):
    urls = ['N/A', 'unknown', 'https://www.goats.org/', 'http://goats.org/index.php', 'http://goats.org/#top', 'http://goats.org/null', 'none', 'goats', 'http://localhost/', 'urn:x', '\ud800']
    docs = [d | dict(id=f'{k}-{d["id"]}', url=url) for k, url in enumerate(urls) for d in prose(2, 10 + k)]
    docs += [d | dict(id=f'route-{i}', url=f'http://goats.org/forum/#!topic/{i}') for i, d in enumerate(prose(5, 40))]
    docs += [d | dict(id=f'book-{i}', url='http://goats.org/book') for i, d in enumerate(prose(5, 50))]   # a book in pieces
    docs += [d | dict(id=f'part-{i}', url=f'http://goats.org/page?id={i // 2}') for i, d in enumerate(prose(4, 60))]   # of one source, not alike
    homes = ('en', 'index.php/en/', 'search', 'pt-br/index.html')
    docs += [d | dict(id=f'home-{k}{s}', url=f'http://goats.org/{home}', source=s) for k, home in enumerate(homes) for s, d in zip('xyz', prose(3, 80 + k))]
    docs += [d | dict(id=f'page-{i}', url='http://goats.org/en/trees', source=f's{i}') for i, d in enumerate(prose(3, 90))]   # one of each source
    docs += [d | dict(id='half \udfff') for d in prose(1, 70)]
    read(tmp_path, arms := dict(a=Arm(lambda: iter(docs), 'general', 'ours')), p := P | dict(exempt=dict(a=['prose', 'language'])))
    readings = readings_of(tmp_path, arms)
    remove_copies(tmp_path, readings, arms, reading_plan(**p).minhash)
    assert len(readings) == len(docs) and {r.id.partition('-')[0] for r in readings if r.reason} == {'page'}
    assert [r.reason for r in readings if r.reason] == ['same id or address'] * 2 and 'half \ufffd' in {r.id for r in readings}


def test_one_id_in_two_sources_is_one_document(tmp_path):
    arms = {a: Arm(functools.partial(lambda a: iter([d | dict(source=a) for d in prose(3, ord(a))]), a), 'general', 'ours') for a in 'ab'}
    read(tmp_path, arms, p := P | dict(exempt={a: ['prose', 'language'] for a in arms}))
    readings = readings_of(tmp_path, arms)
    remove_copies(tmp_path, readings, arms, reading_plan(**p).minhash)
    assert sorted(r.id for r in readings if not r.reason) == ['d0', 'd1', 'd2'] and {r.arm for r in readings if r.reason} == {'b'}


def test_chinese_is_kept_and_french_is_not():
    chinese = '患者三天前开始发热，伴有咳嗽和头痛。医生给予休息和补液治疗，体温在一周内恢复正常。复查血常规未见异常，建议继续观察。'
    french = 'Le malade a de la fièvre depuis trois jours et une douleur à la poitrine qui ne passe pas avec le repos.'
    out = read_batch('a', [document('zh', chinese), document('fr', french)], INDEX, None, reading_plan(**P))[0]
    assert [r['reason'] for r in out] == ['', 'language'] and out[0]['doc']['lang'] == 'zh'


def test_common_words_do_not_vote_for_the_label_with_the_most_arms():
    rng = random.Random(0)
    word = lambda: ''.join(rng.choices('abcdefghiklmnoprstu', k=7))
    common, topic = [word() for _ in range(300)], dict(medical=[word() for _ in range(2000)], general=[word() for _ in range(2000)])
    text = lambda label: ' '.join(rng.choices(common, k=80) + rng.choices(topic[label], k=6))
    learn = [(text(label), label, arm) for arm, label in dict(a='medical', b='medical', c='medical', d='general').items() for _ in range(100)]
    model = learn_domains([word_hashes(t) for t, _, _ in learn], [l for _, l, _ in learn], [a for _, _, a in learn])
    for label in topic: assert sum(model(word_hashes(text(label))) == label for _ in range(200)) > 150, label
    assert {model(word_hashes('')), model(word_hashes('qqqq'))} <= set(topic)


def test_a_slurm_job_outlives_the_run_that_submitted_it(tmp_path):
    if not shutil.which('sbatch') or (found := subprocess.run(['sinfo', '-h', '-o', '%R'], capture_output=True, text=True)).returncode: pytest.skip('no Slurm here')
    here = Path(__file__).parent
    options = dict(partition=found.stdout.split()[0], time='00:10:00', mem_per_cpu_gb=1, qos='', env_command=f'export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={here.parent}:{here}')
    p = P | dict(shards=2, exempt={}, workers=2, executor='slurm', executor_options=options)
    code = f'import sys; sys.path.insert(0, {str(here)!r})\nfrom test_clean import *\nread(Path({str(tmp_path / "killed")!r}), SLOW, {p!r})'
    child = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.DEVNULL, start_new_session=True)
    job, end = tmp_path / 'killed' / 'executor' / 'job', time.time() + 120
    while not job.exists() and time.time() < end: time.sleep(.1)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    number = job.read_text()
    assert read(tmp_path / 'killed', SLOW, p).documents.tolist() == [40, 40, 40] and job.read_text() == number
    read(tmp_path / 'whole', SLOW, P | dict(shards=2, exempt={}))
    assert found_in(tmp_path / 'killed') == found_in(tmp_path / 'whole')


# --- benchmark questions ---------------------------------------------------------------------------------------------

SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'data'
VERBATIM = 'bare letters brackets numbers reordered stem options_before key key_in_words key_before context'.split()


@functools.cache
def exams():
    "The embedded benchmarks, and those of the size recipes whose files are here; 300 questions of each"
    from citrus.data.questions import BENCHMARKS
    from citrus.eval.exams import load_exam
    sets = {name: BENCHMARKS[name]() for name in ('medqa', 'medmcqa', 'mmlu_clinical_knowledge')}
    if SHARED.exists(): sets |= {name: load_exam(name, str(SHARED)) for name in ('pubmedqa', 'mmlu_pro_health', 'careqa')}
    sets = {name: random.Random(1).sample(qs, min(len(qs), 300)) for name, qs in sets.items()}
    return sets, build_index(sets)


@functools.cache
def abstracts(n):
    from citrus.data.arms import ARMS
    return [d['text'] for d in itertools.islice(ARMS['abstracts_2021'].loader(), n)]


def test_questions_are_found_in_every_form():
    "60 of each exam: 99 % in every form that is verbatim, 90 % with every 12th word changed, 85 % with every 8th"
    from citrus.data.clean_controls import planted_questions, recall_by_form
    sets, index = exams()
    table = recall_by_form(planted_questions(sets, abstracts(300), index, 60, 0))
    forms = [f for f in VERBATIM if f in table.index]
    assert len(forms) >= 8 and (table['all'][forms] >= 99).all(), table
    assert (table.drop(columns='n').loc[[f for f in table.index if '12th' in f]].min(axis=None)) >= 90, table
    assert table.loc['8th word changed', 'all'] >= 85 and table.loc['shuffled', 'all'] <= 1, table


def test_unrelated_abstracts_are_not_accused():
    from citrus.data.contamination import overlaps
    assert overlaps(abstracts(2000), exams()[1]).text.nunique() <= 2


@pytest.mark.parametrize('way', ['full width', 'entities', 'joiners', 'soft hyphens', 'divided', 'wrapped', 'upper case'])
def test_other_spellings_are_found(way):
    "20 vignettes of MedQA each"
    import textwrap
    from citrus.data.contamination import overlaps
    sets, index = exams()
    wide = lambda t: ''.join(chr(ord(c) + 0xfee0) if '!' <= c <= '~' else c for c in t)
    divided = lambda t, mark: re.sub(r'(\w{4})(\w{4})', rf'\1{mark}\n\2', t)
    ways = {'full width': wide, 'entities': lambda t: t.replace(' ', '&nbsp;').replace("'", '&#39;'), 'joiners': lambda t: re.sub(r'(\w{3})(\w{3})', '\\1\u200c\\2', t), 'soft hyphens': lambda t: divided(t, '\u00ad'),
            'divided': lambda t: divided(t, '-'), 'wrapped': lambda t: textwrap.fill(t, 20), 'upper case': str.upper}
    some = sets['medqa'][:20]
    seen = overlaps([f'As it says: {ways[way](q["stem"])} And more.' for q in some], index)
    assert {(i, q['id']) for i, q in enumerate(some)} <= set(zip(seen.text, seen.question))


def test_stock_phrases_and_templates_are_not_questions():
    from citrus.data.contamination import overlaps
    _, index = exams()
    stock = ['Which of the following is the most appropriate next step in the management of this patient?', 'Which of the following is the most likely diagnosis? His temperature is 37°C (98.6°F), blood pressure is 120/80 mm Hg, and pulse is 80/min.',
             'All of the following are true except', 'Which of the following statements is true?', 'A 45-year-old man comes to the physician because of chest pain.', 'Insulin: a hormone of the pancreas.']
    assert overlaps(stock, index).empty


@pytest.mark.parametrize('changed', [0, 12, 8])
def test_chinese_is_counted_in_characters(changed):
    from citrus.data.contamination import overlaps
    who, what = ['男性', '女性', '患儿', '孕妇'], ['反复咳嗽咳痰二十年，气促五年，下肢水肿三天', '突发右上腹剧痛伴寒战高热，皮肤巩膜黄染两天', '多饮多食多尿半年，体重下降十公斤，视物模糊一周', '活动后胸骨后压榨样疼痛，休息五分钟可以缓解，近日加重']
    qs = [dict(id=f'{i}{j}', stem=f'患者{w}，{30 + 7 * i + j}岁，{x}入院。该患者最可能的诊断是下列哪一项', options=[], answer=None) for i, w in enumerate(who) for j, x in enumerate(what)]
    index = build_index(dict(jmed=qs[::5]))
    spoilt = [''.join('某' if changed and k % changed == changed - 1 else c for k, c in enumerate(q['stem'])) for q in qs[::5]]
    seen = overlaps(spoilt + ['今日天气晴朗。该患者最可能的诊断是下列哪一项'], index)
    assert sorted(set(zip(seen.text, seen.question))) == [(i, q['id']) for i, q in enumerate(qs[::5])]


def test_every_exam_of_a_recipe_is_searched_for():
    from citrus.core.recipes import load_recipe
    from citrus.core.files import root
    for path in (root() / 'nbs' / 'recipes').glob('*.yml'):
        recipe = load_recipe(path.stem)
        of = lambda stage, name: {**recipe.get('common', {}), **recipe.get(stage, {})}.get(name) or []
        beside = set(of('evaluate', 'exams')) - {'medqa', 'medmcqa', 'mmlu_medical'}   # these are always searched for
        assert beside <= set(of('clean', 'exams')) and of('clean', 'files') == of('evaluate', 'files'), path.stem


def test_contexts_of_closed_exams_are_searched_for():
    from citrus.clean import exam_sets
    from citrus.data.contamination import overlaps
    if not SHARED.exists(): pytest.skip('no PubMedQA here')
    sets = exam_sets(['pubmedqa_closed', 'medqa'], str(SHARED))
    assert set(sets) >= {'medqa', 'medmcqa', 'mmlu_anatomy', 'pubmedqa'} and len(sets['pubmedqa']) == 500
    index = build_index(dict(pubmedqa=sets['pubmedqa'][:50]))
    halves = [q['context'][:len(q['context']) // 2] for q in sets['pubmedqa'][:50]]
    assert overlaps(halves, index).text.nunique() == 50


def test_an_exam_that_clean_does_not_know_is_refused_before_the_first_stage():
    from citrus.core.recipes import consistent, settings
    with pytest.raises(UserError, match='evaluate: exams: careqa is not among clean.exams'): consistent(settings({}, ['evaluate.exams=[medqa, careqa]']), ['evaluate'])
    consistent(settings({}, ['common.exams=[medqa, careqa]']), ['clean', 'evaluate'])


def test_a_key_is_found_on_either_side_of_a_short_stem():
    from citrus.data.contamination import overlaps
    sets, index = exams()
    short = [q for q in sets['medmcqa'] if 5 <= len(word_hashes(q['stem'])) <= 12 and q['answer_text']][:150]
    ways = ['{key} is the answer to: {stem}', '{stem} The answer is {key}.', 'Answer: {key}. Question: {stem}']
    for way in ways:
        seen = overlaps([f'It was asked. {way.format(key=q["answer_text"], stem=q["stem"])} So it was.' for q in short], index)
        assert len({(i, q['id']) for i, q in enumerate(short)} & set(zip(seen.text, seen.question))) >= .98 * len(short), way
