"Likelihoods against the plain way on several architectures, and against lm-evaluation-harness."
import sys
from pathlib import Path

import pytest
import torch

from citrus.eval.likelihood import candidates, likelihoods, prompt
from citrus.core.files import UserError

sys.path.insert(0, str(Path(__file__).parent))
TINY = dict(vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048)


@pytest.fixture(scope='module')
def micro_folder(store):
    from citrus.llm.student import make_student
    return make_student('micro', '', 0, store / 'likelihood-student')


def plainly(lm, tokenizer, prompt, candidate):
    head, whole = (tokenizer(t, return_tensors='pt').input_ids for t in (prompt, prompt + candidate))
    with torch.inference_mode(): logp = lm(whole[:, :-1]).logits[0].float().log_softmax(-1)
    return float(logp.gather(-1, whole[0, 1:, None])[head.shape[1] - 1:].sum())


@pytest.mark.parametrize('attention', ['sdpa', 'eager'])
@pytest.mark.parametrize('family', ['Llama', 'Qwen3', 'Gemma2', 'Mistral'])
def test_one_row_equals_one_row_for_each_option(family, attention, micro_folder):
    "Gemma2 caps its logits after the output layer; the pick before that layer must not change it"
    import transformers
    torch.manual_seed(0)
    extra = dict(head_dim=8, final_logit_softcapping=5.0, query_pre_attn_scalar=8) if family == 'Gemma2' else dict(head_dim=8)
    config = getattr(transformers, f'{family}Config')(**TINY, **extra)
    config._attn_implementation = attention
    lm, tokenizer = getattr(transformers, f'{family}ForCausalLM')(config).eval(), transformers.AutoTokenizer.from_pretrained(micro_folder)
    questions = [dict(stem=f'Which animal {"often " * i}climbs best?', context=None, options=[dict(label=l, text=t) for l, t in zip('ABC', ('A goat', 'A cow on a hill', 'A trout'))]) for i in range(5)]
    shots = 'Question: Which animal swims in the sea?\nA. The trout\nB. The hen\nAnswer: A\n\n'
    for head, style in (('', 'medqa'), ('', 'cloze'), (shots, 'cloze')):
        asked = [(head + prompt(q, style), candidates(q, style)) for q in questions]
        found = dict(likelihoods(lm, tokenizer, asked, rows=2))
        assert max(abs(s - plainly(lm, tokenizer, p, c)) for i, (p, cs) in enumerate(asked) for s, c in zip(found[i], cs)) < 1e-3


def test_over_several_devices(micro_folder, tmp_path):
    "The second layer on another device, here the disk: masks, caches and the pick before the output layer follow"
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(micro_folder)
    whole = AutoModelForCausalLM.from_pretrained(micro_folder, dtype=torch.float32).eval()
    parts = ['model.embed_tokens', 'model.layers.0', 'model.layers.1', 'model.norm', 'model.rotary_emb', 'lm_head']
    spread = AutoModelForCausalLM.from_pretrained(
        micro_folder, dtype=torch.float32, device_map={p: 'disk' if p == 'model.layers.1' else 'cpu' for p in parts}, offload_folder=str(tmp_path)).eval()
    assert spread.hf_device_map['model.layers.1'] == 'disk'
    head = 'Question: Which animal swims in the sea?\nA. The trout\nB. The hen\nAnswer: A\n\n'
    asked = [(f'{head}Which {"often " * i}climbs?\nAnswer:', [' A goat', ' A cow on a hill']) for i in range(4)]
    plain, other = (dict(likelihoods(lm, tokenizer, asked, rows=2)) for lm in (whole, spread))
    assert max(abs(a - b) for i in plain for a, b in zip(plain[i], other[i])) < 1e-4


def test_attention_without_masks_is_refused(micro_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(micro_folder), AutoTokenizer.from_pretrained(micro_folder)
    lm.config._attn_implementation = 'flash_attention_2'
    with pytest.raises(UserError, match='takes no mask'): list(likelihoods(lm, tokenizer, [('a b', [' c', ' d'])]))


def test_too_long_and_empty_are_one_line(micro_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(micro_folder), AutoTokenizer.from_pretrained(micro_folder)
    with pytest.raises(UserError, match='tokens, the model holds'): list(likelihoods(lm, tokenizer, [('word ' * 9000, [' A', ' B'])]))
    for bad in (('', [' A']), ('a', ['']), ('a', [])):
        with pytest.raises(UserError, match='is empty'): list(likelihoods(lm, tokenizer, [bad]))


@pytest.mark.parametrize('task, texts, n', [('medmcqa', False, 60), ('mmlu', False, 60), ('medqa', False, 24), ('medmcqa', True, 40)])
def test_equal_to_lm_eval(task, texts, n, micro_folder):
    "The harness's own task files for MedMCQA and MMLU, over the same questions; every option of every question"
    from lmeval import compare
    found = compare(micro_folder, task, n, texts)
    assert found['n'] == found['same_choice'] == found['same_choice_norm'] == n and found['largest_gap'] < 1e-3, found
    assert found['theirs'] == {f'{k},none': v for k, v in found['ours'].items()}, found
