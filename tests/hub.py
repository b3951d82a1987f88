"A hub on this machine: what `datasets` and `huggingface_hub` ask of one, sets of every schema that recipes name, and the ways in which a server fails."
import hashlib
import json
import random
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = 'a' * 40
GATED = 'Access to this set is restricted. Log in, and ask for access on its page.'


class Hub(BaseHTTPRequestHandler):
    files, missing, failing = {}, set(), 0   # of goat/set: path: bytes; paths that are listed and not there; requests of files still to fail
    sets, gated = {}, set()                  # further sets, id: {path: bytes}; ids of those that need an account
    status, hanging, first = 500, set(), {}  # what a failing request gets; paths that never answer; path: how many more requests are answered before it fails for good
    sent = Counter()                         # path: GETs of a whole file or a part of it
    asked = set()                            # revisions that were asked for
    repos, blobs, parts = {}, {}, Counter()  # what was pushed, (type, id): {private, files {path: bytes}, commits}; LFS objects by hash; PUTs of each
    broken, left, wrong = '', 0, 401         # requests whose path has this in it fail after so many more, with this status

    def log_message(self, *args): pass

    def answer(self, status, body=b'', **headers):
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def listing(self, files, below, recursive):
        inside = {p: b for p, b in files.items() if p.startswith(f'{below}/' if below else '')}
        cut = lambda p: p[len(below) + 1 if below else 0:]
        folders = sorted({(f'{below}/' if below else '') + cut(p).split('/')[0] for p in inside if '/' in cut(p)})
        if recursive: folders = sorted({(f'{below}/' if below else '') + '/'.join(cut(p).split('/')[:k]) for p in inside for k in range(1, cut(p).count('/') + 1)})
        own = [p for p in inside if recursive or '/' not in cut(p)]
        return [dict(type='directory', path=f, oid=COMMIT, size=0) for f in folders] + [dict(type='file', path=p, size=len(inside[p]), oid=hashlib.sha1(inside[p]).hexdigest()) for p in own]

    def file(self, files, path, revision):
        if path not in files or path in self.missing: return self.answer(404, X_Error_Code='EntryNotFound')
        if path in self.hanging: threading.Event().wait(30)
        if self.command == 'GET':
            Hub.sent[path] += 1
            if path in Hub.first:
                Hub.first[path] -= 1
                if Hub.first[path] < 0: return self.answer(self.status)
            if Hub.failing:
                Hub.failing -= 1
                return self.answer(self.status)
        body, asked = files[path], re.match(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        start, end = (int(asked[1]), int(asked[2] or len(body) - 1)) if asked else (0, len(body) - 1)
        self.answer(206 if asked else 200, body[start:end + 1], ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=COMMIT if revision == 'main' else revision,
                    Accept_Ranges='bytes', Content_Range=f'bytes {start}-{end}/{len(body)}')

    def do_GET(self):
        path, _, query = self.path.partition('?')
        path = unquote(path)
        named = re.search(r'(?:datasets|models)?/?([\w.-]+/[\w.-]+)(?:/(resolve|tree|revision)/([^/]+)/?(.*))?$', re.sub('^/(api/)?', '', path).replace('datasets/', '').replace('models/', ''))
        id, what, revision, rest = named.groups() if named else ('', '', '', '')
        sets = {'goat/set': self.files} | self.sets | {id: repo['files'] for (_, id), repo in self.repos.items()}
        if id not in sets: return self.answer(404, b'{}', X_Error_Code='RepoNotFound')
        if revision: Hub.asked.add((id, revision))
        about = dict(id=id, sha=COMMIT if revision in (None, 'main', COMMIT) else revision, private=False, gated='auto' if id in self.gated else False, disabled=False, downloads=0, likes=0, tags=[],
                     siblings=[dict(rfilename=p) for p in sets[id]])
        if id in self.gated and what == 'resolve': return self.answer(403, GATED.encode(), X_Error_Code='GatedRepo', X_Error_Message=GATED)
        if what == 'resolve': return self.file(sets[id], rest, revision)
        body = self.listing(sets[id], rest.rstrip('/'), 'recursive=true' in query.lower()) if what == 'tree' else about
        self.answer(200, json.dumps(body).encode(), Content_Type='application/json')

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        if self.refused(): return self.answer(Hub.wrong, b'{"error": "no"}', Content_Type='application/json')
        if '/paths-info/' in self.path: return self.known(body.decode())
        if self.path == '/api/repos/create': return self.create(json.loads(body))
        if self.path == '/api/validate-yaml': return self.validate(json.loads(body))
        kind, id = self.pushed()
        if '/preupload/' in self.path: return self.preupload(kind, id, json.loads(body))
        if self.path.endswith('/objects/batch'): return self.batch(json.loads(body))
        if '/commit/' in self.path: return self.commit(kind, id, [json.loads(l) for l in body.splitlines()])
        self.answer(404, b'{}')

    def do_PUT(self):   # an LFS object, or settings
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0)) if 'Content-Length' in self.headers else self.chunks()
        if self.refused(): return self.answer(Hub.wrong)
        if self.path.endswith('/settings'):
            Hub.repos[self.pushed()]['private'] = json.loads(body).get('visibility') != 'public'
            return self.say({})
        Hub.parts[self.path] += 1
        assert hashlib.sha256(body).hexdigest() == self.path.split('/')[-1]
        Hub.blobs[self.path.split('/')[-1]] = body
        self.answer(200)

    def chunks(self):
        "A body that comes in pieces"
        body = b''
        while n := int(self.rfile.readline(), 16):
            body += self.rfile.read(n)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def say(self, value, status=200): self.answer(status, json.dumps(value).encode(), Content_Type='application/json')

    def refused(self):
        "Whether this request is one that fails; without a token every one that writes"
        if '/paths-info/' in self.path or self.path.startswith('/lfs/'): token = True
        else: token = self.headers.get('Authorization') == 'Bearer hf_goat'
        if not token: Hub.wrong = 401
        if Hub.broken and Hub.broken in self.path: Hub.left -= 1
        return not token or bool(Hub.broken and Hub.broken in self.path and Hub.left < 0)

    def pushed(self):
        "(type, id) of the repository that a path names"
        path = re.sub('^/(api/)?', '', self.path.partition('?')[0])
        kind = 'dataset' if path.startswith('datasets/') else 'model'
        return kind, re.match(r'(?:datasets/|models/)?([\w.-]+/[\w.-]+?)(?:\.git)?(?:/|$)', path)[1]

    def create(self, wanted):
        id = f"{wanted['organization']}/{wanted['name']}"
        key = wanted.get('type') or 'model', id
        there = key in Hub.repos
        Hub.repos.setdefault(key, dict(private=wanted.get('visibility') == 'private', files={}, commits=0))
        self.say(dict(url=f'http://{self.headers["Host"]}/{"datasets/" if key[0] == "dataset" else ""}{id}'), 409 if there else 200)

    def validate(self, card):
        "The head of a card as the hub reads it: YAML, with a licence, and results in the form of a model index"
        import yaml
        head = re.match(r'---\n(.*?)\n---\n', card['content'], re.S)
        try: data = yaml.safe_load(head[1])
        except (yaml.YAMLError, TypeError): return self.say(dict(errors=[dict(message='the head is no YAML')], warnings=[]), 400)
        faults = [] if isinstance(data.get('license'), str) else ['license is missing']
        for model in data.get('model-index', []):
            for r in model['results']: faults += [f'{k} is missing' for k in ('task', 'dataset', 'metrics') if not r.get(k)]
        base = data.get('base_model')
        if base and not re.fullmatch(r'[\w.-]+/[\w.-]+', base): faults.append(f'base_model: {base}')
        self.say(dict(errors=[dict(message=f) for f in faults], warnings=[]), 400 if faults else 200)

    def preupload(self, kind, id, wanted):
        if (kind, id) not in Hub.repos: return self.answer(404, X_Error_Code='RepoNotFound')
        there = Hub.repos[kind, id]['files']
        large = lambda path: path.endswith(('.safetensors', '.jsonl'))
        oid = lambda path: (hashlib.sha256(there[path]).hexdigest() if large(path) else hashlib.sha1(b'blob %d\0' % len(there[path]) + there[path]).hexdigest()) if path in there else None
        self.say(dict(files=[dict(path=f['path'], uploadMode='lfs' if large(f['path']) else 'regular', shouldIgnore=False, oid=oid(f['path'])) for f in wanted['files']]))

    def batch(self, wanted):
        upload = lambda oid: {} if oid in Hub.blobs else dict(actions=dict(upload=dict(href=f'http://{self.headers["Host"]}/lfs/{oid}')))
        self.say(dict(transfer='basic', objects=[o | upload(o['oid']) for o in wanted['objects']]))

    def commit(self, kind, id, lines):
        import base64
        repo = Hub.repos[kind, id]
        for line in lines:
            if line['key'] == 'file': repo['files'][line['value']['path']] = base64.b64decode(line['value']['content'])
            if line['key'] == 'lfsFile': repo['files'][line['value']['path']] = Hub.blobs[line['value']['oid']]
        repo['commits'] += 1
        self.say(dict(commitUrl=f'http://{self.headers["Host"]}/{id}/commit/{COMMIT}', commitOid=COMMIT))

    def known(self, body):   # `paths-info`: what is known of some paths
        id = re.search(r'datasets/([\w.-]+/[\w.-]+)/', self.path)[1]
        files = ({'goat/set': self.files} | self.sets)[id]
        paths = re.findall(r'paths=([^&]+)', body)
        known = [e for e in self.listing(files, '', True) if e['path'] in [p.replace('%2F', '/') for p in paths]]
        self.answer(200, json.dumps(known).encode(), Content_Type='application/json')


