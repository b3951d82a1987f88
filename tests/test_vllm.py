"The door against real vLLM on the CPU: an offline engine and a server. `make test-vllm` runs this in an environment of its own"
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace

import pytest

pytest.importorskip('vllm', reason='vLLM is not in this environment: run `make test-vllm`')

from citrus.core import engines   # noqa: E402
from citrus.core.engines import need_free_devices, release
from citrus.core.files import UserError
from citrus.core.launch import launch
from citrus.core.processes import offspring, still_there
from citrus.llm import serving
from citrus.llm.engine_options import check_engine, engine_arguments, equipped
from citrus.llm.ledger import Budget, deterministic
from citrus.llm.models import Model, Sampling, local_model
from citrus.llm.door import chat, converse # noqa: E402

MESSAGES = [[dict(role='user', content=f'Name {n} organs of the human body.')] for n in ('two', 'three', 'four', 'five')]
DRAWN = Sampling(temperature=0.8, max_tokens=24, n=3, seed=1)


@pytest.fixture(scope='module')
def student(store, tmp_path_factory):
    "The real student in bfloat16"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from citrus.llm.student import make_student
    here = tmp_path_factory.mktemp('models')
    full = make_student('smollm2', '', 0, here / 'full')
    AutoModelForCausalLM.from_pretrained(full, dtype=torch.bfloat16).save_pretrained(here / 'student')
    AutoTokenizer.from_pretrained(full).save_pretrained(here / 'student')
    return here / 'student'


@pytest.fixture(autouse=True)
def own_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path))
    yield
    release()


@contextlib.contextmanager
def vllm_server(folder, log, name='student'):
    "vLLM's own server of a model, started by hand; gives its base URL"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [sys.executable, '-m', 'vllm.entrypoints.openai.api_server', '--model', str(folder), '--served-model-name', name, '--host', '127.0.0.1', '--port', str(port),
               '--enforce-eager', '--max-model-len', '4096']
    with open(log, 'w') as out: process = subprocess.Popen(command, env=os.environ | dict(VLLM_CPU_KVCACHE_SPACE='2', VLLM_NO_USAGE_STATS='1'), stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-3000:]
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/health', timeout=5)
            except OSError: time.sleep(0.5)
            else: break
        else: pytest.fail('no answer in five minutes: ' + log.read_text()[-3000:])
        yield f'http://127.0.0.1:{port}/v1'
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope='module')
def server(student, tmp_path_factory):
    with vllm_server(student, tmp_path_factory.mktemp('server') / 'log.txt') as url: yield url


async def consult(door, messages):
    "Two turns: the second one quotes the first"
    first, = await door.ask(messages, consult.model, Sampling(temperature=0.8, max_tokens=24, seed=2), role='first')
    again = [*messages, dict(role='assistant', content=first.text), dict(role='user', content='Which of these is the largest?')]
    return first, (await door.ask(again, consult.model, Sampling(max_tokens=16), role='second'))[0]


def sensible(replies):
    text = ' '.join(r.text.lower() for r in replies)
    assert sum(organ in text for organ in ('heart', 'brain', 'lung', 'liver', 'kidney')) >= 2, text


def test_server(server):
    model, budget = Model('student', 'openai', server, 'student'), Budget()
    replies = chat(MESSAGES, model, DRAWN, role='sample', budget=budget)
    assert [len(row) for row in replies] == [3] * 4 and len({r.text for r in replies[0]}) == 3
    sensible(r for row in replies for r in row)
    assert all(0 < r.tokens <= 24 and r.prompt_tokens > 20 and r.finish in ('stop', 'length') for row in replies for r in row)
    assert all(r.cached for row in chat(MESSAGES, model, DRAWN) for r in row)
    consult.model = model
    turns = converse(consult, MESSAGES, budget)
    assert all(first.text and second.text for first, second in turns)
    assert {row['role']: row['calls'] for row in budget.table()} == dict(sample=12, first=4, second=4)
    assert not deterministic(model)


def test_server_refuses_what_is_wrong(server):
    with pytest.raises(UserError, match='404'): chat(MESSAGES, Model('x', 'openai', server, 'no-such-model'), Sampling())


