"The door: hostile servers, kills, interrupts, running loops, budgets, one ledger for many"
import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from citrus.llm.models import BACKENDS
from citrus.llm.door import chat, converse
from citrus.llm.ledger import Budget, Ledger, deterministic, ledger_path, reply_key
from citrus.llm.models import Model, Reply, Sampling
from citrus.llm.prompt import parse_reply
from citrus.core.files import UserError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def own_ledger(tmp_path, monkeypatch): monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))


def stats(url): return json.load(urllib.request.urlopen(url.replace('/v1', '/stats')))
def user(text): return [dict(role='user', content=text)]
def rows(model): return [json.loads(line) for line in ledger_path(model).read_bytes().split(b'\n')[:-1]]


async def three_turns(door, item):
    text = item
    for turn in range(3): text = (await door.ask(user(f'{text} {turn}'), three_turns.model, Sampling(), role=f'turn {turn}'))[0].text
    return text


# --- servers ---------------------------------------------------------------------------------------------------------

def test_a_server_with_every_mishap(endpoint):
    url = endpoint(latency=0.01, rate429=0.05, rate500=0.05, garbage=0.05, disconnect=0.05, hang=0.02)
    three_turns.model = Model('bad', 'openai', url, 'm', dict(connections=16, pause=0.01, timeout=1, rest=0.05, tries=12))
    assert converse(three_turns, [f'w{i}' for i in range(100)]) == [f'w{i} 0 1 2' for i in range(100)]
    counts = stats(url)
    assert all(counts[k] for k in ('rate429', 'rate500', 'garbage', 'disconnect', 'hang')) and counts['busiest'] <= 16 + counts['hang'] + counts['repeated'], counts   # the server does not notice who has given up
    assert counts['answered'] - counts['repeated'] == 300, counts
    assert len(rows(three_turns.model)) == 300


def test_a_dead_server_is_left_out_and_taken_back(endpoint):
    good, late = endpoint(latency=0.02), endpoint()
    port = late.split(':')[2].split('/')[0]
    stopped = endpoint.__closure__[0].cell_contents[-1]
    stopped.kill()
    stopped.wait()
    model = Model('two', 'openai', f'{good} {late}', 'm', dict(connections=4, pause=0.01, rest=0.2))
    assert [r.text for r, in chat([user(f'a{i}') for i in range(40)], model, Sampling())] == [f'a{i}' for i in range(40)]
    assert stats(good)['requests'] == 40
    endpoint(port=port, latency=0.02)
    chat([user(f'b{i}') for i in range(200)], model, Sampling())
    assert stats(late)['requests'] > 20 and stats(good)['requests'] + stats(late)['requests'] == 240


def test_a_server_that_returns_in_mid_run(endpoint):
    "One request at a time tries the dead server; when it answers, it gets its share"
    good, late = endpoint(latency=0.05), endpoint()
    port = late.split(':')[2].split('/')[0]
    stopped = endpoint.__closure__[0].cell_contents[-1]
    stopped.kill()
    stopped.wait()
    model = Model('two', 'openai', f'{good} {late}', 'm', dict(connections=2, pause=0.01, rest=0.2))

    async def talk(door, i):
        if i == 20: await asyncio.to_thread(endpoint, port=port, latency=0.05)
        return (await door.ask(user(f'c{i}'), model, Sampling()))[0].text
    assert converse(talk, range(150)) == [f'c{i}' for i in range(150)]
    assert stats(late)['requests'] > 10


def test_rate_limit(endpoint):
    url, began = endpoint(), time.time()
    chat([user(f'{i}') for i in range(11)], Model('slow', 'openai', url, 'm', dict(rate=20)), Sampling())
    assert time.time() - began >= 0.5


def test_retry_after_is_kept(endpoint):
    url, began = endpoint(rate429=1.0, retry_after=0.4), time.time()
    with pytest.raises(UserError, match='429'): chat([user('x')], Model('busy', 'openai', url, 'm', dict(tries=3, pause=0.01)), Sampling())
    assert time.time() - began >= 0.8 and stats(url)['rate429'] == 3


