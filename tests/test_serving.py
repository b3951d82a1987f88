"Servers of the run's own and others: found before anything runs, gone with the run, nothing lost where they fail"
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from citrus.core import engines
from citrus.core.engines import engine_notes, need_free_devices, release
from citrus.core.files import UserError
from citrus.core.processes import offspring, still_there
from citrus.core.recipes import settings
from citrus.llm import engine_options, serving
from citrus.llm.door import chat, converse
from citrus.llm.engine_options import check_engine, engine_arguments, equipped
from citrus.llm.ledger import ledger_path, reply_key
from citrus.llm.models import Model, Sampling
from citrus.llm.probe import asked_models, probe_servers
from citrus.world.expert import role_model

HERE = Path(__file__).parent


def user(text): return [dict(role='user', content=text)]
def words(n, model, sampling=Sampling()): return [r.text for r, in chat([user(f'w{i}') for i in range(n)], model, sampling)]
def stats(url): return json.load(urllib.request.urlopen(url.replace('/v1', '/stats')))


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))
    yield
    release(patience=2.0)


# --- a server that is not there --------------------------------------------------------------------------------------

def full(**engine):
    "The models of the full recipe as another one might have them"
    return {stage: p | dict(engine=engine) for stage, p in settings({}).items() if stage in ('textbook', 'synth', 'prefer', 'evaluate')}


def test_all_servers_that_are_not_there_are_found_at_once(endpoint):
    "The recipe of today named three that nobody starts; the run found out after days of training"
    up = endpoint(models='generator,qwen')
    values = full()
    nobody = 'http://127.0.0.1:9/v1'
    values['textbook'] |= dict(writer=f'openai:{nobody}#generator', judge=f'openai:{up}#generator')
    values['synth'] |= dict(reasoner=f'openai:{nobody}#generator', graders=[f'openai:{up}#qwen@0.7', f'openai:{up}#lama', 'expert@4'])
    rows = probe_servers(values, [*values])
    assert [(r['stage'], r['parameter'], r['what']) for r in rows] == [('textbook', 'writer', nobody), ('synth', 'graders', up)]
    assert rows[0]['fault'].startswith('nobody answers (') and rows[1]['fault'].startswith("has no model 'lama', but 'generator', 'qwen': ") and 'serve:path#name' in rows[0]['fault']
    assert stats(up)['requests'] == 0, 'nobody was asked for a word'
    assert not any('\n' in r['fault'] for r in rows)


def test_of_several_addresses_the_one_that_is_not_there_is_named(endpoint):
    values = full()
    values['synth']['reflector'] = f'openai:{endpoint()} http://127.0.0.1:9/v1#m'
    assert [r['what'] for r in probe_servers(values, ['synth'])] == ['http://127.0.0.1:9/v1']


def test_a_key_that_is_refused_is_found(endpoint, monkeypatch):
    url, values = endpoint(token='secret'), full(m=dict(key='JUDGE_KEY'))
    values['synth']['reflector'] = f'openai:{url}#m'
    monkeypatch.setenv('JUDGE_KEY', 'wrong')
    assert [r['fault'][:22] for r in probe_servers(values, ['synth'])] == ['refuses the key (401):']
    monkeypatch.setenv('JUDGE_KEY', 'secret')
    assert probe_servers(values, ['synth']) == []


def test_a_run_without_servers_asks_nobody(): assert probe_servers(settings({}), list(settings({}))) == []


def test_every_stage_that_asks_a_model_is_looked_at():
    values = settings({}, ['prefer.backend=serve', 'synth.reasoner=serve:a/b#g', 'textbook.judge=openai:http://x/v1#j'])
    assert {s: [(n, m.backend, m.name) for n, m in asked_models(s, values[s])] for s in ('textbook', 'synth', 'prefer')} == dict(
        textbook=[('judge', 'openai', 'j')], synth=[('reasoner', 'serve', 'g')], prefer=[('backend', 'serve', 'sft3')])


# --- options of the engine -------------------------------------------------------------------------------------------

