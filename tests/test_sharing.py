"A run goes to the hub through the real client: what may go, where and with which card; nothing twice, and every refusal is one line."
import json
import os
import re
import subprocess
import sys

import pytest
from huggingface_hub import DatasetCard, ModelCard

from citrus.core.records import write_jsonl
from hub import Hub, serve

COMMAND = 'import sys, time; time.sleep = lambda seconds: None; from citrus.core.publish import publish_main; sys.argv[0] = "citrus_publish"; publish_main()'
say = lambda *texts: [dict(role=('user', 'assistant')[i % 2], content=t) for i, t in enumerate(texts)]
ABSTRACT, EXAM = 'goats were observed in 1975', 'which goat signs the operative report'


def question(id, source): return dict(id=id, source=source, split='train', stem=EXAM if source == 'medqa' else 'Why?', open_stem=None, options=[], answer=None, answer_text='So.', aliases=[], context=None, difficulty=None, meta={})


def row(id, source, text='Why?', **more): return dict(id=id, stage=1, source=source, messages=say(text, 'So.')) | more


def trace(id, of): return dict(id=id, question_id=of, steps=[], votes=[1], outcome='kept', think=EXAM if of == 'medqa-1' else 't', answer='a', verified=True, leaked=False, calls=1, seed=0, models={})


def pair(id, of): return dict(id=id, question_id=of, prompt=say(EXAM if of == 'medqa-1' else 'Why?'), chosen=say('x', 'So.')[1:], rejected=say('x', 'No.')[1:], n_correct=1, n_samples=2)


def make_run(home, shuffled=False, arm='hpo_definitions', student='smollm2'):
    "A small finished run, with rows that may go and rows that may not"
    from citrus.train.cards import model_card
    run = home / 'runs' / 'goats'
    params = dict(assets=dict(student=student), cases=dict(shuffled=shuffled), clean=dict(sources=[dict(id='books', licence='each book its own')]), textbook=dict(arm=arm))
    for s in ('assets', 'cases', 'clean', 'textbook', 'pretrain', 'synth', 'sft', 'prefer', 'evaluate'):
        (run / s).mkdir(parents=True)
        m = dict(stage=s, key='0123abcd', run='goats', params=params.get(s, {}), metrics=dict(hpo='2025-01-16'), commit='f00ba7', dirty=False, recipe='')
        (run / s / 'manifest.json').write_text(json.dumps(m))
    (run / 'clean' / 'arms').mkdir()
    write_jsonl(run / 'clean' / 'arms' / 'abstracts.jsonl', [dict(text=ABSTRACT)])
    for name in ('train', 'patients'): write_jsonl(run / 'cases' / f'{name}.jsonl', [question(f'{name}-{i}', 'hpo-2025-01-16') for i in range(2)], 'question')
    write_jsonl(run / 'synth' / 'questions.jsonl', [question('train-0', 'hpo-2025-01-16'), question('medqa-1', 'medqa')], 'question')
    write_jsonl(run / 'synth' / 'traces.jsonl', [trace('t0', 'train-0'), trace('t1', 'medqa-1')], 'trace')
    write_jsonl(run / 'textbook' / 'textbook.jsonl', [row('b', 'textbook')], 'sft')
    write_jsonl(run / 'sft' / 'sft1.jsonl', [row('f', 'hpo_facts'), row('b', 'textbook'), row('i', 'infinity_instruct')], 'sft')
    write_jsonl(run / 'sft' / 'sft2.jsonl', [row('q', 'boolq', EXAM)], 'sft')
    write_jsonl(run / 'sft' / 'sft3.jsonl', [row('t', 'dual_expert', question_id='train-0'), row('u', 'dual_expert', EXAM, question_id='medqa-1'), row('g', 'gsm8k', EXAM)], 'sft')
    write_jsonl(run / 'prefer' / 'pairs.jsonl', [pair('p0', 'train-0'), pair('p1', 'medqa-1'), pair('p2', 'gsm8k-4')], 'pair')
    for stage, name, base in (('pretrain', 'pretrained', 'base'), ('sft', 'sft3', 'sft2'), ('prefer', 'preferred', 'sft3')):
        folder = run / stage / name
        folder.mkdir()
        (folder / 'model.safetensors').write_bytes(name.encode() * 1000)
        (folder / 'config.json').write_text('{"model_type": "llama"}')
        (folder / 'training.json').write_text(json.dumps(dict(base=base)))
        (folder / 'README.md').write_text(model_card(name, name, 'Trained on goats.', '.', dict(seed=0)))
    (run / 'evaluate' / 'scores.csv').write_text('model,benchmark,n,correct,accuracy,low,high,chance\nsft3,cases_patients,64,13,0.203,0.123,0.317,0.0625\n')


