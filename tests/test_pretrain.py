"Continued pre-training at its edges: losses that are not finite, sources that run out."
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MICRO, citrus_run
from transformers import LlamaConfig, LlamaForCausalLM

from citrus.train.bandit import Bandit
from citrus.train.sampler import Stream
from citrus.train.checkpoints import Progress, last_checkpoint
from citrus.pretrain import advance, fit, pretrain
from citrus.train.steps import devices, divide, sequence_losses
from citrus.core.files import UserError
from citrus.core.records import read_jsonl, write_jsonl

SETTINGS = dict(rule='odm', smoothing=0.5, steps=4, global_batch=4, length=32, learning_rate=1e-3, weight_decay=1e-4,
                checkpoint_seconds=9999.0, report_to='none', seed=0, micro_batch=1, epochs=0.0, lost_steps=10)


@pytest.fixture(scope='module')
def student(store):
    from citrus.llm.student import micro
    if not (store / 'micro-student').exists(): micro(store / 'micro-student', 0)
    return store / 'micro-student'


@pytest.fixture(scope='module')
def arms(tmp_path_factory):
    folder, words = tmp_path_factory.mktemp('arms'), 'fever cough rash knee liver spine blood sleep pain fall'.split()
    rng, out = np.random.default_rng(0), {}
    for a, k in dict(dull=2, rich=10).items():
        out[a] = str(folder / f'{a}.jsonl')
        write_jsonl(out[a], [dict(id=f'{a}{i}', source=a, text=' '.join(rng.choice(words[:k], 30)), domain='medical', lang='en', meta={}) for i in range(20)], 'document')
    return out


def toy(seed=0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))


def toy_run(streams, bandit, steps, global_batch=2, micro_batch=1, spoil=None, **settings):
    "A few steps of a toy model; `spoil`: a token whose embedding is not a number"
    accelerator, model = devices(), toy()
    if spoil is not None: model.model.embed_tokens.weight.data[spoil] = math.nan
    passes = divide(accelerator, global_batch, micro_batch)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    progress = Progress(bandit, [0] * len(streams))
    for _ in range(steps): advance(model, optimizer, accelerator, streams, progress, 1e-2, global_batch, passes, seed=0, **settings)
    return progress, model


def toy_streams(): return [Stream([np.random.default_rng(i).integers(0, 9, 64)], 8, key=i) for i in range(2)]


# --- the loss ------------------------------------------------------------------------------------------------------

def test_sequence_losses_are_those_of_the_model():
    model, ids = toy(), torch.randint(0, 16, (5, 12), generator=torch.Generator().manual_seed(1))
    losses = sequence_losses(model, ids)
    for x, row in zip(losses.tolist(), ids): assert x == pytest.approx(model(input_ids=row[None], labels=row[None]).loss.item(), rel=1e-5)


def test_passes_change_nothing_but_memory():
    runs = [toy_run(toy_streams(), Bandit(['a', 'b']), 5, 4, m) for m in (1, 2, 4)]
    for progress, model in runs[1:]:
        for x, y in zip(progress.history, runs[0][0].history):
            assert x['epochs'] == y['epochs'] and x['losses'] == pytest.approx(y['losses'], rel=2e-2)   # bfloat16 where the processor has it
    with pytest.raises(UserError, match='does not divide'): divide(devices(), 6, 4)


# --- losses that are not finite --------------------------------------------------------------------------------------

def test_a_poisoned_source_is_skipped_counted_and_named():
    poison = [*toy_streams(), Stream([[12] * 64], 8, key=2)]
    progress, model = toy_run(poison, Bandit(['a', 'b', 'poison']), 12, spoil=12, lost_steps=12)
    assert progress.bandit.skipped[:2] == [0, 0] and 0 < progress.bandit.skipped[2] == progress.lost < 12
    others = [p for name, p in model.named_parameters() if 'embed' not in name and 'lm_head' not in name]
    assert all(torch.isfinite(p).all() for p in others)
    with pytest.raises(UserError, match=r"3 of \d+ steps .*{'poison': 3}"): toy_run(poison, Bandit(['a', 'b', 'poison']), 40, spoil=12, lost_steps=2)


def test_a_lost_step_leaves_the_weights_as_they_were():
    poison, model = [Stream([[12] * 64], 8, key=2)], None
    progress, model = toy_run(poison, Bandit(['poison']), 3, spoil=12)
    before = dict(toy().named_parameters())
    assert progress.lost == 3 and all(torch.equal(p, before[n]) for n, p in model.named_parameters() if 'embed' not in n)


