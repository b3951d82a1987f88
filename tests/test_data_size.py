"Data at size: text and rows are read once, to files that all processes map; what a crash leaves is gone on with."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from citrus.core.files import UserError
from citrus.core.records import write_jsonl
from citrus.core.shards import each_job, line_shards, lines_between
from citrus.train.sampler import Stream, pack_documents, streams
from citrus.train.token_files import encode_documents, end_of_text, token_kind, TokenDocuments, tokenise_file

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
LLAMA3 = "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
MISTRAL = "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' else m['content'] + eos_token }}{% endfor %}"
WORDS = 'fever cough rash knee liver spine blood sleep pain fall'.split()


def tokenizer(special, eos, bos=None, first=False, template=None, more=0):
    "A tokenizer of words made on the spot, with the special tokens and the habits of a real one"
    from tokenizers import models, pre_tokenizers, processors, Tokenizer
    from transformers import PreTrainedTokenizerFast
    names = [*special, '?', *WORDS, *(f'w{i}' for i in range(more))]
    words = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, '?'))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(special)
    if first: words.post_processor = processors.TemplateProcessing(single=f'{bos} $A', special_tokens=[(bos, special.index(bos))])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=bos, eos_token=eos, unk_token='?', chat_template=template)


KINDS = dict(   # special tokens in the order of their numbers; the end of a text and, if it is written, its beginning
    llama_instruct=(dict(special=['<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>'], eos='<|eot_id|>', bos='<|begin_of_text|>', first=True, template=LLAMA3), '<|end_of_text|>', '<|begin_of_text|>'),
    llama_base=(dict(special=['<|begin_of_text|>', '<|end_of_text|>'], eos='<|end_of_text|>', bos='<|begin_of_text|>', first=True), '<|end_of_text|>', '<|begin_of_text|>'),
    qwen_instruct=(dict(special=['<|endoftext|>', '<|im_start|>', '<|im_end|>'], eos='<|im_end|>', template=CHATML), '<|endoftext|>', None),
    smollm_instruct=(dict(special=['<|endoftext|>', '<|im_start|>', '<|im_end|>'], eos='<|im_end|>', bos='<|im_start|>', template=CHATML), '<|endoftext|>', None),
    qwen_base_with_a_template=(dict(special=['<|endoftext|>', '<|im_start|>', '<|im_end|>'], eos='<|endoftext|>', template=CHATML), '<|endoftext|>', None),
    mistral=(dict(special=['<s>', '</s>'], eos='</s>', bos='<s>', first=True, template=MISTRAL), '</s>', '<s>'))
QWEN = KINDS['qwen_instruct'][0]


def corpus(path, n, seed=0):
    "A file of n documents of words"
    rng = np.random.default_rng(seed)
    texts = [' '.join(rng.choice(WORDS, rng.integers(0, 60))) for _ in range(n)]
    write_jsonl(path, [dict(id=str(i), source='x', text=t, domain='medical', lang='en', meta={}) for i, t in enumerate(texts)], 'document')
    return texts


# --- shards ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('size', [1, 7, 64, 1000, 10**6])
def test_every_line_is_in_one_shard(size, tmp_path):
    texts = ['', 'a', 'ä' * 40, '漢字', 'x' * 300] * 9
    (tmp_path / 'rows').write_text('\n'.join(texts) + '\n', encoding='utf-8')
    lines = [line.decode() for shard in line_shards(tmp_path / 'rows', size) for _, line in lines_between(tmp_path / 'rows', *shard)]
    assert lines == texts


def test_a_killed_process_ends_the_work_with_a_line():
    with pytest.raises(UserError, match='one of 2 processes was killed.*run again with fewer workers'): each_job(lambda i: os.kill(os.getpid(), signal.SIGKILL), [(0,), (1,)], 2)


