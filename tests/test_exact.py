"Several texts in one row: packed rows, answers behind one prompt and the options of a question, on architectures that keep them apart and on those that do not."
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers as t

from citrus.eval.likelihood import encode_items, likelihoods
from citrus.train.preference import answer_logp, collate, collate_alone
from citrus.train.shared_prompt import reached, shared_gap, shares_prompt
from citrus.train.packing import ROUNDING, next_logps, packed_gap

SIZE = dict(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
            pad_token_id=0, bos_token_id=1, eos_token_id=2)
WINDOW = dict(sliding_window=16)
LINEAR = dict(head_dim=8, linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4, num_experts=4, num_experts_per_tok=2,
              moe_intermediate_size=16, shared_expert_intermediate_size=16)
STATE = dict(head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=16)
KINDS = dict(
    mistral=t.MistralConfig(**SIZE, **WINDOW),
    qwen2=t.Qwen2Config(**SIZE, **WINDOW, use_sliding_window=True, max_window_layers=1),
    gemma2=t.Gemma2Config(**SIZE, **WINDOW, head_dim=8),
    gemma3=t.Gemma3TextConfig(**SIZE, **WINDOW, head_dim=8),
    phi3=t.Phi3Config(**SIZE, **WINDOW),
    cohere2=t.Cohere2Config(**SIZE, **WINDOW),
    qwen3_next=t.Qwen3NextConfig(**SIZE, **LINEAR),
    falcon_h1=t.FalconH1Config(**SIZE, **STATE),
    llama=t.LlamaConfig(**SIZE),
    gpt2=t.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=512, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    granite=t.GraniteConfig(**SIZE),
    olmo2=t.Olmo2Config(**SIZE))
WINDOWED = {'mistral', 'qwen2', 'gemma2', 'gemma3', 'phi3', 'cohere2'}
STATEFUL = {'qwen3_next', 'falcon_h1'}


def model(kind):
    torch.manual_seed(0)
    return t.AutoModelForCausalLM.from_config(KINDS[kind], attn_implementation='sdpa').eval()


@pytest.mark.parametrize('kind', KINDS)
def test_what_may_share_a_row_is_found_by_numbers(kind):
    "A window does harm where the rows reach it, a state always; packed rows restart their positions, which a window knows and a state does not"
    short, long, packed = shared_gap(KINDS[kind], 16), shared_gap(KINDS[kind], 200), packed_gap(KINDS[kind])
    assert (short < ROUNDING) == (kind not in STATEFUL), short
    assert (long < ROUNDING) == (kind not in STATEFUL | WINDOWED), long
    assert (packed < ROUNDING) == (kind not in STATEFUL), packed
    for gap in (short, long, packed): assert gap < ROUNDING / 20 or gap > 50 * ROUNDING, 'far from the border'


@pytest.mark.parametrize('kind', KINDS)
def test_the_way_that_is_chosen_gives_the_numbers_of_the_plain_one(kind):
    "Both ways on a real, not a blown-up model: the pair is longer than the window"
    lm, draw = model(kind), torch.Generator().manual_seed(1)
    def tokens(n): return torch.randint(3, 300, (n,), generator=draw).tolist()
    pairs = [dict(prompt=tokens(30), chosen=tokens(12), rejected=tokens(5)), dict(prompt=tokens(9), chosen=tokens(3), rejected=tokens(20))]
    columns = max(len(p['prompt']) + len(p['chosen']) + len(p['rejected']) for p in pairs)
    batch = (collate if shares_prompt(lm.config, columns) else collate_alone)(pairs)
    def alone(p, side): return next_logps(lm, torch.tensor(p['prompt'] + p[side]))[len(p['prompt']) - 1:].sum()
    head = lm.get_output_embeddings()
    scale = getattr(lm.config, 'logit_scale', 1) / getattr(lm.config, 'logits_scaling', 1)
    if scale != 1 or getattr(lm.config, 'final_logit_softcapping', None): return   # refused by `fit_to_train`
    with torch.inference_mode(): found = answer_logp(lm, batch, head)
    assert found.tolist() == pytest.approx([float(alone(p, side)) for side in ('chosen', 'rejected') for p in pairs], abs=2e-4)


class Bytes:
    "A tokenizer of bytes, with what it puts before and behind a text"
    bos_token, pad_token_id = None, 0
    def __init__(self, before=(), behind=(), joined=()): self.before, self.behind, self.joined = [*before], [*behind], joined
    def __call__(self, text, add_special_tokens=True):
        for i, piece in enumerate(self.joined): text = text.replace(piece, chr(200 + i))
        ids = [ord(c) for c in text]
        return SimpleNamespace(input_ids=[*self.before, *ids, *self.behind] if add_special_tokens else ids)


@pytest.mark.parametrize('kind', KINDS)
def test_candidates_are_scored_as_if_each_was_alone(kind):
    "Prompts longer than the window, with a long common beginning, of several lengths"
    lm, tokenizer = model(kind), Bytes(before=[1])
    asked = [('Which of these animals climbs best? ' + 'Oh, ' * i + 'Answer:', [' A', ' a goat', ' a cow on a hill']) for i in range(4)]
    found = dict(likelihoods(lm, tokenizer, asked, rows=3))
    for i, (prompt, options) in enumerate(asked):
        n = 1 + len(prompt)
        alone = [next_logps(lm, torch.tensor(tokenizer(prompt + o).input_ids))[n - 1:].sum() for o in options]
        assert found[i] == pytest.approx([float(x) for x in alone], abs=2e-4)


@pytest.mark.parametrize('tokenizer', [Bytes(), Bytes(before=[1]), Bytes(behind=[2]), Bytes(before=[1], behind=[2])])
def test_special_tokens_around_a_text_are_not_scored(tokenizer):
    [item] = encode_items(tokenizer, [('Answer:', [' A', ' BC'])])
    assert item.context == tokenizer.before + [ord(c) for c in 'Answer:'] and item.options == [[32, 65], [32, 66, 67]]


@pytest.mark.parametrize('joined, context, options', [(['Answer: C'], '1\n', ['Answer: B', chr(200)]), ([': B', ': C'], '1\nAnswer', [chr(200), chr(201)])])
def test_a_token_over_the_border_belongs_to_the_candidate(joined, context, options):
    "All candidates of a question start where the first of them does, so their sums are of the same text"
    [item] = encode_items(Bytes(joined=joined), [('1\nAnswer:', [' B', ' C'])])
    assert item.context == [ord(c) for c in context] and item.options == [[ord(c) for c in o] for o in options]


def test_a_window_that_is_not_reached_is_out_of_the_way():
    config = t.MistralConfig(**SIZE, sliding_window=100)
    assert [reached(config, n).sliding_window for n in (100, 101)] == [4096, 8] and config.sliding_window == 100


def test_scoring_an_exam_loads_nothing_of_a_training():
    code = "import sys, citrus.eval.likelihood; print(*[m for m in sys.modules if m in ('trl', 'peft', 'accelerate') or m.startswith('citrus.train.')])"
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) <= {'citrus.train.packing', 'citrus.train.shared_prompt'}


def test_trying_does_not_move_the_random_numbers_of_a_training():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    packed_gap(KINDS['llama'])
    assert torch.equal(torch.rand(2), expected)