def test_options_of_servers_come_from_the_recipe(endpoint):
    "Connections, tries and time-outs were constants of the code"
    url = endpoint(latency=0.05)
    model = role_model(f'openai:{url}#m', None, dict(connections=2, timeout=60, m=dict(tries=3)))
    assert model.options == dict(connections=2, timeout=60, tries=3) and len(words(12, model)) == 12 and stats(url)['busiest'] == 2
    silent = role_model(f'openai:{endpoint(hang=1.0)}#silent', None, dict(timeout=0.2, tries=2, pause=0.01))
    began = time.time()
    with pytest.raises(UserError, match='no reply'): words(1, silent)
    assert time.time() - began < 10


@pytest.mark.parametrize('engine, message', [
    (dict(timeuot=3), "synth.engine: 'timeuot' is not .*; did you mean 'timeout'"), (dict(m=dict(connectoins=3)), "engine of the model 'm': 'connectoins' is not .*; did you mean 'connections'"),
    (dict(m=3), "engine: 'm' is a model, and needs a mapping"), (dict(n=dict(tries=1)), "synth.engine: 'n' is not")])
def test_a_name_that_nobody_takes_is_one_line(engine, message):
    with pytest.raises(UserError, match=message) as e: check_engine(engine, [Model('m', 'openai', 'http://x/v1', 'm')], 'synth.engine')
    assert '\n' not in str(e.value)
    values = full(**engine)
    values['synth']['reflector'] = 'openai:http://x/v1#m'
    assert [r['parameter'] for r in probe_servers(values, ['synth'])] == ['engine']


def test_without_vllm_one_line_says_so(monkeypatch):
    monkeypatch.setattr(engine_options, 'engine_arguments', lambda: ())
    for spec in ('vllm:a/b#m', 'serve:a/b#m'):
        with pytest.raises(UserError, match=r"^the model 'm' needs vLLM, which is not installed here: pip install [^\n]*$"): role_model(spec, None, dict(tensor_parallel_size=8))
    values = full(tensor_parallel_size=8)
    values['prefer']['backend'] = 'vllm'
    assert ['is not installed' in r['fault'] for r in probe_servers(values, ['prefer'])] == [True]


# --- sampling defaults -----------------------------------------------------------------------------------------------

def test_what_a_model_s_own_file_says_of_sampling_is_not_mixed_in(endpoint):
    "A vLLM server that was started by hand adds it to a request that does not speak of it; others are sent nothing that they may not know"
    url = endpoint(owner='vllm', mixes=1)
    assert words(3, Model('m', 'openai', url, 'm')) == ['w0', 'w1', 'w2']
    body = json.dumps(dict(messages=user('plain'), model='m')).encode()
    plain = json.load(urllib.request.urlopen(urllib.request.Request(f'{url}/chat/completions', body)))
    assert plain['choices'][0]['message']['content'] == 'mixed: plain'   # the control
    strict = Model('s', 'openai', endpoint(strict=1), 's', flags=dict(fields=dict(max_tokens='max_completion_tokens', seed='')))
    assert words(3, strict) == ['w0', 'w1', 'w2']


# --- servers that fail: one line, nothing lost, the same command goes on -----------------------------------------------