# --- documents of pre-training ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', KINDS)
def test_a_document_ends_in_the_end_of_text_and_begins_as_the_tokenizer_begins(kind):
    "B6: the end of a turn is none of a document; what ends in `eos_token` and never begins would be refused here"
    settings, end, begin = KINDS[kind]
    t = tokenizer(**settings)
    [ids] = encode_documents(['fever cough'], t)
    assert t.convert_ids_to_tokens(ids.tolist()) == [*([begin] if begin else []), 'fever', 'cough', end]
    assert pack_documents(['fever', 'cough'], t, 1)[:, 0].tolist() == np.concatenate(encode_documents(['fever', 'cough'], t)).tolist()
    assert (t.eos_token == end) == ('instruct' not in kind), 'the control: of chat models `eos_token` is another'


def test_a_tokenizer_without_an_end_is_refused():
    with pytest.raises(UserError, match='no end token'): end_of_text(tokenizer(['<a>'], None))


def test_the_real_student_ends_documents_as_its_base_model_did(store):
    from transformers import AutoTokenizer
    from citrus.llm.student import micro
    if not (store / 'micro-student').exists(): micro(store / 'micro-student', 0)
    t = AutoTokenizer.from_pretrained(store / 'micro-student')
    assert t.convert_ids_to_tokens([end_of_text(t), t.eos_token_id]) == ['<|endoftext|>', '<|im_end|>']


@pytest.mark.parametrize('more, kind, size', [(0, 'uint8', 1), (1000, 'uint16', 2), (70_000, 'uint32', 4)])
def test_tokens_take_the_smallest_integer(more, kind, size, tmp_path):
    "A6: 2 to 4 bytes a token on the disk, where lists took 32 in memory, of each process"
    t, texts = tokenizer(**QWEN, more=more), corpus(tmp_path / 'web.jsonl', 300)
    folder = tokenise_file(str(tmp_path / 'web.jsonl'), t, tmp_path / 'tokens')
    tokens = sum(map(len, encode_documents(texts, t)))
    assert token_kind(t) == kind and size <= sum(p.stat().st_size for p in folder.iterdir()) / tokens < size + 0.5


