"Data at size: text and rows are read once, to files that all processes map; what a crash leaves is gone on with."
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