def serve():   # Address
    "Start the hub"
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{server.server_port}'


# --- rows of every schema that recipes name ------------------------------------------------------------------------------

def lines(*rows): return ''.join(json.dumps(r) + '\n' for r in rows).encode()


def turns(*texts): return [{'from': ('human', 'gpt')[i % 2], 'value': t} for i, t in enumerate(texts)]


def messages(*texts): return [dict(role=('user', 'assistant')[i % 2], content=t) for i, t in enumerate(texts)]


LETTERS = 'ABCDEFGHIJKLMNOPQRSTU'
GOATS = 'The goats of the valley climb the trees with the others, and they have to be down at night. '
FOUR = dict(opa='Goat', opb='Cow', opc='Ant', opd='Owl')
QUESTION = 'Which of these climbs trees in the valley, and has to be down at night?'
THINK = '<think>Cows do not.</think>\n<answer>Goat</answer>'


def card(split='train', **configs):   # name: pattern of its files
    "The card of a set that says which files each configuration has"
    entry = lambda name, files: f'- config_name: "{name}"\n  data_files:\n  - split: {split}\n    path: "{files}"\n'
    return f'---\nconfigs:\n{"".join(entry(*c) for c in configs.items())}---\nA set of goats.\n'.encode()


def schema_sets(n=3):   # id: {path: bytes}
    "Sets with the fields of those that recipes name, and n rows in each file"
    text = lambda k, i: f'{GOATS * 3}Tree {i} of valley {k}.'
    many = lambda row: lines(*(row(i) for i in range(n)))
    return {
        'BAAI/Infinity-Instruct': {'README.md': card(**{c: f'{c}/*' for c in ('7M', 'Gen', '0625', '7M_core')})}
        | {f'{c}/train.jsonl': many(lambda i: dict(id=i, conversations=turns(f'{QUESTION} {c} {i}', 'Goats.'), label=dict(a=1), langdetect='en', source='goats')) for c in ('7M', 'Gen', '0625', '7M_core')},
        'jdh-algo/Citrus_S3': {'dataset_info.json': b'{"config_name": "default"}', 'metadata.json': b'{"pretty_name": "Citrus_S3"}', 'data/Citrus_S3.jsonl': many(lambda i: dict(input=f'{QUESTION} {i}', output=THINK))},
        'jdh-algo/JMED': {'JMED.jsonl': many(lambda i: dict(id=i, department='goats', question=f'{QUESTION} {i}', options={l: f'Goat {l}' for l in LETTERS}, answer=['B']))},
        'FreedomIntelligence/medical-o1-reasoning-SFT': {'README.md': card(en='en.json', zh='zh.json')} | {f'{l}.json': json.dumps([dict(Question=f'{QUESTION} {i}', Complex_CoT='Cows do not.', Response='Goat') for i in range(n)]).encode() for l in ('en', 'zh')},
        'FreedomIntelligence/medical-o1-verifiable-problem': {'medical_o1_verifiable_problem.json': json.dumps([{'Open-ended Verifiable Question': f'{QUESTION} {i}', 'Ground-True Answer': 'Goat'} for i in range(n)]).encode()},
        'FreedomIntelligence/HuatuoGPT2-Pretraining-Instruction': {'README.md': card(**{f'Meidcal_{name}': f'data/{name}.json' for name in ('Encyclopedia_en', 'Encyclopedia_cn', 'Books_en')})}
        | {f'data/{name}.json': json.dumps([dict(id=i, conversations=turns('Goats?', text(name, i))) for i in range(n)]).encode() for name in ('Encyclopedia_en', 'Encyclopedia_cn', 'Books_en', 'Books_cn')},
        'MedRAG/textbooks': {f'chunk/Goats_{k}.jsonl': many(lambda i: dict(id=f'{k}_{i}', title='Goats', content=text(k, i), contents=text(k, i))) for k in range(18)},
        'MedRAG/pubmed': {f'chunk/pubmed23n{k:04}.jsonl': many(lambda i: dict(id=f'{k}_{i}', title='Goats', content=text(k, i), contents=text(k, i), PMID=i)) for k in range(70)},
        'epfl-llm/guidelines': {'open_guidelines.jsonl': many(lambda i: dict(id=f'g{i}', source='farm', title='Climbing', clean_text=text('g', i), raw_text='', url='', overview=''))},
        'HuggingFaceFW/fineweb-edu': {f'data/CC-{k}/train.jsonl': many(lambda i: dict(text=text(k, i), id=f'f{k}{i}', url='http://goats.org', language='en')) for k in range(2)},
        'BAAI/CCI3-HQ': {f'data/part_{k:06}.jsonl': many(lambda i: dict(id=f'c{k}{i}', text=f'山羊会爬树。{i}' * 20, score=3.0)) for k in range(2)},
        'CASIA-LM/ChineseWebText2.0': {'test.jsonl': b'{"other": 1}\n'} | {f'ChineseWebText2.0/0/{k}.jsonl': many(lambda i: dict(text=f'山羊在夜里要下来。{i}' * 20, quality_score=0.9)) for k in range(2)},
        'GAIR/MathPile': {f'train/textbooks/{k}.jsonl': many(lambda i: dict(text=text(k, i), meta=dict(a=1))) for k in range(2)} | {'validation/textbooks/0.jsonl': lines(dict(text='x'))},
        'bigcode/the-stack-dedup': {f'data/python/data-0000{k}.jsonl': many(lambda i: dict(hexsha=f's{k}{i}', content=f'print("goat {k} {i}")\n' * 5)) for k in range(2)},
        'openai/gsm8k': {'README.md': card(main='main/train.jsonl', socratic='socratic/train.jsonl')} | {f'{c}/train.jsonl': many(lambda i: dict(question=f'How many goats climb tree {i}?', answer=f'All of <<2+2=4>>4 do.\n#### {i}')) for c in ('main', 'socratic')},
        'deepmind/aqua_rat': {'README.md': card(raw='raw/train.jsonl')} | {'raw/train.jsonl': many(lambda i: dict(question=f'How many goats climb tree {i}?', options=['A)2', 'B)4', 'C)6', 'D)8', 'E)10'], rationale='Two and two are four. Answer: B', correct='B'))},
        'GBaker/MedQA-USMLE-4-options': {f'phrases_no_exclude_{s}.jsonl': many(lambda i: dict(question=f'{QUESTION} {s} {i}', options=dict(A='Goat', B='Cow', C='Ant', D='Owl'), answer_idx='A', answer='Goat', meta_info='step1', metamap_phrases=['goat'])) for s in ('train', 'test')},
        'openlifescienceai/medmcqa': {f'data/{s}.jsonl': many(lambda i: FOUR | dict(id=f'{s}{i}', question=f'{QUESTION} {s} {i}', cop=0, subject_name='Goats', exp='')) for s in ('train', 'validation', 'test')},
        'qiaojin/PubMedQA': {'README.md': card(pqa_labeled='pqa_labeled/train.jsonl')} | {'pqa_labeled/train.jsonl': many(lambda i: dict(pubid=i, question=f'Do goats climb tree {i}?', context=dict(contexts=[GOATS]), final_decision='yes', long_answer='They do.'))},
        'HPAI-BSC/CareQA': {'README.md': card('test', CareQA_en='CareQA_en.json')} | {'CareQA_en.json': many(lambda i: {f'op{k}': t for k, t in enumerate(['Goat', 'Cow', 'Ant', 'Owl'], 1)} | dict(question=f'{QUESTION} {i}', cop=1, category='Goats', year=2024, unique_id=f'u{i}', exam_id=1))},
        'TIGER-Lab/MMLU-Pro': {f'data/{s}.jsonl': many(lambda i: dict(question_id=i, question=f'{QUESTION} {i}', options=['Goat', 'Cow'], answer='A', answer_index=0, category='health', src='goats')) for s in ('test', 'validation')}}


