"Packed sequences side by side in a pass: the same steps as one by one, and every token counted once."
import json

import numpy as np
import pytest
import torch

from citrus.core.records import read_jsonl, write_jsonl

WORDS = 'fever gout mumps jaw toe red hurts why what night'.split()
FIXED = dict(epochs=1, learning_rate=1e-3, global_batch=4, length=96, weight_decay=1e-4, beta2=0.95, clip=1.0, lora_rank=0, seed=0, checkpoint_seconds=9999.0, report_to='none')
say = lambda who, text: dict(role=who, content=text)


@pytest.fixture(scope='module')
def student(store):
    from citrus.llm.student import micro
    if not (store / 'micro-student').exists(): micro(store / 'micro-student', 0)
    return store / 'micro-student'


@pytest.fixture
def exact(monkeypatch):
    "Everything in float32, so that two splits differ by rounding of 24 bits alone"
    import citrus.train.steps, citrus.train.trainers
    for module in (citrus.train.steps, citrus.train.trainers): monkeypatch.setattr(module, 'compute_dtype', lambda: torch.float32)


def talk(i, rng):
    words = lambda n: ' '.join(rng.choice(WORDS, rng.integers(1, n)))
    return dict(id=f'r{i}', stage=1, source='coqa', messages=[say('user', words(20)), say('assistant', words(15))])


def trained(student, folder, micro_batch, rows=40):
    "History and record of a training whose sequences are packed differently full"
    from citrus.sft import fine_tune
    rng = np.random.default_rng(0)
    write_jsonl(folder / 'rows.jsonl', [talk(i, rng) for i in range(rows)], 'sft')
    out = folder / f'by-{micro_batch}'
    fine_tune(out=str(out), base=str(student), rows=str(folder / 'rows.jsonl'), micro_batch=micro_batch, **FIXED)
    return read_jsonl(f'{out}.history.jsonl'), json.loads((out / 'training.json').read_text())


def test_a_step_does_not_depend_on_how_many_sequences_a_pass_has(student, exact, tmp_path):
    (one, record), (two, _), (four, wide) = (trained(student, tmp_path, n) for n in (1, 2, 4))
    assert record['packed'] and record['micro_batch'] == 1 and wide['micro_batch'] == 4 and len(one) >= 3
    for other in (two, four):
        assert [h['loss'] for h in other] == pytest.approx([h['loss'] for h in one], abs=1e-5)
        assert [h['tokens'] for h in other] == [h['tokens'] for h in one], 'each token once, padding never'
    assert one[0]['loss'] - one[-1]['loss'] > 1e-3, 'the control: the steps are felt'


def test_a_row_side_by_side_does_not_see_its_neighbours(student, exact):
    "The labels of a sequence are foretold as if it were alone in the pass, and its second row as if it were alone in the sequence"
    from transformers import AutoModelForCausalLM

    from citrus.train.side_by_side import side_by_side_batch
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    ids = torch.randint(5, 400, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    sequence = lambda part, lengths: dict(input_ids=part, labels=part, seq_lengths=lengths)
    batch = side_by_side_batch([sequence(ids[:30], [12, 18]), sequence(ids[30:], [10])], 0)
    inputs = {k: batch[k] for k in ('input_ids', 'position_ids')}
    with torch.no_grad():
        scores, alone = model(**inputs, use_cache=False).logits, model(input_ids=torch.tensor([ids[12:30]])).logits
        leaking = model(input_ids=batch['input_ids'], use_cache=False).logits
    assert torch.allclose(scores[0, 12:30], alone[0], atol=1e-5) and not torch.allclose(leaking[0, 12:30], alone[0], atol=1e-3)
    assert batch['tokens'].tolist() == [30, 10] and (batch['labels'][1, 10:] == -100).all() and batch['labels'][0, 12] == -100


def test_memory_is_counted_for_all_sequences_of_a_pass():
    from citrus.core.recipes import load_recipe, settings
    from citrus.train.memory import steps_of
    values = settings(load_recipe('gpu'), ['sft.micro_batch=8'])
    assert steps_of(values)['sft'].tokens == 8 * values['sft']['length'] == steps_of(values)['sft'].scored