def test_a_refused_prompt_is_set_aside(endpoint, capsys):
    "One of six; it is asked again the next time, and the others are not"
    url = endpoint()
    model, prompts = Model('m', 'openai', url, 'm'), [user(w) for w in ('a', 'b', 'forbidden', 'c', 'd', 'e')]
    for _ in range(2):
        replies = [r for r, in chat(prompts, model, Sampling())]
        assert [r.text for r in replies] == ['a', 'b', '', 'c', 'd', 'e'] and replies[2].finish == 'set aside: 400 content_filter, not this'
        assert 'm: 1 of 6 prompts set aside: 400 content_filter' in capsys.readouterr().out
    assert stats(url)['requests'] == 7 and len(rows(model)) == 5
    assert [r.text for r, in chat(prompts, Model('m', 'openai', url, 'm', dict(aside=0.17)), Sampling())][3:] == ['c', 'd', 'e']
    with pytest.raises(UserError, match='refuses 1 of 6 prompts, more than the share of 0.1 .* content_filter'): chat(prompts, Model('m', 'openai', url, 'm', dict(aside=0.1)), Sampling())
    with pytest.raises(UserError, match='content_filter'): chat([user('forbidden')], model, Sampling())


def test_a_server_that_does_not_count_tokens(endpoint):
    "They are counted here, so that a budget ends; never more than a reply may have"
    model, budget = Model('m', 'openai', endpoint(uncounted=1), 'm'), Budget(tokens=100)
    with pytest.raises(UserError, match='budget of 100 tokens is spent'): chat([user(f'prompt number {i}') for i in range(60)], model, Sampling(max_tokens=8), budget=budget)
    spent, = budget.table()
    assert 80 <= spent['tokens'] <= 100 and spent['calls'] < 20 and spent['prompt_tokens'] >= 5 * spent['calls']
    assert [r.tokens for r, in chat([user('word ' * 99)], model, Sampling(max_tokens=8))] == [8]


def test_fields_of_a_request_are_renamed_or_dropped(endpoint):
    from citrus.world.expert import role_model
    url = endpoint(strict=1)
    with pytest.raises(UserError, match='unknown field'): chat([user(f'{i}') for i in range(6)], Model('m', 'openai', url, 'm'), Sampling())
    for model in (Model('m', 'openai', url, 'm', flags=dict(fields=dict(max_tokens='max_completion_tokens', seed=''))), role_model(f'openai:{url}#m?max_tokens=max_completion_tokens&seed=', None)):
        assert [r.text for r, in chat([user('a'), user('b')], model, Sampling())] == ['a', 'b'] and model.name == 'm'
    with pytest.raises(UserError, match="did you mean 'max_tokens'"): role_model(f'openai:{url}#m?max_token=x', None)


def test_a_server_that_has_moved_gets_the_prompt(endpoint):
    moved = Model('m', 'openai', endpoint().replace('/v1', '/moved'), 'm')
    assert [r.text for r, in chat([user('a')], moved, Sampling())] == ['a']


@pytest.mark.parametrize('asked', ['86400', 'inf', '1e300', 'nan', 'Wed, 21 Oct 99999 07:28:00 GMT', 'Wed, 21 Oct 2999 07:28:00 GMT'])
def test_nobody_waits_a_day(endpoint, monkeypatch, asked):
    monkeypatch.setattr('citrus.llm.protocol.LONGEST_WAIT', 0.2)
    began = time.time()
    with pytest.raises(UserError, match='429'): chat([user('x')], Model('busy', 'openai', endpoint(rate429=1.0, retry_after=asked), 'm', dict(tries=2, pause=0.01)), Sampling())
    assert time.time() - began < 10


def test_what_a_thinking_server_sends_is_read(endpoint):
    from citrus.llm.protocol import read_completion
    read = lambda finish='stop', usage=None, **message: read_completion(dict(choices=[dict(message=message, finish_reason=finish)], usage=usage), 0.1)
    assert parse_reply(read(reasoning_content='Hm.', content='<answer>Goat</answer>').text) == ('Hm.', 'Goat', '')
    for twice in ('<think>Hm.</think><answer>Goat</answer>', 'Hm.</think><answer>Goat</answer>', 'Hm.\n<answer>Goat</answer>'):
        assert parse_reply(read(reasoning='Hm.', content=twice).text) == ('Hm.', 'Goat', '')
    assert parse_reply(read(reasoning='<think>Hm.</think>', content='<answer>Goat</answer>').text) == ('Hm.', 'Goat', '')   # tags of its own
    assert read(reasoning='<think></think>', content='Goat').text == 'Goat'
    filtered = read('content_filter', content=None)
    assert (filtered.finish, filtered.text, read('content_filter', content='Go').text) == ('set aside: content_filter', '', 'Go')
    assert parse_reply(read('length', reasoning_content='Hm', content=None).text).problem == 'no answer'
    called = read('tool_calls', content=None, tool_calls=[dict(function=dict(name='f'))])
    assert (called.finish, parse_reply(called.text).problem) == ('tool_calls', 'empty')
    assert read(content='x', usage=dict(completion_tokens=float('nan'), prompt_tokens=7)).tokens == 1   # counted here
    read(content='\ud800').text.encode()
    for bad in ({}, dict(choices=[]), dict(choices=[dict(message=dict(content=3))]), dict(error='no'), [], None, 'text'):
        with pytest.raises((ValueError, KeyError, TypeError, IndexError, AttributeError)): read_completion(bad, 0.1)


