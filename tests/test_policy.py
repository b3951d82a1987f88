"Learning from a reward: TRL's losses as the oracle, rounds that go on after a stop, and controls that learn nothing."
import json

import pytest
import torch

from citrus.core.files import UserError
from citrus.core.records import read_jsonl, write_jsonl
from citrus.llm.from_scratch import Build, from_scratch
from citrus.train.policy import against_mean, against_others, dpo_loss, grpo_loss, rloo_loss
from citrus.train.reinforce import METHODS, payments, reinforce, Rollout, rules_of

SMALL = dict(method='ppo', rounds=2, questions=4, group=2, temperature=1.0, tokens=12, passes=2, steps=2, micro_batch=3, learning_rate=1e-3, beta=0.03)


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "A student of one layer with random weights, and four questions"
    folder = tmp_path_factory.mktemp('toy')
    texts = ['Question: fever and stridor? <think>fever; stridor.</think>\n<answer>Croup</answer>'] * 20
    from_scratch(folder / 'base', texts, ['Croup', 'Mumps', 'fever', 'stridor'], 300, Build(layers=1, width=32, heads=2, inner=64, context=96), 0)
    asked = dict(source='toy', split='train', options=[], answer=None, answer_text='Croup', aliases=[], context=None, difficulty=None, meta={})
    write_jsonl(folder / 'pool.jsonl', [asked | dict(id=str(i), stem=f'{w}?', open_stem=f'{w}?') for i, w in enumerate(['fever', 'stridor', 'fever and stridor', 'stridor and fever'])])
    return folder


@pytest.fixture
def numbers():
    "Log-probabilities of six replies of at most five tokens, under a policy, the one that wrote them, and the start"
    torch.manual_seed(0)
    mask = (torch.arange(5) < torch.tensor([5, 3, 1, 4, 5, 2])[:, None]).float()
    logp, old, start = (-torch.rand(3, 6, 5) * 3).unbind()
    return logp.requires_grad_(), old, start, mask, torch.tensor([1.0, 0, 0.1, 0.1, 1, 0])


def trl_loss(kind, toy, numbers, advantages, tmp_path, **more):
    "What TRL's trainer makes of the same numbers, and its gradient"
    import trl
    from datasets import Dataset
    from transformers import AutoTokenizer
    logp, old, start, mask, _ = numbers
    config = dict(output_dir=str(tmp_path / kind), use_cpu=True, bf16=False, num_generations=3, per_device_train_batch_size=6, report_to='none', **more)
    trainer = getattr(trl, f'{kind}Trainer')(model=str(toy / 'base'), reward_funcs=lambda **k: [], args=getattr(trl, f'{kind}Config')(**config),
                                             train_dataset=Dataset.from_list([dict(prompt='a')] * 6), processing_class=AutoTokenizer.from_pretrained(toy / 'base'))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (logp, torch.zeros_like(logp), None)
    ids = torch.zeros(6, 1, dtype=torch.long)
    loss = trainer._compute_loss(trainer.model, dict(prompt_ids=ids, prompt_mask=ids + 1, completion_ids=mask.long(), completion_mask=mask, advantages=advantages,
                                                     old_per_token_logps=old, ref_per_token_logps=start, old_logps=(old * mask).sum(1)))
    return loss, torch.autograd.grad(loss, logp)[0]


def test_grpo_is_that_of_trl(toy, numbers, tmp_path):
    logp, old, start, mask, paid = numbers
    advantages = against_mean(paid, 3)
    theirs, their_gradient = trl_loss('GRPO', toy, numbers, advantages, tmp_path, beta=0.04, epsilon=0.2, loss_type='grpo', use_bias_correction_kl=False)   # as published; a later paper weighs the divergence by the ratio
    ours = grpo_loss(logp, old, start, advantages, mask, 0.2, 0.04)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(ours, logp)[0], their_gradient)


def test_rloo_is_that_of_trl(toy, numbers, tmp_path):
    logp, old, _, mask, paid = numbers
    advantages = against_others(paid, 3)
    theirs, their_gradient = trl_loss('RLOO', toy, numbers, advantages, tmp_path, epsilon=0.2)
    ours = rloo_loss(logp, old, advantages, mask, 0.2)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(ours, logp)[0], their_gradient)


def test_dpo_is_that_of_trl(numbers):
    "TRL's sigmoid loss of the same log-ratios"
    logp, old, start, mask, _ = numbers
    total = lambda x: (x * mask).sum(1)
    ours = dpo_loss(total(logp)[:3], total(logp)[3:], total(start)[:3], total(start)[3:], 0.5)
    ratios = (total(logp)[:3] - total(logp)[3:]) - (total(start)[:3] - total(start)[3:])
    assert ours.item() == pytest.approx(torch.nn.functional.softplus(-0.5 * ratios).mean().item())


@pytest.mark.parametrize('method', METHODS)
def test_a_training_goes_on_after_a_stop_as_if_there_had_been_none(method, toy, tmp_path, monkeypatch):
    from citrus.train import reinforce as module
    how = SMALL | dict(method=method, base=str(toy / 'base'), pool=str(toy / 'pool.jsonl'))
    reinforce(out=str(tmp_path / 'whole'), **how)
    save = module.save_round
    def save_and_die(*args):
        save(*args)
        raise KeyboardInterrupt
    monkeypatch.setattr(module, 'save_round', save_and_die)
    with pytest.raises(KeyboardInterrupt): reinforce(out=str(tmp_path / 'broken'), **how)
    monkeypatch.setattr(module, 'save_round', save)
    reinforce(out=str(tmp_path / 'broken'), **how)
    whole, broken = (read_jsonl(tmp_path / f'{name}.history.jsonl') for name in ('whole', 'broken'))
    assert whole == broken and len(whole) == 2 and whole[0]['kl'] == pytest.approx(0, abs=1e-6)
    assert (tmp_path / 'whole' / 'model.safetensors').read_bytes() == (tmp_path / 'broken' / 'model.safetensors').read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(('checkpoint', 'policy', 'part'))]
    record = json.loads((tmp_path / 'whole' / 'training.json').read_text())
    assert record['method'] == method and 'research only' in (tmp_path / 'whole' / 'README.md').read_text()


def test_payments_of_the_controls():
    q = dict(id='q', answer_text='Croup', aliases=[], options=[])
    texts = ['<think>a</think><answer>Croup</answer>'] * 30 + ['<think>a</think><answer>Mumps</answer>'] * 30 + ['Croup'] * 40
    rollouts = [Rollout(q, t, False, 1, [1], [2]) for t in texts]
    right = payments(rollouts, rules_of(SMALL), 0)
    assert right == [1.0] * 30 + [0.1] * 30 + [0.0] * 40
    assert payments(rollouts, rules_of(SMALL | dict(pays='form')), 0) == [1.0] * 60 + [0.0] * 40
    shuffled = payments(rollouts, rules_of(SMALL | dict(pays='shuffled')), 0)
    assert sorted(shuffled) == sorted(right) and shuffled != right
    for share in (0.1, 0.4):
        turned = payments(rollouts, rules_of(SMALL | dict(flipped=share)), 0)
        assert 60 * share - 14 < sum(a != b for a, b in zip(turned, right)) < 60 * share + 14 and turned[60:] == right[60:]


@pytest.mark.parametrize('setting, message', [(dict(method='pppo'), "did you mean 'ppo'"), (dict(pays='forms'), "did you mean 'form'")])
def test_rules_that_do_not_exist(setting, message):
    with pytest.raises(UserError, match=message): rules_of(SMALL | setting)