# --- what a rehearsal reads: the same schemas, with text that passes the filters and rows that are unlike each other ---------

SYLLABLES = 'ba be bi bo da de di do ka ke ki ko la le li lo ma me mi mo na ne ni no ra re ri ro ta te ti to va ve vi vo'.split()
CHINESE = '山羊 树木 夜里 医生 病人 发热 咳嗽 检查 结果 显示 血压 升高 治疗 之后 症状 减轻 我们 认为 需要 继续 观察 因为 没有 其他 原因 可以 解释 这种 情况 所以 建议 休息 多喝 开水'.split()


class Words:
    "Text of real abstracts, of which no sentence comes twice, and invented names"
    def __init__(self, seed=0):
        from citrus.data.abstracts import abstracts_2021
        self.rng = random.Random(seed)
        self.sentences = (s for d in abstracts_2021() for s in re.split(r'(?<=[.])\s+(?=[A-Z])', d['text']) if 60 < len(s) < 300)

    def name(self): return ''.join(self.rng.choice(SYLLABLES) for _ in range(4)).capitalize() + ' disease'
    def text(self, n): return ' '.join(next(self.sentences) for _ in range(n))
    def chinese(self, n): return ''.join(''.join(self.rng.choice(CHINESE) for _ in range(9)) + '。' for _ in range(n))
    def stem(self): return f'{self.text(2)} What is the most likely diagnosis?'
    def exam(self): return f'A patient has {" and ".join(self.name() for _ in range(8))}. What is the most likely diagnosis?'
    def options(self): return [self.name() for _ in range(4)]


