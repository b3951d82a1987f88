"""A server of the OpenAI protocol that answers at once or late, and misbehaves as it is told to; its counts are at `/stats`.

python tests/endpoint.py --port 0 --latency 0.05 --rate429 0.02 --knowledge PATH    (prints its base URL)
"""
import argparse
import asyncio
import hashlib
import json
import os
import random
import time

SHARES = dict(rate429='busy: 429 with Retry-After', rate500='broken: 500', hang='never answers', garbage='answers with something that is not JSON',
              disconnect='closes the connection in the middle of the answer')
STRICT = 'model messages temperature top_p max_completion_tokens'.split()   # fields that `--strict` knows


def echo(body): return body['messages'][-1]['content']


def expert(path):
    "Answers of the knowledge expert, as the back-end gives them"
    from citrus.world.expert import expert_model
    from citrus.llm.models import BACKENDS
    from citrus.llm.models import Sampling
    model = expert_model(path)

    def answer(body):
        sampling = Sampling(temperature=body['temperature'], top_p=body['top_p'], max_tokens=body['max_tokens'], seed=body['seed'])
        return next(reply for _, reply in BACKENDS['expert'](model, sampling, [(body['messages'], 0)])).text
    return answer


class Endpoint:
    def __init__(self, latency=0.0, spread=0.0, retry_after=0.1, seed=0, answer=echo, strict=0, uncounted=0, models='m', owner='', mixes=0, dies=0, token='', **shares):
        self.strict, self.uncounted, self.models, self.owner, self.mixes, self.dies, self.token = strict, uncounted, models, owner, mixes, dies, token
        self.latency, self.spread, self.retry_after, self.answer, self.shares = latency, spread, retry_after, answer, shares
        self.random, self.answered, self.busy, self.area, self.moved = random.Random(seed), set(), 0, 0.0, time.monotonic()
        self.stats = dict(requests=0, answered=0, repeated=0, busiest=0, at_once=0.0) | dict.fromkeys(SHARES, 0)

    def move(self, by):
        "One more or one less under way"
        now = time.monotonic()
        self.area, self.moved, self.busy = self.area + self.busy * (now - self.moved), now, self.busy + by
        self.stats['busiest'] = max(self.stats['busiest'], self.busy)
        self.stats['at_once'] = self.area   # request-seconds under way; divided by the time of a run: how full the server was

    def mishap(self):
        u = self.random.random()
        for name, share in self.shares.items():
            if u < share: return name
            u -= share

    async def complete(self, raw):   # (status, headers, body)
        self.stats['requests'] += 1
        what = self.mishap()
        if what: self.stats[what] += 1
        if what == 'rate429': return 429, f'Retry-After: {self.retry_after}\r\n', b'{"error": "slow down"}'
        if what == 'rate500': return 500, '', b'oh'
        if what == 'hang': await asyncio.sleep(3600)
        await asyncio.sleep(self.latency * self.random.uniform(1 - self.spread, 1 + self.spread))
        if what == 'garbage': return 200, '', b'<html>Welcome</html>'
        body = json.loads(raw)
        if 'forbidden' in body['messages'][-1]['content']: return 400, '', b'{"error": {"code": "content_filter", "message": "not this"}}'
        if self.strict and (unknown := [k for k in body if k not in STRICT]): return 400, '', json.dumps(dict(error=dict(message=f'unknown field {unknown[0]}'))).encode()
        text, name = self.answer(body), hashlib.sha256(raw).hexdigest()
        if self.mixes and 'repetition_penalty' not in body: text = f'mixed: {text}'   # as vLLM does with what the model's own file says
        answer = dict(choices=[dict(message=dict(role='assistant', content=text), finish_reason='stop')], usage=dict(completion_tokens=len(text.split()), prompt_tokens=len(raw) // 4))
        if self.uncounted: del answer['usage']
        if what == 'disconnect': return 200, '', None
        if self.dies and self.stats['answered'] >= self.dies: os._exit(1)
        self.stats['answered'] += 1
        self.stats['repeated'] += name in self.answered
        self.answered.add(name)
        return 200, '', json.dumps(answer).encode()

    async def client(self, reader, writer):
        try:
            while line := await reader.readline():
                headers = {}
                while (h := await reader.readline()) not in (b'\r\n', b''): headers[h.split(b':')[0].lower()] = h.split(b':', 1)[1].strip()
                raw = await reader.readexactly(int(headers.get(b'content-length', 0)))
                path, allowed = line.split()[1], not self.token or headers.get(b'authorization') == f'Bearer {self.token}'.encode()
                if path == b'/health': status, extra, body = 200, '', b'{}'
                elif not allowed: status, extra, body = 401, '', b'{"error": "no key"}'
                elif path == b'/v1/models': status, extra, body = 200, '', json.dumps(dict(data=[dict(id=m, owned_by=self.owner) for m in self.models.split(',')])).encode()
                elif path == b'/stats': status, extra, body = 200, '', json.dumps(self.stats).encode()
                elif line.split()[1].startswith(b'/moved'): status, extra, body = 301, f'Location: {line.split()[1].decode().replace("/moved", "/v1")}\r\n', b'gone'
                else:
                    self.move(1)
                    try: status, extra, body = await self.complete(raw)
                    finally: self.move(-1)
                writer.write(f'HTTP/1.1 {status} x\r\n{extra}Content-Type: application/json\r\nContent-Length: {99 if body is None else len(body)}\r\n\r\n'.encode() + (body or b'{"choi'))
                await writer.drain()
                if body is None: break
        except (ConnectionError, asyncio.IncompleteReadError): pass
        finally: writer.close()

    async def serve(self, port, started=lambda url: print(url, flush=True)):
        server = await asyncio.start_server(self.client, '127.0.0.1', port, backlog=1024, limit=1 << 24)
        started(f'http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1')
        async with server: await server.serve_forever()


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--port', type=int, default=0)
    p.add_argument('--latency', type=float, default=0.0, help='seconds before an answer')
    p.add_argument('--spread', type=float, default=0.0, help='share by which the latency varies')
    p.add_argument('--retry-after', default='0.1', help='seconds that a 429 asks for')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--strict', type=int, default=0, help='1: refuses fields that it does not know, `max_tokens` and `seed` among them')
    p.add_argument('--uncounted', type=int, default=0, help='1: does not count tokens')
    p.add_argument('--models', default='m', help='names of its models, with commas between them')
    p.add_argument('--owner', default='', help='who it says it is: vllm')
    p.add_argument('--mixes', type=int, default=0, help='1: adds sampling defaults to a request that does not speak of them')
    p.add_argument('--dies', type=int, default=0, help='ends after so many answers')
    p.add_argument('--token', default='', help='the key that it wants')
    p.add_argument('--knowledge', default='', help='knowledge.json of the stage `cases`: the expert answers instead of an echo')
    for name, doc in SHARES.items(): p.add_argument(f'--{name}', type=float, default=0.0, help=f'share of requests: {doc}')
    args = vars(p.parse_args())
    port, path = args.pop('port'), args.pop('knowledge')
    if path:
        import citrus.synth   # noqa: F401  its skills
        args['answer'] = expert(path)
    asyncio.run(Endpoint(**args).serve(port))
