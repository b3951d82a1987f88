"""Kill -9 the synthesis again and again, behind a server that misbehaves, and compare with a run that nobody disturbed.

python tests/kill_synth.py --questions 2000 --kills 10    (or: make kill-synth)

Both servers answer with the knowledge expert. The first only takes its time: its run gives the traces that are right, and its throughput against a plain client that keeps as many connections busy.
The second also says 429 and 500, hangs, and breaks off; the process that talks to it is killed at random moments, and started again, until it is done.
"""
import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
WELL = dict(spread=0.5)
ILL = WELL | dict(rate429=0.01, rate500=0.005, hang=0.0005, garbage=0.001, disconnect=0.001)


def server(knowledge, **how):
    "A loopback endpoint in a process of its own: (process, base URL)"
    flags = [str(x) for k, v in how.items() for x in (f'--{k}', v)]
    p = subprocess.Popen([sys.executable, str(HERE / 'endpoint.py'), '--knowledge', str(knowledge), *flags], stdout=subprocess.PIPE, text=True)
    return p, p.stdout.readline().strip()


def stats(url):
    with urllib.request.urlopen(f'{url.rsplit("/", 1)[0]}/stats') as r: return json.load(r)


def endpoint_model(url, connections):
    from citrus.llm.models import Model
    return Model('endpoint', 'openai', url, 'expert', dict(connections=connections, timeout=3, pause=0.05, tries=12))


def work(questions, knowledge, url, connections, out):
    "What the stage does with its questions: open, grade, select, reason, retell, verify; the traces in a file"
    from citrus.llm.door import converse
    from citrus.core.records import read_jsonl, write_jsonl
    from citrus.llm.roles import Cast
    from citrus.llm.opening import grade, graded, kept_easy, open_up
    from citrus.llm.look_up import library
    from citrus.synth import synthesise
    model = endpoint_model(url, connections)
    cast = Cast(model, model, model, library(knowledge, lambda: []))
    pool = [q | dict(open_stem=None) for q in read_jsonl(questions, 'question')]   # so that the rewriter has something to do
    opened = converse(lambda door, q: open_up(door, q, cast), pool)
    assert not any(why for _, why in opened)
    votes = converse(lambda door, q: grade(door, q[0], [(model, 4.0), (model, 8.0), (model, 12.0)], 0), opened)
    chosen = [q for q in graded([q for q, _ in opened], votes, 'all') if kept_easy(q, 0.25, 0)]
    began, before = time.time(), stats(url)['answered']
    write_jsonl(out, [trace for _, trace in converse(lambda door, q: synthesise(door, q, cast), chosen)], 'trace')
    return dict(chosen=len(chosen), seconds=time.time() - began, answered=stats(url)['answered'] - before)


def saturate(url, connections, n):
    "Replies a second that a plain client gets who keeps as many connections busy"
    import aiohttp

    async def client(todo, http):
        for i in todo:
            body = dict(messages=[dict(role='system', content=''), dict(role='user', content=f'Question {i}')], temperature=0, top_p=1, max_tokens=9, seed=i)
            async with http.post(f'{url}/chat/completions', json=body, raise_for_status=True) as r: await r.read()

    async def everyone():
        todo = iter(range(n))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http: await asyncio.gather(*(client(todo, http) for _ in range(connections)))
    began = time.time()
    asyncio.run(everyone())
    return n / (time.time() - began)


def start(arguments, home):
    "The synthesis in a process of its own"
    return subprocess.Popen([sys.executable, __file__, '--work', json.dumps(arguments)], env=os.environ | dict(CITRUS_HOME=str(home)), stdout=subprocess.PIPE, text=True)


def finished(process):
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return json.loads(out.strip().split('\n')[-1])


def compare(questions, knowledge, kills, connections=32, latency=0.1, plain=0, seed=0):
    "Both runs: what was lost, doubled, changed, repeated, and how fast the undisturbed one was"
    with tempfile.TemporaryDirectory() as tmp:
        tmp, rng = Path(tmp), random.Random(seed)
        calm, url = server(knowledge, latency=latency, **WELL)
        try:
            arguments = dict(questions=str(questions), knowledge=str(knowledge), connections=connections)
            calm_run = finished(start(arguments | dict(url=url, out=str(tmp / 'calm.jsonl')), tmp / 'calm'))
            rate = saturate(url, connections, plain) if plain else None
        finally: calm.kill()
        wild, url = server(knowledge, latency=latency, **ILL)
        try:
            arguments |= dict(url=url, out=str(tmp / 'wild.jsonl'))
            done = 0
            while done < kills:
                p = start(arguments, tmp / 'wild')
                try: p.wait(timeout=3 + rng.random() * calm_run['seconds'] / max(kills, 1))
                except subprocess.TimeoutExpired: done += 1
                else: break
                p.send_signal(signal.SIGKILL)
                p.wait()
            finished(start(arguments, tmp / 'wild'))
            seen = stats(url)
        finally: wild.kill()
        ids = lambda name: [json.loads(line)['id'] for line in (tmp / name).read_text().split('\n')[:-1]]
        a, b = ids('calm.jsonl'), ids('wild.jsonl')
        return dict(kills=done, traces=len(a), lost=len(set(a) - set(b)), doubled=len(b) - len(set(b)), identical=(tmp / 'calm.jsonl').read_bytes() == (tmp / 'wild.jsonl').read_bytes(),
                    repeated=seen['repeated'] / max(seen['answered'] - seen['repeated'], 1), server=seen, calls=calm_run['answered'], rate=calm_run['answered'] / calm_run['seconds'], plain=rate)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--questions', type=int, default=2000)
    p.add_argument('--kills', type=int, default=10)
    p.add_argument('--work', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.work: print(json.dumps(work(**json.loads(args.work))))
    else:
        from citrus.cases import choose_families
        from citrus.world.expert import knowledge_of, save_knowledge
        from citrus.world.families import load_world
        from citrus.world.questions import questions
        from citrus.core.records import write_jsonl
        with tempfile.TemporaryDirectory() as tmp:
            world = load_world('ORPHA')
            known, _ = choose_families(world, 16, 1, 0, 5, 8)
            save_knowledge(knowledge_of(world, known), Path(tmp) / 'knowledge.json')
            write_jsonl(Path(tmp) / 'questions.jsonl', questions(world, 'train', known, args.questions, 0, 5, 8, 4)[0], 'question')
            outcome = compare(Path(tmp) / 'questions.jsonl', Path(tmp) / 'knowledge.json', args.kills, connections=48, latency=0.2, plain=4800)
        print(json.dumps(outcome, indent=1))
        assert outcome['kills'] == args.kills and outcome['identical'] and not outcome['lost'] and not outcome['doubled'] and outcome['repeated'] <= 0.01 and outcome['rate'] >= 0.9 * outcome['plain']