def test_ten_megabytes(endpoint):
    text = '<think>' + 'a ' * 5_000_000 + '</think><answer>b</answer>'
    (reply,), = chat([user(text)], Model('big', 'openai', endpoint(), 'm'), Sampling())
    assert parse_reply(reply.text) == (text[7:-26].strip(), 'b', '')


def test_keeps_up_with_a_plain_client(endpoint, capsys):
    "Measured, and held to half of it only: this machine may be busy"
    import aiohttp
    url, n = endpoint(latency=0.2, spread=0.5), 400

    async def plain():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32)) as client:
            async def one(i):
                async with client.post(f'{url}/chat/completions', json=dict(messages=user(f'plain {i}'))) as r: await r.json()
            await asyncio.gather(*map(one, range(n)))
    began = time.time()
    asyncio.run(plain())
    bare, began = time.time() - began, time.time()
    chat([user(f'door {i}') for i in range(n)], Model('m', 'openai', url, 'm', dict(connections=32)), Sampling())
    with capsys.disabled(): print(f'\nplain client {n / bare:.0f} replies/s, door {n / (time.time() - began):.0f}, n = {n}, 32 at once')
    assert time.time() - began < 2 * bare


# --- kills and interrupts --------------------------------------------------------------------------------------------

WORK = """
import sys
sys.path.insert(0, {here!r})
from test_chat import three_turns, converse, Model
three_turns.model = Model('m', 'openai', {url!r}, 'm', dict(connections=8, pause=0.05))
print(converse(three_turns, [f'w{{i}}' for i in range(60)]))
"""


def test_killed_and_interrupted_runs_go_on(endpoint, tmp_path):
    url = endpoint(latency=0.03, spread=0.9)
    work = [sys.executable, '-c', WORK.format(here=str(HERE), url=url)]
    for kill, sent in enumerate((signal.SIGKILL, signal.SIGINT, signal.SIGKILL)):
        p = subprocess.Popen(work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))   # also where the tests run in the background
        began = time.time()
        while stats(url)['answered'] < 30 * (kill + 1) and time.time() - began < 60: time.sleep(0.01)
        p.send_signal(sent)
        assert p.wait(20) != 0
    done = subprocess.run(work, capture_output=True, text=True)
    assert done.stdout.strip() == str([f'w{i} 0 1 2' for i in range(60)]), done.stderr[-2000:]
    counts = stats(url)
    keys = Counter(r['key'] for r in rows(Model('m', 'openai', url, 'm')))
    assert len(keys) == 180 and set(keys.values()) == {1}
    assert counts['repeated'] <= 3 * 8, counts   # only what was under way


def test_an_error_keeps_what_was_said(endpoint):
    model = Model('m', 'openai', endpoint(latency=0.02, spread=0.5), 'm')

    async def talk(door, i):
        first, = await door.ask(user(f'{i}'), model, Sampling())
        if i == 7: raise ValueError('seven')
        return (await door.ask(user(f'{first.text} again'), model, Sampling()))[0].text
    with pytest.raises(ValueError, match='seven'): converse(talk, range(16))
    written = len(rows(model))
    assert 0 < written < 32
    assert sum(r.cached for r, in chat([user(f'{i}') for i in range(16)], model, Sampling())) + sum(' again' in r['text'] for r in rows(model)[:written]) == written


def test_an_error_of_a_back_end(monkeypatch):
    def broken(model, sampling, prompts):
        yield 0, Reply('one', 1, 'stop', 0.0)
        raise MemoryError('no room')

    def lazy(model, sampling, prompts): yield 0, Reply('one', 1, 'stop', 0.0)
    monkeypatch.setitem(BACKENDS, 'broken', broken)
    monkeypatch.setitem(BACKENDS, 'lazy', lazy)
    with pytest.raises(MemoryError): chat([user('a'), user('b')], Model('b', 'broken'), Sampling())
    assert [r['text'] for r in rows(Model('b', 'broken'))] == ['one']
    with pytest.raises(UserError, match='left 1 of 2 prompts unanswered'): chat([user('a'), user('b')], Model('l', 'lazy'), Sampling())


# --- conversations ---------------------------------------------------------------------------------------------------

