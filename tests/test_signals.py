"The hot path of cleaning: against slow definitions of our own, and against datatrove where it is installed."
import random
from collections import Counter

import numpy as np
import pytest
import xxhash

from citrus.data.general import python_docs
from citrus.studies.scale import decision_agreement, has_peer, side_by_side
from citrus.data.signatures import PRIME, band_file, band_type, permutations, shingles, signatures, write_signatures
from citrus.data.signals import QUALITY_RULES, measure_batch, filter_decisions
from citrus.data.batch import Batch
from citrus.data.lexicon import Lexicon
from citrus.data.tokens import tokenise

peer = pytest.mark.skipif(not has_peer(), reason='datatrove and spacy are not installed')


@pytest.fixture(scope='module')
def texts():
    rng = random.Random(0)
    real = [d['text'] for d in python_docs()]
    vocabulary = sorted(set(' '.join(real).split()))
    made = [' '.join(rng.choices(vocabulary[:rng.choice([5, 30, 3000])], k=rng.randint(1, 300))) for _ in range(100)]
    lines = ['\n'.join(rng.choices(made[0].split()[:20] + ['- item.', '• more...', 'We use cookies here.', 'Say lorem ipsum now.', 'A { brace closes.', '', 'It ended [12]. Then it began!'], k=20)) for _ in range(60)]
    return real[:120] + made + lines + ['', ' ', '\n\n', 'one', '...', '发热三天。咳嗽！', 'a' * 3000]


def slow_repetition(tokens, size):
    "Gopher's definitions, word by word"
    found = {}
    for n in range(2, 5):
        grams = [' '.join(tokens[i:i + n]) for i in range(len(tokens) - n + 1)]
        found[f'top_{n}gram'] = (lambda g: len(g[0]) * g[1])(Counter(grams).most_common(1)[0]) / size if grams else 0
    for n in range(5, 11):
        seen, i, again = set(), 0, 0
        while i < len(tokens) - n + 1:
            gram = tuple(tokens[i:i + n])
            if gram in seen: again += len(''.join(gram)); i += n
            else: seen.add(gram); i += 1
        found[f'repeated_{n}gram'] = again / max(size, 1)
    return found


def test_repetition_is_what_the_slow_definition_says(texts):
    table = measure_batch(Batch(texts, Lexicon()))
    for i, text in enumerate(texts):
        tokens = [t for piece in text.split() for t in tokenise(piece)]
        for name, value in slow_repetition(tokens, len(text)).items(): assert table[name][i] == pytest.approx(value), (name, text[:80])


def test_signature_is_the_smallest_of_each_function(texts):
    b = Batch(texts, Lexicon())
    have, sigs = signatures(b)
    factors, offsets = permutations(112, 1)
    for i, sig in list(zip(have, sigs))[::20]:
        rows = b.rows[b.piece_at[i]:b.piece_at[i + 1]]
        b.lexicon.spell(np.array(rows))
        words = ''.join(b.lexicon.plain[r] for r in rows).split()
        hashes = [xxhash.xxh64_intdigest(' '.join(words[k:k + 5]).encode()) for k in range(len(words) - 4)]
        slow = [min((h * int(a) + int(c)) % 2**64 % int(PRIME) for h in hashes) for a, c in zip(factors, offsets)]
        assert slow == sig.tolist()
    assert [x.tolist() for x in shingles([b'a b c', b'', b'a b c d e f'], 5)] == [[xxhash.xxh64_intdigest(b'a b c d e'), xxhash.xxh64_intdigest(b'b c d e f')], [0, 0, 2]]
    assert [len(x) for x in shingles([], 5)] == [0, 0]


def test_neither_the_batch_nor_a_full_table_changes_a_number(texts):
    all_of_them, small = Batch(texts, Lexicon()), Lexicon(capacity=50)
    whole, words, (have, sigs) = measure_batch(all_of_them), all_of_them.words(), signatures(all_of_them)
    signed = {i: [s] for i, s in zip(have.tolist(), sigs.tolist())}
    for i, text in enumerate(texts):
        b = Batch([text], small)
        alone = measure_batch(b)
        for name in QUALITY_RULES: assert alone[name][0] == pytest.approx(whole[name][i]), (name, text[:80])
        assert signatures(b)[1].tolist() == signed.get(i, []) and (b.words()[0] == words[i]).all()   # what was measured first has not emptied the table
    assert len(small) < 3000


def test_pieces_that_no_writer_wrote_take_no_time():
    for piece in ('(' * 900_000, 'a' * 900_000, 'a.' * 400_000, '"' * 999, "'s" * 400, '1' * 999 + 'kg', '\u0301' * 999, '😀' * 900, 'a@' * 450 + '.com', '-' * 999):
        assert ''.join(tokenise(piece)) == piece


def test_signature_files_are_sorted(tmp_path):
    sigs = np.random.default_rng(0).integers(0, 3, (50, 112)).astype(np.uint64)
    write_signatures(tmp_path, 7, np.arange(50), sigs, 14)
    records = np.fromfile(band_file(tmp_path, 3, 7), band_type(8))
    assert len(records) == 50 and records.tolist() == sorted(records.tolist())
    assert (np.stack([records[f'h{i}'] for i in range(8)], 1) == sigs[records['doc'], 24:32]).all()


@peer
def test_decisions_and_signatures_are_datatroves(texts):
    english = [t for t in texts if t.strip() and '发' not in t and len(t.split()) > 1]
    rows, _ = side_by_side(english, ['test'] * len(english), 50)
    table = decision_agreement(rows, list(filter_decisions({name: np.zeros(1) for name in QUALITY_RULES})))
    assert (table.share >= 0.98).all(), table   # these texts are all at the edge; the study has real ones
    assert table.share.iloc[-1] >= 0.95


@peer
def test_datatroves_next_steps_read_our_files(tmp_path):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster
    config = MinhashConfig()
    rng = random.Random(1)
    one, two = ([' '.join(rng.choices([f'w{chr(97 + i % 26)}{chr(97 + i // 26)}' for i in range(400)], k=120)) for _ in range(30)] for _ in 'ab')
    two[4], two[9] = one[3], one[8]
    for task, part in enumerate((one, two)):
        have, sigs = signatures(Batch(part, Lexicon()))
        write_signatures(tmp_path / 'sigs', task, have, sigs, 14)
    LocalPipelineExecutor([MinhashDedupBuckets(str(tmp_path / 'sigs'), str(tmp_path / 'dups'), config=config, only_dedup_in_index=False)], tasks=14, workers=1, logging_dir=str(tmp_path / 'l1')).run()
    LocalPipelineExecutor([MinhashDedupCluster(str(tmp_path / 'dups'), str(tmp_path / 'remove'), config=config)], tasks=1, logging_dir=str(tmp_path / 'l2')).run()
    removed = {(p.stem, int(d)) for p in (tmp_path / 'remove').glob('*.remove') for d in np.fromfile(p, '<u4')}
    assert len(removed) == 2 and {d for task, d in removed} <= {3, 4, 8, 9}


@peer
def test_as_a_step_in_a_pipeline_of_datatrove(tmp_path, texts):
    from datatrove.data import Document
    from citrus.data.signatures import tagging_step
    docs = list(tagging_step(tmp_path).run((Document(text=t, id=str(i)) for i, t in enumerate(texts)), rank=2))
    assert len(docs) == len(texts) and set(docs[0].metadata['signals']) == set(QUALITY_RULES)
    assert band_file(tmp_path, 13, 2).stat().st_size % 68 == 0