def test_offline(student, monkeypatch):
    monkeypatch.setenv('VLLM_CPU_KVCACHE_SPACE', '2')
    model = local_model('student', student, 'vllm', enforce_eager=True, max_model_len=2048)
    replies = chat(MESSAGES, model, DRAWN)
    assert [len(row) for row in replies] == [3] * 4 and len({r.text for r in replies[0]}) == 3
    sensible(r for row in replies for r in row)
    assert all(0 < r.tokens <= 24 and r.prompt_tokens > 20 and r.finish in ('stop', 'length') for row in replies for r in row)
    consult.model = model
    turns = converse(consult, MESSAGES)
    assert all(first.text and second.text for first, second in turns)
    runaway = chat([[dict(role='user', content='Count: one, two, three')]] + MESSAGES, model, Sampling(max_tokens=64, temperature=1.0))
    assert [len(row) for row in runaway] == [1] * 5


ENGINE = dict(enforce_eager=True, max_model_len=2048, start_seconds=300)


@pytest.fixture(scope='module')
def eager(student, tmp_path_factory):
    "The same weights with sampling defaults of their own: the likeliest token only, and a penalty for what was said"
    folder = tmp_path_factory.mktemp('eager') / 'student'
    shutil.copytree(student, folder)
    path = folder / 'generation_config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(do_sample=True, top_k=1, repetition_penalty=2.0)))
    return folder


REPEAT = [[dict(role='user', content='Repeat this sentence three times: the goat climbs the hill.')]]
SAID = 'goat climbs the hill'


def greedy(model): return chat(REPEAT, model, Sampling(max_tokens=32))[0][0].text


def test_arguments_of_the_engine_are_those_of_vllm(student):
    from dataclasses import fields
    from vllm.engine.arg_utils import EngineArgs
    assert set(engine_arguments()) == {f.name for f in fields(EngineArgs) if not f.name.startswith('_')}
    model = equipped(local_model('student', student, 'vllm'), dict(tensor_parallel_size=8, max_model_len=8192, connections=3))
    assert model.options == dict(tensor_parallel_size=8) and model.flags == dict(max_model_len=8192)
    with pytest.raises(UserError, match="'tensor_paralel_size' is not an argument of vLLM's engine; did you mean 'tensor_parallel_size'"): check_engine(dict(tensor_paralel_size=8), [model], 'prefer.engine')


def test_an_engine_is_gone_when_it_is_released_and_one_that_dies_is_one_line(student, eager, monkeypatch):
    "And the model's own sampling defaults are not mixed in"
    monkeypatch.setenv('VLLM_CPU_KVCACHE_SPACE', '1')
    model = equipped(local_model('eager', eager, 'vllm'), ENGINE)
    text = greedy(model)
    [engine] = engines._held
    family = list(engine.processes)
    assert len(still_there(family)) >= 1 and SAID in text, text   # with the penalty nothing of the prompt would be said again
    os.kill(family[0][0], signal.SIGKILL)   # while nobody asks it: the next call starts another
    long = [[dict(role='user', content=f'Tell a long story about {i} goats.')] for i in range(4)]
    threading.Timer(3.0, lambda: os.kill(engines._held[0].processes[0][0], signal.SIGKILL)).start() if chat(MESSAGES[:1], model, DRAWN) else None
    with pytest.raises(UserError, match='^eager: the engine of vLLM died at its work [^\n]*: what was answered is kept, run again to go on$'): chat(long, model, Sampling(max_tokens=1500, temperature=1.0))
    assert still_there(family) == [] and engines._held == []
    assert all(r.text for row in chat(MESSAGES, model, DRAWN) for r in row)
    family = list(engines._held[0].processes)
    assert launch('core.stats.wilson', k=0, n=64)[0] == 0 and still_there(family) == []
    with pytest.raises(UserError, match='^eager: vLLM does not start [^\n]*; see `engine`$'): greedy(equipped(local_model('eager', eager, 'vllm'), dict(max_model_len=1 << 20)))