def rehearsal_sets(n=40):   # id: {path: bytes}
    "What the recipes read, a little of it"
    w = Words()
    few = max(1, n // 8)
    rows = lambda make, count=n: lines(*(make(i) for i in range(count)))
    four = lambda: dict(zip(('opa', 'opb', 'opc', 'opd'), w.options()))

    def medqa(stem):
        options = dict(zip('ABCD', w.options()))
        return dict(question=stem, options=options, answer_idx='A', answer=options['A'], meta_info='step1', metamap_phrases=[])
    talk = lambda i: dict(id=i, conversations=turns(w.text(1), w.text(2), w.text(1), w.text(1)), label={}, langdetect='en', source='x')
    think = lambda: f'<think>{w.text(3)}</think>\n<answer>{w.name()}</answer>'
    late = dict(id='late', conversations=[{'from': 'gpt', 'value': w.text(1)}, {'from': 'human', 'value': w.text(1)}])   # begins with the assistant
    sets = schema_sets(few)
    sets['BAAI/Infinity-Instruct'] |= {f'{c}/train.jsonl': rows(talk, 3) + lines(late) + rows(talk) for c in ('7M', 'Gen')}
    sets['jdh-algo/Citrus_S3']['data/Citrus_S3.jsonl'] = rows(lambda i: dict(input=w.stem(), output=think()))
    sets['jdh-algo/JMED']['JMED.jsonl'] = rows(lambda i: dict(id=i, department='x', question=w.chinese(4), options={l: w.name() for l in LETTERS}, answer=['B']), 1000)
    sets['MedRAG/textbooks'] = {f'chunk/Book_{k}.jsonl': rows(lambda i: dict(id=f'{k}_{i}', title='Book', content=w.text(6), contents=''), few) for k in range(18)}
    sets['MedRAG/pubmed'] = {f'chunk/pubmed23n{k:04}.jsonl': rows(lambda i: dict(id=f'{k}_{i}', title='x', content=w.text(6), contents='', PMID=i), few) for k in range(8)}
    sets['epfl-llm/guidelines']['open_guidelines.jsonl'] = rows(lambda i: dict(id=f'g{i}', source='x', title='x', clean_text=w.text(6), raw_text='', url='', overview=''))
    sets['HuggingFaceFW/fineweb-edu'] = {f'data/CC-{k}/train.jsonl': rows(lambda i: dict(text=w.text(6), id=f'f{k}{i}', url='http://x.org', language='en')) for k in range(2)}
    sets['BAAI/CCI3-HQ'] = {f'data/part_{k:06}.jsonl': rows(lambda i: dict(id=f'c{k}{i}', text=w.chinese(20), score=3.0)) for k in range(2)}
    sets['CASIA-LM/ChineseWebText2.0'] = {f'ChineseWebText2.0/0/{k}.jsonl': rows(lambda i: dict(text=w.chinese(20), quality_score=0.9)) for k in range(2)}
    medical_zh = json.dumps([dict(id=i, conversations=turns(w.chinese(1), w.chinese(20))) for i in range(n)]).encode()
    sets['FreedomIntelligence/HuatuoGPT2-Pretraining-Instruction']['data/Encyclopedia_cn.json'] = medical_zh
    sets['GAIR/MathPile'] = {f'train/textbooks/{k}.jsonl': rows(lambda i: dict(text=w.text(6), meta={})) for k in range(2)}
    code = lambda i: '\n'.join(f'def {w.name().split()[0].lower()}(a, b):\n    "{w.text(1)}"\n    return a + {i} * b\n' for _ in range(4))
    sets['bigcode/the-stack-dedup'] = {f'data/python/data-0000{k}.jsonl': rows(lambda i: dict(hexsha=f's{k}{i}', content=code(i))) for k in range(2)}
    sets['openai/gsm8k'] |= {'main/train.jsonl': rows(lambda i: dict(question=f'{w.text(1)} How many are {i} and two?', answer=f'{w.text(1)}\n#### {i + 2}'))}
    sets['deepmind/aqua_rat']['raw/train.jsonl'] = rows(lambda i: dict(question=f'{w.text(1)} How many?', options=['A)2', 'B)4', 'C)6', 'D)8', 'E)10'], rationale=w.text(1), correct='B'))
    sets['GBaker/MedQA-USMLE-4-options'] = {'phrases_no_exclude_train.jsonl': rows(lambda i: medqa(w.stem())), 'phrases_no_exclude_test.jsonl': rows(lambda i: medqa(w.exam()), 1273)}
    sets['openlifescienceai/medmcqa'] = {f'data/{s}.jsonl': rows(lambda i: four() | dict(id=f'{s}{i}', question=w.stem() if s == 'train' else w.exam(), cop=0, subject_name='x', exp=''), count) for s, count in (('train', n), ('validation', 4183), ('test', few))}
    sets['qiaojin/PubMedQA']['pqa_labeled/train.jsonl'] = rows(lambda i: dict(pubid=i, question=w.exam(), context=dict(contexts=[w.exam()]), final_decision='yes', long_answer='x'), 1000)
    sets['HPAI-BSC/CareQA']['CareQA_en.json'] = json.dumps([dict(zip(('op1', 'op2', 'op3', 'op4'), w.options())) | dict(question=w.exam(), cop=1, category='x', year=2024, unique_id=f'u{i}', exam_id=1) for i in range(5621)]).encode()
    sets['TIGER-Lab/MMLU-Pro']['data/test.jsonl'] = rows(lambda i: dict(question_id=i, question=w.exam(), options=w.options(), answer='A', answer_index=0, category='health' if i < 818 else 'biology', src='x'), 818 + 717)
    return sets


LLAMA = dict(architectures=['LlamaForCausalLM'], model_type='llama', hidden_act='silu', rms_norm_eps=1e-5, rope_theta=5e5, max_position_embeddings=131072, tie_word_embeddings=False, torch_dtype='bfloat16',
             rope_scaling=dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192, rope_type='llama3'))
