"Attention span by span gives the loss and the gradients of the library's own"
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from citrus.studies.cost import random_pairs
from citrus.train import products
from citrus.train.preference import answer_logp, collate, cpo_simpo
from citrus.train.products import use_spans
from citrus.train.steps import sequence_losses

SMALL = dict(vocab_size=300, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2)


def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL)).train()


def preference(lm):
    batch = collate(random_pairs(3, [5, 30, 2, 40], 300, 0))
    return cpo_simpo(answer_logp(lm, batch), batch['count'], 10.0, 5.4, 0.05, 3, int(batch['count'][:3].sum()))[0]


def packed(lm): return sequence_losses(lm, torch.arange(160).view(2, 80) % 299).mean()


def learned(lm, loss_of):
    loss = loss_of(lm)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in lm.parameters()])


@pytest.mark.parametrize('loss_of', [preference, packed])
@pytest.mark.parametrize('again', [False, True])
def test_loss_and_gradients_are_the_librarys(loss_of, again, monkeypatch):
    rows = []
    monkeypatch.setattr(products, 'attend_row', lambda *given, known=products.attend_row: rows.append(1) or known(*given))
    (a, ga), lm = learned(model(), loss_of), use_spans(model())
    if again: lm.gradient_checkpointing_enable(dict(use_reentrant=False))
    assert not rows
    b, gb = learned(lm, loss_of)
    assert len(rows) == (3 if loss_of is preference else 2) * 3 * (1 + again)
    assert abs(a - b) < 1e-5 * abs(a) and (ga - gb).norm() < 1e-5 * ga.norm()


def test_a_span_that_sees_another_answer_is_noticed(monkeypatch):
    "The control: without the border between two answers the loss is another"
    lm = use_spans(model())
    right = preference(lm).item()
    spans_of = products.spans_of
    monkeypatch.setattr(products, 'spans_of', lambda segment: [(0, spans_of(segment)[-1][1])])
    assert abs(preference(lm).item() - right) > 1e-3


def test_what_is_no_span_is_left_to_the_library(monkeypatch):
    lm = use_spans(model())
    monkeypatch.setattr(products, 'attend_row', None)
    ids = torch.arange(40).view(2, 20)
    lm(input_ids=ids, attention_mask=(ids > 3).long())
    monkeypatch.setattr(products, 'LONGEST', 19)
    lm(input_ids=ids)


def test_the_way_of_attention_is_not_saved(tmp_path):
    use_spans(model()).save_pretrained(tmp_path)
    assert LlamaForCausalLM.from_pretrained(tmp_path).config._attn_implementation == 'sdpa'