def test_a_server_of_the_run(student, eager, monkeypatch):
    "Started when it is asked, with a key, without the model's own sampling defaults; killed in the middle; gone with the launch"
    monkeypatch.setenv('VLLM_CPU_KVCACHE_SPACE', '1')
    model = equipped(local_model('eager', eager, 'serve'), ENGINE)
    assert SAID in greedy(model)
    [server] = serving._servers.values()
    with pytest.raises(urllib.error.HTTPError, match='401'): urllib.request.urlopen(f'{server.url}/models')
    by_hand = Model('eager', 'openai', server.url, 'eager', dict(key='SERVER_KEY'))
    monkeypatch.setenv('SERVER_KEY', server.token)
    assert chat(REPEAT, by_hand, Sampling(max_tokens=32))[0][0].text == greedy(model)
    family = [(p, b) for p, b in server.engine.processes]
    assert len(still_there(family)) >= 3

    async def talk(door, i):
        if i == 3: os.kill(offspring(server.process.pid)[0][0], signal.SIGKILL)
        return (await door.ask([dict(role='user', content=f'Tell a long story about {i} goats.')], model, Sampling(max_tokens=200, temperature=1.0)))[0].text
    with pytest.raises(UserError, match=r'^eager: its server has ended [^\n]*; its log: \S+$'): converse(talk, range(6))
    need_free_devices('training')
    assert still_there(family) == [] and server.log.exists()


def test_a_server_that_was_started_by_hand_does_not_mix_in_either(eager, tmp_path):
    "Without `--generation-config vllm`; asked plainly it does"
    with vllm_server(eager, tmp_path / 'log.txt', 'eager') as url:
        assert SAID in greedy(Model('eager', 'openai', url, 'eager'))
        body = dict(model='eager', messages=REPEAT[0], temperature=0, max_tokens=32)
        request = urllib.request.Request(f'{url}/chat/completions', json.dumps(body).encode(), {'Content-Type': 'application/json'})
        plain = json.load(urllib.request.urlopen(request))['choices'][0]['message']['content']
        assert SAID not in plain   # the control


CLOSED = dict(id='q1', source='test', split='train', stem='A 30-year-old woman has a butterfly rash, joint pain and protein in her urine. Which of the following is the most likely diagnosis?', open_stem='',
              options=[dict(label='A', text='Systemic lupus erythematosus'), dict(label='B', text='Rosacea'), dict(label='C', text='Gout')], answer='A',
              answer_text='Systemic lupus erythematosus', aliases=['Lupus'], context=None, difficulty=None, meta={})
STEPS = ['Known: butterfly rash, joint pain, protein in the urine.', 'Candidates: Systemic lupus erythematosus; Rosacea.', 'Conclusion: Systemic lupus erythematosus.']


def test_synthesis_through_the_server(server):
    "Question rewriting, the loop of two experts and the monologue, played by a real model that is too small for them: every reply is asked for, read and judged"
    from citrus.llm.roles import Cast
    from citrus.llm.threads import Thread
    from citrus.llm.opening import open_up
    from citrus.synth import retell, synthesise
    from citrus.world.steps import read_steps, step_record
    model, budget = Model('student', 'openai', server, 'student'), Budget()
    cast = Cast(model, model, model, temperature=0.8, others=0.7, rounds=2, retries=1)

    async def work(door, seed):
        opened, why = await open_up(door, CLOSED, replace(cast, seed=seed))
        thread, trace = await synthesise(door, CLOSED | dict(open_stem=opened['open_stem'] or CLOSED['stem']), replace(cast, seed=seed))
        steps = [step_record('reasoning', s, 1, '') for s in read_steps(STEPS)]
        monologue, fault = await retell(door, Thread(CLOSED | dict(open_stem=CLOSED['stem']), steps=steps, votes=[1, 1]), replace(cast, seed=seed))
        return why, trace, monologue, fault
    results = converse(work, range(3), budget)
    spent = {row['role']: row for row in budget.table()}
    assert {'rewrite', 'reason', 'write'} <= set(spent) and all(row['tokens'] and row['prompt_tokens'] for row in spent.values())
    assert all(trace['outcome'] and 1 <= len([s for s in trace['steps'] if s['role'] == 'reasoning']) <= 2 and monologue for _, trace, monologue, _ in results)
    again = Budget()
    assert converse(work, range(3), again) == results and not any(row['new'] for row in again.table())