SHAPES = {   # hidden, layers, heads, key heads, feed-forward, vocabulary
    'meta-llama/Llama-3.1-8B': (4096, 32, 32, 8, 14336, 128256), 'meta-llama/Llama-3.1-8B-Instruct': (4096, 32, 32, 8, 14336, 128256), 'meta-llama/Llama-3.1-70B': (8192, 80, 64, 8, 28672, 128256),
    'Qwen/Qwen2.5-72B': (8192, 80, 64, 8, 29568, 152064), 'Qwen/Qwen2.5-72B-Instruct': (8192, 80, 64, 8, 29568, 152064), 'Qwen/Qwen2.5-7B-Instruct': (3584, 28, 28, 4, 18944, 152064),
    'HuggingFaceTB/SmolLM2-1.7B-Instruct': (2048, 24, 32, 32, 8192, 49152)}


def rehearsal_models(folder):   # folder: a model whose tokenizer they have; id: {path: bytes}
    "Configurations and tokenizers of the models that recipes name, without weights; base models have no chat template"
    models = {}
    for id, (hidden, layers, heads, keys, mlp, vocab) in SHAPES.items():
        kind = dict(LLAMA) if 'Llama' in id or 'SmolLM' in id else {k: v for k, v in LLAMA.items() if k != 'rope_scaling'} | dict(architectures=['Qwen2ForCausalLM'], model_type='qwen2')
        shape = dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=keys, intermediate_size=mlp, vocab_size=vocab)
        if 'SmolLM' in id: kind['tie_word_embeddings'] = True
        files = {'config.json': json.dumps(kind | shape).encode()} | {n: (folder / n).read_bytes() for n in ('tokenizer.json', 'tokenizer_config.json')}
        if 'nstruct' in id: files['chat_template.jinja'] = (folder / 'chat_template.jinja').read_bytes()
        models[id] = files
    return models


if __name__ == '__main__':   # python tests/hub.py MODEL_FOLDER: a hub with all that the recipes name, until its standard input closes
    import sys
    from pathlib import Path
    Hub.sets = rehearsal_sets() | rehearsal_models(Path(sys.argv[1]))
    print(serve(), flush=True)
    sys.stdin.read()