@pytest.fixture(scope='module')
def address(): return serve()


@pytest.fixture
def hub(address, tmp_path, monkeypatch):
    "An empty hub, and a run that is to go there. Gives what the command says"
    for name, value in dict(repos={}, blobs={}, broken='', left=0, wrong=401).items(): monkeypatch.setattr(Hub, name, value)
    Hub.parts.clear()
    make_run(tmp_path)
    def command(*args, ok=True, token='hf_goat'):
        env = {k: v for k, v in os.environ.items() if not k.startswith('HF_')} | dict(HF_ENDPOINT=address, CITRUS_HOME=str(tmp_path), HF_HOME=str(tmp_path / 'hf'), HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1')
        if token: env['HF_TOKEN'] = token
        done = subprocess.run([sys.executable, '-c', COMMAND, 'goats', '--hub', 'me', *args], env=env, capture_output=True, text=True)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr[-3000:]
        return done.stdout if ok else done.stderr
    return command


def files(kind, name): return Hub.repos[kind, f'me/citrus-goats-{name}']['files']


def test_what_a_run_made_goes_and_nothing_else(hub):
    table = hub()
    assert {name for _, name in Hub.repos} == {f'me/citrus-goats-{n}' for n in ('cases', 'textbook', 'traces', 'sft', 'preferences', 'pretrained', 'sft3', 'preferred')}
    assert all(r['private'] for r in Hub.repos.values()), 'private by default'
    everything = b''.join(b for r in Hub.repos.values() for b in r['files'].values())
    assert ABSTRACT.encode() not in everything and EXAM.encode() not in everything, 'neither abstracts nor exams, in no form'
    rows = lambda kind, name, file: [json.loads(l)['id'] for l in files(kind, name)[file].splitlines()]
    assert rows('dataset', 'sft', 'sft1.jsonl') == ['f', 'b'] and rows('dataset', 'sft', 'sft3.jsonl') == ['t'] and 'sft2.jsonl' not in files('dataset', 'sft')
    assert rows('dataset', 'traces', 'traces.jsonl') == ['t0'] and rows('dataset', 'preferences', 'pairs.jsonl') == ['p0']
    assert '1 rows: text of medqa' in table and 'text of infinity_instruct' in table and 'text of unknown' in table, 'what stays here is said'
    assert files('model', 'sft3')['model.safetensors'] == b'sft3' * 1000


def test_cards_say_what_is_known(hub):
    hub()
    card = ModelCard(files('model', 'preferred')['README.md'].decode())
    assert card.data.base_model == 'me/citrus-goats-sft3' and card.data.datasets == ['me/citrus-goats-preferences'] and card.data.license == 'other' and 'research-only' in card.data.tags
    assert ModelCard(files('model', 'pretrained')['README.md'].decode()).data.base_model == 'HuggingFaceTB/SmolLM2-135M-Instruct'
    card = ModelCard(files('model', 'sft3')['README.md'].decode())
    [result] = card.data.eval_results
    assert result.metric_value == 0.203 and 'n = 64, 95 % interval 0.123 to 0.317' in result.metric_name
    assert '| cases_patients | 0.203 | 64 | 0.123 to 0.317 | 0.0625 |' in card.text and 'commit f00ba7' in card.text and 'For research only' in card.text and 'Trained on goats.' in card.text
    data = DatasetCard(files('dataset', 'sft')['README.md'].decode())
    assert [d['path'] for d in data.data.configs[0]['data_files']] == ['sft1.jsonl', 'sft3.jsonl'] and '2025-01-16' in data.text and 'text of boolq' in data.text and 'commit f00ba7' in data.text


def test_a_shared_set_loads_from_the_hub(hub, address, tmp_path):
    "Through the real client and `datasets`, both splits"
    hub()
    script = 'import datasets, sys; print({k: len(v) for k, v in datasets.load_dataset("me/citrus-goats-cases").items()})'
    env = os.environ | dict(HF_ENDPOINT=address, HF_HOME=str(tmp_path / 'reader'), HF_TOKEN='hf_goat', HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1')
    done = subprocess.run([sys.executable, '-c', script], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "{'train': 2, 'patients': 2}", done.stderr[-2000:]


@pytest.mark.parametrize('where, after, status, words', [
    ('/commit/', 6, 500, r'me/citrus-goats-sft3: the hub failed \(500\): run the same command again'),
    ('/lfs/', 9, 500, r'the hub failed \(500\): run the same command again'),
    ('/repos/create', 4, 429, r'the hub asks for a pause'),
    ('/preupload/', 2, 403, r'the hub does not let you write there')])
def test_the_same_command_goes_on_and_sends_nothing_twice(hub, where, after, status, words):
    Hub.broken, Hub.left, Hub.wrong = where, after, status
    lines = [l for l in hub(ok=False).splitlines() if 'citrus_publish:' in l]
    assert len(lines) == 1 and re.search(words, lines[0]) and Hub.repos
    sent = set(Hub.blobs)
    Hub.broken = ''
    Hub.parts.clear()
    hub()
    assert not {p.split('/')[-1] for p in Hub.parts} & sent and all(n == 1 for n in Hub.parts.values())
    commits = {key: r['commits'] for key, r in Hub.repos.items()}
    assert set(commits.values()) == {1} and len(commits) == 8
    Hub.parts.clear()
    hub()
    assert not Hub.parts and {key: r['commits'] for key, r in Hub.repos.items()} == commits, 'nothing has changed, nothing is sent'


def test_without_a_token_it_is_one_line(hub):
    said = hub(ok=False, token='')
    assert 'citrus_publish: me/citrus-goats-cases: the hub does not know you: `hf auth login`' in said and 'Traceback' not in said and not Hub.repos


def test_a_hub_that_is_not_there_is_one_line(hub, tmp_path):
    env = os.environ | dict(HF_ENDPOINT='http://127.0.0.1:9', CITRUS_HOME=str(tmp_path), HF_TOKEN='hf_goat')
    done = subprocess.run([sys.executable, '-c', COMMAND, 'goats', '--hub', 'me'], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and 'the hub cannot be reached' in done.stderr and 'Traceback' not in done.stderr


def test_it_is_opened_only_when_asked(hub):
    hub()
    assert all(r['private'] for r in Hub.repos.values())
    hub('--public')
    assert not any(r['private'] for r in Hub.repos.values()), 'repositories that were private before too'


def test_exchanged_findings_and_closed_passages_stay_here(tmp_path):
    from citrus.core.shareable import Terms, is_open, passage_licence
    control = Terms(True, 'HPO licence', {'train-0': 'hpo-2025-01-16'})
    assert 'nothing is altered' in control.obstacle(dict(question_id='train-0')) and 'nothing is altered' in control.obstacle(dict(source='hpo_facts'))
    books = passage_licence(dict(sources=[dict(id='books', licence='each book its own')]), 'books')
    assert 'passages under: each book its own' in Terms(False, books, {}).obstacle(dict(source='textbook'))
    assert passage_licence(dict(sources=[]), 'abstracts_2021').startswith('NLM') and not is_open(passage_licence(dict(sources=[]), 'abstracts_2021'))
    assert is_open('CC BY-SA 4.0') and not is_open('CC BY-NC-SA 4.0') and not is_open('see its card') and not is_open('mixed')


def test_models_made_from_llama_begin_with_its_name(tmp_path, monkeypatch):
    from citrus.core.sharing import read_run
    make_run(tmp_path, student='meta-llama/Llama-3.1-8B')
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path))
    shared = read_run('goats', 'me', False)
    assert shared.repo('sft3') == 'me/Llama-citrus-goats-sft3' and shared.repo('traces') == 'me/citrus-goats-traces' and shared.student() == 'meta-llama/Llama-3.1-8B'