@pytest.fixture
def echo(monkeypatch):
    "A batch back-end that notes the size of its batches"
    sizes = []

    def back_end(model, sampling, prompts):
        sizes.append(len(prompts))
        for i in reversed(range(len(prompts))): yield i, Reply(prompts[i][0][-1]['content'], 3, 'stop', 0.0)
    monkeypatch.setitem(BACKENDS, 'echo', back_end)
    return sizes


def test_inside_a_running_loop(echo):
    three_turns.model = Model('e', 'echo')
    async def notebook(): return converse(three_turns, ['a', 'b'])
    assert asyncio.run(notebook()) == ['a 0 1 2', 'b 0 1 2'] and echo == [2, 2, 2]


def test_a_conversation_may_ask_several_at_once(echo, endpoint):
    models = Model('e', 'echo'), Model('m', 'openai', endpoint(latency=0.01), 'm')

    async def talk(door, i):
        for turn in range(3): replies = await asyncio.gather(*(door.ask(user(f'{i} {turn}'), m, Sampling()) for m in models))
        return [r.text for r, in replies]
    assert converse(talk, range(5)) == [[f'{i} 2'] * 2 for i in range(5)]
    assert sum(echo) == 15


def test_the_same_question_of_many_is_asked_once(echo):
    async def talk(door, _): return (await door.ask(user('same'), Model('e', 'echo'), Sampling(n=2)))[1].text
    assert converse(talk, range(50)) == ['same'] * 50 and echo == [2]


def test_budget_in_tokens_is_never_overdrawn(echo):
    three_turns.model = Model('e', 'echo')
    small = Budget(tokens=20)
    with pytest.raises(UserError, match='budget of 20 tokens is spent'):
        converse(lambda door, i: door.ask(user(f'{i}'), Model('e', 'echo'), Sampling(max_tokens=5)), range(20), small)
    assert small.table()[0]['tokens'] == 18 and small.table()[0]['calls'] == 6
    with pytest.raises(UserError): chat([user('0')], Model('e', 'echo'), Sampling(max_tokens=21), budget=Budget(tokens=20))


def test_budget_counts_what_the_ledger_holds(endpoint):
    url = endpoint(latency=0.01, spread=0.9)
    three_turns.model = Model('m', 'openai', url, 'm')
    for _ in range(3):
        with pytest.raises(UserError, match='the budget of 20 replies is spent'): converse(three_turns, [f'w{i}' for i in range(10)], Budget(calls=20))
        assert stats(url)['answered'] == 20
    assert converse(three_turns, [f'w{i}' for i in range(10)], Budget(calls=30)) == [f'w{i} 0 1 2' for i in range(10)]
    assert stats(url)['answered'] == 30


# --- the ledger ------------------------------------------------------------------------------------------------------

def test_two_processes_get_the_same_words(endpoint):
    url = endpoint(latency=0.02)
    work = [subprocess.Popen([sys.executable, '-c', WORK.format(here=str(HERE), url=url)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({p.communicate()[0] for p in work}) == 1
    keys = [r['key'] for r in rows(Model('m', 'openai', url, 'm'))]
    assert len(keys) == len(set(keys)) == 180


def test_a_damaged_line_is_named_and_removed(tmp_path):
    path = tmp_path / 'ledger.jsonl'
    Ledger(path).add([dict(key='a', text='1'), dict(key='b', text='2')])
    path.write_bytes(path.read_bytes().replace(b'"text": "1"', b'"text" "1"') + b'\0\0\0\n[1]\n{"key": 3}\n')
    ledger = Ledger(path)
    with pytest.raises(UserError, match='byte 0 is damaged'): ledger.get('a')
    assert ledger.get('b')['text'] == '2'
    assert ledger.compact() == dict(kept=1, dropped=4) and list(Ledger(path).where) == ['b']


def test_flags_are_part_of_the_key():
    plain, flagged = Model('m', 'openai', 'u', 'r'), Model('m', 'openai', 'u', 'r', flags=dict(reasoning_effort='low'))
    assert reply_key(plain, Sampling(), user('a'), 0) != reply_key(flagged, Sampling(), user('a'), 0) and ledger_path(plain) != ledger_path(flagged)
    assert reply_key(plain, Sampling(), user('a'), 0) == reply_key(Model('other', 'openai', 'v', 'r', dict(connections=2)), Sampling(), user('a'), 0)
    assert not deterministic(plain)


def test_half_a_character_is_replaced(tmp_path):
    ledger = Ledger(tmp_path / 'l.jsonl')
    ledger.add([dict(key='a', text='half \ud83d of it')])
    assert Ledger(tmp_path / 'l.jsonl').get('a')['text'] == 'half ? of it'