@pytest.mark.parametrize('workers', [1, 3])
def test_mapped_text_is_drawn_as_text_in_memory(workers, tmp_path):
    "The same sequences in the same order as from lists, from shards of any size and by any number of processes"
    t, texts = tokenizer(**QWEN), corpus(tmp_path / 'web.jsonl', 200)
    listed = Stream(encode_documents(texts, t), 32, key=(3 << 32) + 1)
    corpus(tmp_path / 'notes.jsonl', 5)
    tokenise_file(str(tmp_path / 'web.jsonl'), t, tmp_path / 'tokens', workers, size=4000)
    arms = dict(notes=str(tmp_path / 'notes.jsonl'), web=str(tmp_path / 'web.jsonl'))
    _, mapped = streams(arms, t, 32, 3, tmp_path / 'tokens')
    assert len(mapped.documents.tokens) > 3 and isinstance(mapped.documents.tokens[0], np.memmap)
    assert mapped.tokens == listed.tokens and all(mapped.sequence(i).tolist() == listed.sequence(i).tolist() for i in range(3 * listed.tokens // 32))
    assert mapped.sequence(0).dtype == np.int32 and not mapped.documents.tokens[0].flags.writeable


def read_bytes_of(code, *args):
    "What a fresh process reads from files while a piece of code runs, after its imports"
    script = f"import re, sys\nfrom pathlib import Path\nfrom test_data_size import *\nt = tokenizer(**QWEN)\nread = lambda: int(re.search(r'rchar: (\\d+)', Path('/proc/self/io').read_text())[1])\nbefore = read()\n{code}\nprint(read() - before)"
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')]))
    return int(subprocess.run([sys.executable, '-c', script, *map(str, args)], env=env, capture_output=True, text=True, check=True).stdout.split()[-1])


def test_a_restart_reads_no_text_again(tmp_path):
    corpus(tmp_path / 'web.jsonl', 3000)
    code = "tokenise_file(sys.argv[1], t, Path(sys.argv[2]))"
    size = (tmp_path / 'web.jsonl').stat().st_size
    first, again = (read_bytes_of(code, tmp_path / 'web.jsonl', tmp_path / 'tokens') for _ in range(2))
    assert first > size > 400_000 and again < size / 50


def test_a_crash_in_the_middle_does_no_shard_twice(tmp_path):
    "A real kill -9 of the process and of its workers"
    path, cache = tmp_path / 'web.jsonl', tmp_path / 'tokens'
    texts = corpus(path, 6000)
    code = f"from test_data_size import *\ntokenise_file({str(path)!r}, tokenizer(**QWEN), Path({str(cache)!r}), 2, 20_000)"
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')]))
    first, until = subprocess.Popen([sys.executable, '-c', code], env=env, stderr=subprocess.DEVNULL), time.time() + 60
    while len(list(cache.glob('*/*.ends'))) < 3 and time.time() < until: time.sleep(0.005)
    first.kill()
    first.wait()
    time.sleep(0.3)
    done = {p: p.stat().st_mtime_ns for p in cache.glob('*/*.ends')}
    assert len(done) >= 3 and not list(cache.glob('*/tokens.json'))
    folder = tokenise_file(str(path), tokenizer(**QWEN), cache, 2, 20_000)
    assert len(list(folder.glob('*.ends'))) > len(done) and all(p.stat().st_mtime_ns == t for p, t in done.items())
    assert [TokenDocuments(folder)[i].tolist() for i in range(6000)] == [d.tolist() for d in encode_documents(texts, tokenizer(**QWEN))]


def test_a_changed_text_or_tokenizer_is_tokenised_again(tmp_path):
    path, cache = tmp_path / 'web.jsonl', tmp_path / 'tokens'
    corpus(path, 20)
    one = tokenise_file(str(path), tokenizer(**QWEN), cache)
    other = tokenise_file(str(path), tokenizer(**QWEN, more=5), cache)
    corpus(path, 20, seed=1)
    assert len({one, other, tokenise_file(str(path), tokenizer(**QWEN), cache)}) == 3
    (tmp_path / 'bad.jsonl').write_text('{"text": "a"}\n{"text"\n')
    with pytest.raises(UserError, match='bad.jsonl, byte 14: not JSON'): tokenise_file(str(tmp_path / 'bad.jsonl'), tokenizer(**QWEN), cache)


# --- rows of fine-tuning -------------------------------------------------------------------------------------------------

say = lambda who, text: dict(role=who, content=text)


@pytest.fixture(scope='module')
def student(store):
    from citrus.llm.student import micro
    if not (store / 'micro-student').exists(): micro(store / 'micro-student', 0)
    return store / 'micro-student'


def talk(i, rng): return dict(id=f'r{i}', stage=1, source=('coqa', 'mbpp')[i % 2], messages=[say('user', ' '.join(rng.choice(WORDS, rng.integers(1, 30)))), say('assistant', ' '.join(rng.choice(WORDS, rng.integers(1, 20))))])


BAD = {'begins with the assistant': [say('assistant', 'Hello.'), say('user', 'Hi'), say('assistant', 'Yes?')], 'unknown role': [say('tool', '17'), say('assistant', 'Good.')], 'ends without a reply': [say('user', 'a'), say('assistant', 'b'), say('user', 'c')],
       'no reply': [say('user', 'a')], 'empty reply': [say('user', 'a'), say('assistant', ' \n')], 'too long': [say('user', 'why ' * 200), say('assistant', 'b')], 'message without a text': [say('user', None), say('assistant', 'b')], 'no messages': 'Hi'}


def test_bad_rows_are_counted_with_their_reason_and_never_raised(student, tmp_path):
    "A10: each of these was an uncaught error, or an error that ended a run after hours"
    from citrus.sft import dialogue_encoder
    from citrus.train.arrow_rows import encode_file, encoded_counts, encoded_set
    rows = [talk(i, np.random.default_rng(i)) for i in range(50)]
    mixed = [r for i, r in enumerate(rows) for r in [r, *([dict(id='x', stage=1, source='web', messages=[*BAD.values()][i % 8])] if i < 16 else [])]]
    write_jsonl(tmp_path / 'rows.jsonl', mixed)
    encoder = dialogue_encoder(str(student), 160)
    folder = encode_file(str(tmp_path / 'rows.jsonl'), encoder, tmp_path / 'encoded')
    counts = encoded_counts(folder)
    assert counts['refused'] == dict.fromkeys(sorted(BAD), 2) and (counts['rows'], counts['used']) == (66, 50) and counts['sources'] == dict(coqa=25, mbpp=25, web=16)
    assert counts['tokens'] == sum(map(len, encoded_set(folder)['input_ids'])) and counts['sequences'] == len(encoded_set(folder))
    write_jsonl(tmp_path / 'none.jsonl', [dict(id='x', stage=1, source='web', messages=m) for m in BAD.values()])
    with pytest.raises(UserError, match='none of 8 rows can be used with 160 tokens .*unknown role.*raise sft.length'): encode_file(str(tmp_path / 'none.jsonl'), encoder, tmp_path / 'no')


def test_a_template_that_refuses_some_roles_refuses_rows_and_one_that_rewrites_replies_ends_the_run(student):
    from citrus.train.encoding import encode_row
    from transformers import AutoTokenizer
    t = AutoTokenizer.from_pretrained(student)
    t.chat_template = "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    assert encode_row([say('user', 'a'), say('user', 'b'), say('assistant', 'c')], t, 99) == (None, 'the chat template cannot write it') and not encode_row([say('user', 'a'), say('assistant', 'c')], t, 99)[1]
    t.chat_template = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}"
    with pytest.raises(UserError, match='rewrites replies'): encode_row([say('user', 'a'), say('assistant', '<think>b</think>c')], t, 99)


@pytest.mark.parametrize('packed', [True, False])
def test_rows_on_disk_are_those_that_the_trainer_would_make(packed, student, tmp_path):
    "The same sequences as TRL packs in memory, in the same order; mapped, four bytes a token and four a label; any number of processes gives the same"
    from datasets import Dataset
    from trl import pack_dataset
    from citrus.sft import dialogue_encoder
    from citrus.train.arrow_rows import DialogueEncoder, encode_file, encoded_counts, encoded_set
    from citrus.train.encoding import encode_rows
    rng = np.random.default_rng(0)
    rows = [talk(i, rng) for i in range(2300)]   # of which some are too long
    write_jsonl(tmp_path / 'rows.jsonl', rows, 'sft')
    encoder = DialogueEncoder(dialogue_encoder(str(student), 64).tokenizer, 64, packed)
    data = encoded_set(folder := encode_file(str(tmp_path / 'rows.jsonl'), encoder, tmp_path / 'one'))
    usable, _ = encode_rows(rows, encoder.tokenizer, 64)
    expected = pack_dataset(Dataset.from_list(usable), 64, 'bfd') if packed else Dataset.from_list(usable)
    assert data.column_names == expected.column_names and data[:] == expected[:] and data.cache_files
    size, tokens = sum(p.stat().st_size for p in folder.iterdir()), encoded_counts(folder)['tokens']
    assert 8 <= size / tokens < 9
    two = [encode_file(str(tmp_path / 'rows.jsonl'), encoder, tmp_path / f'{w}', w, size=100_000) for w in (1, 2)]
    assert [p.read_bytes() for p in sorted(two[0].glob('*.arrow'))] == [p.read_bytes() for p in sorted(two[1].glob('*.arrow'))] and len(list(two[0].glob('*.arrow'))) > 3


def test_a_training_reads_rows_that_others_encoded(student, tmp_path):
    "The launched processes get the folder; without it they make it beside the model, and it is gone with the checkpoint"
    from citrus.core.records import read_jsonl
    from citrus.sft import dialogue_encoder, fine_tune
    from citrus.train.arrow_rows import encode_file
    from citrus.train.checkpoints import companion
    rng = np.random.default_rng(0)
    write_jsonl(tmp_path / 'rows.jsonl', [*[talk(i, rng) for i in range(12)], dict(id='x', stage=1, source='web', messages=BAD['too long'])], 'sft')
    settings = dict(base=str(student), rows=str(tmp_path / 'rows.jsonl'), epochs=1, learning_rate=1e-3, global_batch=2, micro_batch=1, length=160, weight_decay=1e-4, beta2=0.95, clip=1.0, lora_rank=0, seed=0, checkpoint_seconds=9999.0, report_to='none')
    fine_tune(out=str(tmp_path / 'own'), **settings)
    data = encode_file(settings['rows'], dialogue_encoder(str(student), 160), tmp_path / 'shared')
    fine_tune(out=str(tmp_path / 'given'), data=str(data), **settings)
    own, given = (read_jsonl(tmp_path / f'{n}.history.jsonl') for n in ('own', 'given'))
    assert own == given and len(own) > 1 and data.exists() and not companion(tmp_path / 'own', 'rows').exists()
    record = json.loads((tmp_path / 'given' / 'training.json').read_text())
    assert (record['rows'], record['refused'], record['sources']) == (13, {'too long': 1}, dict(coqa=6, mbpp=6, web=1))


def sft_stage(tmp_path, monkeypatch, hub_id, stem):
    "A real stage over small folders, its second data set a folder that the hub's client reads"
    from citrus.core.store import Stage
    from citrus.data.hub import Adapter, dialogue_row, HUB
    monkeypatch.setenv('CITRUS_HOME', str(tmp_path / 'home'))
    rng = np.random.default_rng(1)
    folders = {n: tmp_path / n for n in ('cases', 'textbook', 'synth', 'pretrain')}
    files = dict(cases='facts', textbook='textbook', synth='sft3')
    for k, (stage, name) in enumerate(files.items()): write_jsonl(folders[stage] / f'{name}.jsonl', [talk(i, rng) | dict(id=f'{name}-{i}', extra=k) for i in range(30)] + [dict(id=f'{name}-bad', stage=1, source='coqa', messages=[say('user', stem), say('assistant', 'B')])], 'sft')
    turns = [dict(conversations=[{'from': 'human', 'value': f'{i}?'}, {'from': 'gpt', 'value': str(i)}]) for i in range(40)] + [dict(conversations=[{'from': 'goat', 'value': 'meh'}])] * 3
    write_jsonl(Path(hub_id) / 'train.jsonl', turns)
    monkeypatch.setitem(HUB, hub_id, Adapter('sft', lambda i, r: dialogue_row(f'hub-{i}', 1, 'goats', r)))
    params = dict(longest=1400, seed=3, textbook_rows=8, sft1_hub=hub_id, sft2_hub='', sft3_hub='', hub_rows=0, instruction_rows=5, dialogue_rows=6, again=0, workers=2, control=False)
    s = Stage('sft', 'run', params, {}, folders)
    s.dir.mkdir(parents=True)
    return s


def test_the_stage_writes_the_rows_it_always_wrote_and_reads_its_sources_once(store, tmp_path, monkeypatch):
    "Joined, drawn and shuffled by number, searched by two processes: row for row what lists gave. Rows of the hub that cannot be read are counted"
    import random
    from citrus.core.keys import digest
    from citrus.core.records import read_jsonl
    from citrus.data.contamination import build_index
    from citrus.data.hub import HUB
    from citrus.data.instructions import dialogues
    from citrus.sft import write_rows
    stem = 'A farmer with a swollen goat asks which of four rare poisons of the mountain meadow would stain its milk so blue'
    index = build_index(dict(toy=[dict(id='q', stem=stem, open_stem=None, context=None, options=[], answer=None)]))
    hub_id = str(tmp_path / 'set')
    s = sft_stage(tmp_path, monkeypatch, hub_id, stem)
    (tmp_path / 'home' / 'assets').symlink_to(store / 'assets')
    written = write_rows(s, index)
    draw = lambda rows, n: random.Random(digest(['sft', 3])).sample(rows, min(n, len(rows)))
    facts, textbook, traces = (s.read(stage, f'{name}.jsonl') for stage, name in dict(cases='facts', textbook='textbook', synth='sft3').items())
    goats = [dict(id=f'hub-{i}', stage=1, source='goats', messages=[say('user', f'{i}?'), say('assistant', str(i))]) for i in range(40)]
    sft1 = facts + draw(textbook, 8) + goats
    short = [r for r in dialogues() if sum(len(m['content']) for m in r['messages']) <= 1400]
    clean = lambda rows: [r for r in rows if r['messages'][0]['content'] != stem]
    expected = dict(sft1=clean(draw(sft1, len(sft1))), sft2=draw(short, 6), sft3=clean(traces))
    for name, rows in expected.items(): assert read_jsonl(s.dir / f'{name}.jsonl') == rows, name
    assert written['rows'] == {n: len(r) for n, r in expected.items()} and written['unreadable'] == 3 and 2 <= written['contaminated'] <= 3
    monkeypatch.delitem(HUB, hub_id)   # a second look at it would be an error
    state = {p: p.stat().st_mtime_ns for p in s.dir.glob('*.jsonl')}
    (s.dir / 'sft3.jsonl').unlink(), (s.dir / '.rows' / 'written.json').unlink()
    assert write_rows(s, index) == written and read_jsonl(s.dir / 'sft3.jsonl') == expected['sft3'] and len(state) == 3
    state = {p: p.stat().st_mtime_ns for p in s.dir.glob('*.jsonl')}
    assert write_rows(s, index) == written and state == {p: p.stat().st_mtime_ns for p in s.dir.glob('*.jsonl')}


def test_rows_by_number_are_never_all_in_memory(tmp_path):
    "Five times the rows, and the process grows by the places of the rows, 12 bytes each"
    import tracemalloc
    from citrus.data.row_files import row_file, RowList, seeded_sample
    peaks = []
    for n in (2000, 10_000):
        write_jsonl(tmp_path / f'{n}.jsonl', (dict(id=str(i), text='x' * 2000) for i in range(n)))
        tracemalloc.start()
        rows = seeded_sample(RowList([row_file(tmp_path / f'{n}.jsonl')]), n, 0)
        write_jsonl(tmp_path / 'out.jsonl', rows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 8000 * 100 < 10_000 * 2000 / 20


def test_files_are_hashed_without_being_held(tmp_path):
    import hashlib
    import tracemalloc
    from citrus.core.store import describe_file
    for name, data in dict(a=b'x\n' * 8_000_000, b=b'', c=b'1,2\n3').items():
        for ending in ('jsonl', 'csv', 'bin'):
            path = tmp_path / f'{name}.{ending}'
            path.write_bytes(data)
            tracemalloc.start()
            about = describe_file(path)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert about == dict(rows=dict(jsonl=data.count(b'\n'), csv=data.count(b'\n') - 1, bin=None)[ending], bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) and peak < 4 << 20


def test_the_study_runs_as_a_notebook(store):
    "What its processes run is found by them too, which the lessons do not try"
    import pandas as pd
    from conftest import MICRO, citrus_run
    from citrus.studies.sizes import MEASURED
    citrus_run(store, '--recipe', str(MICRO), '--only', 'sizes', '--name', 'sizes')
    folder = store / 'runs' / 'sizes' / 'sizes'
    table = pd.read_csv(folder / 'sizes.csv')
    assert set(map(tuple, table[['step', 'n']].to_numpy())) == {(step, n) for step in MEASURED for n in (10, 20, 40)}
    assert (table.cpu_seconds > 0).all() and (folder / 'figures' / 'sizes.png').stat().st_size