def asked_again(bad, good, n=40):
    "The line of a run that fails after half of it, and how many replies were kept when the same call goes on"
    words(n // 2, good)
    with pytest.raises(UserError) as e: words(n, bad)
    kept = len(ledger_path(bad).read_bytes().splitlines())
    assert '\n' not in str(e.value)
    assert words(n, good) == [f'w{i}' for i in range(n)]
    return str(e.value), kept


@pytest.mark.parametrize('mishap, words_of_it', [(dict(dies=15), 'ServerDisconnected|ClientConnector|ClientOS|ConnectionReset'), (dict(hang=0.7), 'TimeoutError'), (dict(rate500=0.7), '500'),
                                                 (dict(rate429=0.7, retry_after=0.01), '429'), (dict(garbage=0.7), 'rubbish'), (dict(disconnect=0.7), 'ClientPayloadError|Disconnected')])
def test_a_server_that_fails_for_good_loses_nothing(endpoint, mishap, words_of_it):
    import re
    options = dict(tries=2, pause=0.01, timeout=0.5, connections=4, rest=0.01)
    bad = Model('m', 'openai', endpoint(**mishap), 'm', options)
    url = endpoint()
    line, kept = asked_again(bad, Model('m', 'openai', url, 'm', options))
    assert re.search(words_of_it, line) and kept >= 20 and stats(url)['requests'] == 20 + 40 - kept


def test_rounds_of_answers_go_on_after_a_server_has_died(endpoint):
    "What the first rounds brought is in the ledger; only the rest is asked for, and the stop is the same"
    from citrus.train.samples import Limits, Stop, sample_answers
    questions = [dict(id=f'q{i}', open_stem=f'Which {i}?', stem=f'Which {i}?', options=[], answer=None, answer_text='Goat', aliases=[], context=None) for i in range(12)]
    sampling, stop = Sampling(temperature=1.0, n=20, seed=3), Stop(5, 3, 0.25)
    options = dict(tries=2, pause=0.01, connections=4)
    ask_all = lambda url: sample_answers(questions, Model('m', 'openai', url, 'm', options), sampling, Limits(), stop)
    with pytest.raises(UserError, match='no reply'): ask_all(endpoint(dies=70))
    kept = len(ledger_path(Model('m', 'openai', '', 'm')).read_bytes().splitlines())
    url = endpoint()
    rows = ask_all(url)
    assert kept >= 60 and stats(url)['requests'] == len(rows) - kept and len(rows) == 12 * 20   # a parrot never answers in form, so nothing is learned from it
    assert ask_all('http://127.0.0.1:9/v1') == [r | dict(seconds=s['seconds']) for r, s in zip(rows, ask_all('http://127.0.0.1:9/v1'))]


def test_several_addresses_share_the_work_by_load(endpoint):
    fast, slow = endpoint(latency=0.01), endpoint(latency=0.3)
    model = role_model(f'openai:{fast} {slow}#m', None, dict(connections=4))
    assert len(words(80, model)) == 80
    assert stats(fast)['answered'] > 3 * stats(slow)['answered'] > 0


# --- grading -----------------------------------------------------------------------------------------------------------

def test_grading_stops_when_the_label_is_clear_and_labels_are_the_same(endpoint):
    "Three graders of whom each knows some questions; the table is of those that all were asked"
    from citrus.llm.opening import EASY_RULES, graded, grading, panel_table
    from citrus.llm.models import BACKENDS, Reply
    asked = Counter()

    def grader(model, sampling, prompts):
        for i, (messages, _) in enumerate(prompts):
            asked[model.name] += 1
            number = int(messages[-1]['content'].split('number ')[1].split('?')[0])
            right = number % {'a': 2, 'b': 3, 'c': 5}[model.name] == 0
            yield i, Reply('<think>So.</think>\n<answer>' + ('Goat' if right else 'Cow') + '</answer>', 3, 'stop', 0.0)
    BACKENDS['grader'] = grader
    questions = [dict(id=f'q{i}', open_stem=f'Which is number {i}?', stem='', options=[], answer=None, answer_text='Goat', aliases=[], context=None) for i in range(60)]
    panel = [(Model(n, 'grader', revision=n), 0.0) for n in 'abc']
    for rule in EASY_RULES:
        whole = converse(grading(questions, panel, rule, 0, 1), questions)
        few = converse(grading(questions, panel, rule, 10, 1), questions)
        assert [q['difficulty'] for q in graded(questions, few, rule)] == [q['difficulty'] for q in graded(questions, whole, rule)]
        assert sum(None not in v for v in few) >= 10 and sum(v.count(None) for v in few) > 0 and not any(None in v for v in whole)
    fresh = [(Model(n, 'grader', revision=f'{n} anew'), 0.0) for n in 'abc']
    asked.clear()
    votes = converse(grading(questions, fresh, 'all', 10, 1), questions)
    assert asked['a'] == 60 and asked['a'] > asked['b'] > asked['c'] >= 10
    table = panel_table([*'abc'], votes, graded(questions, votes, 'all'))
    assert table.n.iloc[-1] == 60 and table.n.iloc[0] == sum(None not in v for v in votes) and table.questions.iloc[-1] == 60 - 2


# --- a server of the run's own -----------------------------------------------------------------------------------------

VLLM = engine_arguments()
STAND_IN = '''
import argparse, asyncio, os, subprocess, sys
sys.path.insert(0, {here!r})
from endpoint import Endpoint
p = argparse.ArgumentParser()
for name in ('model', 'host', 'port', 'served-model-name', 'generation-config', 'max-model-len'): p.add_argument(f'--{{name}}')
p.add_argument('--disable-uvicorn-access-log', action='store_true')
args = p.parse_args()
if args.max_model_len == '1': sys.exit('ValueError: the window is too small')
engine = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])   # as vLLM's, it does not notice that its parent has gone
print('up', flush=True)
mixes = args.generation_config != 'vllm'
asyncio.run(Endpoint(latency=0.05, token=os.environ['VLLM_API_KEY'], models=args.served_model_name, owner='stand-in', mixes=mixes).serve(int(args.port), lambda url: None))
'''


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    "A program with the life of a server: it takes options, starts an engine, answers, is asked to end"
    if VLLM: pytest.skip('the real one is in tests/test_vllm.py')
    program = tmp_path / 'stand_in.py'
    program.write_text(STAND_IN.format(here=str(HERE)))
    monkeypatch.setattr(serving, 'serve_entry', lambda path: [str(program), '--model', path])
    for module in (engine_options, serving): monkeypatch.setattr(module, 'engine_arguments', lambda: ('max_model_len', 'data_parallel_size', 'device_ids', 'gpu_memory_utilization', 'dtype'))
    return equipped(Model('student', 'serve', 'folder', 'weights'), dict(start_seconds=30, connections=4))


def test_a_server_is_started_asked_and_gone(stand_in):
    assert words(20, stand_in) == [f'w{i}' for i in range(20)]
    [server] = serving._servers.values()
    family = [(p, b) for p, b in server.engine.processes]
    assert len(still_there(family)) == 3 and not server.engine.busy and len(engine_notes()) == 1
    assert words(30, stand_in)[-1] == 'w29' and serving._servers[repr(stand_in)] is server   # the same one answers again
    with pytest.raises(urllib.error.HTTPError, match='401'): urllib.request.urlopen(f'{server.url}/models')   # not without the key
    need_free_devices('training')
    assert still_there(family) == [] and engine_notes() == [] and server.log.exists()
    assert words(40, stand_in)[-1] == 'w39'   # and another one is started when it is asked again
    assert serving._servers[repr(stand_in)] is not server


def test_a_server_that_dies_in_the_middle_is_one_line_and_the_same_call_goes_on(stand_in):
    async def talk(door, i):
        if i == 30:
            while serving._servers.get(repr(stand_in)) is None or not ledger_path(stand_in).exists() or not ledger_path(stand_in).stat().st_size: await asyncio.sleep(0.05)
            os.kill(offspring(serving._servers[repr(stand_in)].process.pid)[0][0], signal.SIGKILL)
        return (await door.ask(user(f'w{i}'), stand_in, Sampling()))[0].text
    began = time.time()
    with pytest.raises(UserError, match=r'^student: its server has ended \([^\n]*\); its log: \S+$'): converse(talk, range(200))
    assert time.time() - began < 30, 'eight tries with doubled pauses would be four minutes'
    kept = len(ledger_path(stand_in).read_bytes().splitlines())
    assert 0 < kept < 200
    replies = [r for r, in chat([user(f'w{i}') for i in range(200)], stand_in, Sampling())]
    assert [r.text for r in replies] == [f'w{i}' for i in range(200)] and sum(r.cached for r in replies) == kept


def test_a_server_that_does_not_come_up_says_why(stand_in):
    small = equipped(Model('student', 'serve', 'folder', 'weights'), dict(max_model_len=1, start_seconds=30))
    with pytest.raises(UserError, match='^student: its server has ended .ValueError: the window is too small.; its log: '): words(3, small)
    assert engine_notes() == [] and engines._held == []


def test_a_server_that_takes_too_long_is_given_up(stand_in, monkeypatch):
    monkeypatch.setattr(serving, 'is_up', lambda server: False)
    slow = equipped(stand_in, dict(start_seconds=1.0))
    with pytest.raises(UserError, match='its server is not up after 1 s .`start_seconds`.; its log: '): words(3, slow)
    assert engine_notes() == []


def test_a_conversation_that_ends_does_not_wait_for_a_server(stand_in, monkeypatch):
    "An error elsewhere ends the wait of an hour"
    monkeypatch.setattr(serving, 'is_up', lambda server: False)

    async def talk(door, i):
        if i: raise ValueError('elsewhere') if not await asyncio.sleep(1.0) else None
        return await door.ask(user('x'), equipped(stand_in, dict(start_seconds=3600)), Sampling())
    began = time.time()
    with pytest.raises(ValueError, match='elsewhere'): converse(talk, range(2))
    assert time.time() - began < 20 and engine_notes() == []


def test_a_panel_stands_side_by_side_or_is_refused(stand_in):
    "Two servers of one conversation: on devices of their own they live together; on the same ones neither drives the other out"
    pair = [equipped(Model(n, 'serve', 'folder', n), dict(start_seconds=30, device_ids=[i])) for i, n in enumerate('ab')]

    async def talk(door, i): return [(await door.ask(user(f'{i}'), m, Sampling()))[0].text for m in pair]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(serving, 'engine_settings', lambda model: {k: v for k, v in model.options.items() if k == 'max_model_len'})   # the stand-in has no `--device-ids`
        assert converse(talk, range(4)) == [[f'{i}'] * 2 for i in range(4)]
        assert len(engines._held) == 2
        pair[:] = [equipped(Model(n, 'serve', 'folder', f'{n} again'), dict(start_seconds=30)) for n in 'ab']
        with pytest.raises(UserError, match='^b and a work at the same time and do not fit on the same devices: [^\n]*`device_ids`'): converse(talk, range(4))


def test_a_server_ends_with_a_run_that_is_killed(stand_in, tmp_path):
    code = f'''
import sys
sys.path.insert(0, {str(HERE)!r})
from citrus.llm import engine_options, serving
serving.serve_entry = lambda path: [{str(tmp_path / "stand_in.py")!r}, '--model', path]
from citrus.llm.door import chat
from citrus.llm.models import Model, Sampling
print(chat([[dict(role='user', content='up')]], Model('student', 'serve', 'folder', 'w'), Sampling())[0][0].text, flush=True)
import time
time.sleep(60)
'''
    run = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline().strip() == 'up'
    family = offspring(run.pid)
    assert len(family) == 3   # supervisor, server, engine
    run.kill()
    run.wait()
    until = time.monotonic() + 15
    while still_there(family) and time.monotonic() < until: time.sleep(0.1)
    assert still_there(family) == []


def test_the_command_keeps_the_model_s_own_sampling_out(stand_in):
    command = serving.serve_command(stand_in, 8000)
    assert command[command.index('--generation-config') + 1] == 'vllm' and command[command.index('--host') + 1] == '127.0.0.1'
    assert not any('secret' in word for word in command) and serving.serve_environment(stand_in, 'secret')['VLLM_API_KEY'] == 'secret'


def test_what_decides_only_the_speed_is_not_in_the_address_of_a_reply(stand_in):
    bare = Model('m', 'serve', 'folder', 'weights')
    key = lambda engine: reply_key(equipped(bare, engine), Sampling(), user('a'), 0)
    assert key({}) == key(dict(data_parallel_size=8, gpu_memory_utilization=0.5, connections=3)) != key(dict(dtype='float16'))