# --- sources that run out ----------------------------------------------------------------------------------------------

def test_epochs_are_capped():
    streams = [Stream([np.arange(9)] * 4, 6, key=0), Stream([np.arange(9)] * 40, 6, key=1)]
    progress, _ = toy_run(streams, Bandit(['small', 'large'], 'exp3'), 30, epochs=1.0)
    assert progress.used[0] == 6 and progress.used[1] == 54 and progress.history[-1]['epochs']['small'] == 1
    with pytest.raises(UserError, match='every arm is used up'): toy_run(streams, Bandit(['small', 'large']), 40, epochs=1.0)


def test_single_documents_train_and_empty_arms_are_refused(student, arms, tmp_path):
    one, none = tmp_path / 'one.jsonl', tmp_path / 'none.jsonl'
    write_jsonl(one, [dict(id='1', source='one', text='short', domain='medical', lang='en', meta={})], 'document')
    write_jsonl(none, [], 'document')
    pretrain(str(tmp_path / 'model'), str(student), {'one': str(one), 'dull': arms['dull']}, **SETTINGS | dict(steps=2))
    history = read_jsonl(tmp_path / 'model.history.jsonl')
    assert len(history) == 2 and history[-1]['epochs']['one'] > 5
    with pytest.raises(UserError, match="arm 'none' is empty"): pretrain(str(tmp_path / 'other'), str(student), {'none': str(none), 'dull': arms['dull']}, **SETTINGS)


# --- a checkpoint of any rule --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('rule', ['progress', 'ucb', 'exp3', 'odm_released', 'proportional'])
def test_every_rule_resumes(rule, tmp_path):
    def run(out, steps):
        accelerator, model = devices(), toy()
        passes = divide(accelerator, 2, 1)
        model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
        return fit(model, optimizer, accelerator, toy_streams(), Bandit(['a', 'b'], rule, sizes=[1, 3], every=2), str(out), steps, 1e-2, 0.0, global_batch=2, passes=passes, seed=0), model
    whole, model = run(tmp_path / 'whole', 7)
    run(tmp_path / 'part', 3)   # the learning rate depends on the number of steps
    progress = json.loads((last_checkpoint(tmp_path / 'part') / 'progress.json').read_text())
    assert progress['step'] == 3 and len(progress['bandit']['traces']) == 2
    again, _ = run(tmp_path / 'part', 7)
    assert [h['step'] for h in again] == list(range(1, 8)) and again[3]['epochs'] == whole[3]['epochs']


# --- the study of the rules ----------------------------------------------------------------------------------------------

def test_the_study_runs_when_it_is_named(micro, store):
    assert 'rules ' not in micro
    citrus_run(store, '--recipe', str(MICRO), '--only', 'rules')
    folder = store / 'runs' / 'micro' / 'rules'
    metrics = json.loads((folder / 'manifest.json').read_text())['metrics']
    arms = pd.read_csv(folder / 'final.csv').query("corpus == 'real' and arm != 'mean'").arm.nunique()
    searched = 1 + 1 + 1 + 2 * arms + 3   # mixtures of `trap`, `crowded` and `real`, one seed each
    assert metrics['trainings'] == 2 * (4 * 4 + 3) + searched == len(list((folder / 'trainings').iterdir()))
    assert {p.suffix for p in (folder / 'figures').iterdir()} == {'.png', '.pdf', '.csv'}


# --- validation -----------------------------------------------------------------------------------------------------------

def test_validation_reads_from_all_of_the_held_out_text(tmp_path):
    "A model that has learned one document by heart is not judged by that one alone"
    from citrus.train.validation import evenly
    from citrus.pretrain import plot_validation
    x = np.repeat(np.arange(50), 4)   # four sequences of each of 50 documents
    assert len(np.unique(evenly(x, 4))) == 4 and len(np.unique(evenly(x, 50))) == 50
    assert evenly(x, 1000).tolist() == x.tolist()
    table = pd.DataFrame([dict(arm='a', model='m', loss=2.0, se=0.1, n=4)])
    line = plot_validation(table).axes[0].containers[0][2][0].get_segments()[0]
    assert line[1, 0] - 2.0 == pytest.approx(0.1 * 3.182, abs=1e-3)   # Student with 3 degrees of freedom, and not 1.96
