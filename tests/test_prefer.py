"The preference trainer: parity with TRL, micro-batches, devices, precision, adapters, pairs that cannot be used."
import json

import pytest
import torch

from citrus.core.files import UserError
from citrus.core.records import read_jsonl, write_jsonl

TERMS = 10.0, 5.4, 0.05


@pytest.fixture(scope='module')
def student(store):
    "A random two-layer model with the student's tokenizer and template"
    from citrus.llm.student import micro
    folder = store / 'prefer-student'
    micro(folder, 0)
    return folder


@pytest.fixture(scope='module')
def tokenizer(student):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(student)


def says(who, text): return [dict(role=who, content=text)]


def pair(i, question, chosen, rejected):
    return dict(id=str(i), question_id=str(i), prompt=says('system', 'Be brief.') + says('user', question), chosen=says('assistant', chosen), rejected=says('assistant', rejected), n_correct=1, n_samples=2)


PAIRS = [pair(0, 'What is it?', 'A fever of unknown origin.', 'No idea'), pair(1, 'And what is that, in a few more words?', 'Rash', 'It is a rather long and wrong answer.'),
         pair(2, 'Why?', 'Because of the spleen, which is large.', 'Because.'), pair(3, 'Since when, would you say, has it been so?', 'A week', 'A year'), pair(4, 'Who?', 'He', 'She'), pair(5, 'How?', 'So so.', 'So.')]


def load(folder, dtype=torch.float32):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def ours(model, pairs, tokenizer, split=None, part=1024):
    "Loss and gradients of a batch, read in parts of `split` pairs"
    from citrus.train.preference import answer_logp, collate, cpo_simpo, encode_pair
    encoded = [encode_pair(p, tokenizer) for p in pairs]
    split, tokens, loss = split or len(pairs), sum(len(e['chosen']) for e in encoded), 0.0
    for i in range(0, len(pairs), split):
        batch = collate(encoded[i:i + split])
        share = cpo_simpo(answer_logp(model, batch, part=part), batch['count'], *TERMS, len(pairs), tokens)[0]
        share.backward()
        loss += share.item()
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def trl(model, pairs, tokenizer, folder):
    "Loss and gradients of TRL's experimental CPO trainer with loss_type='simpo'"
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    text = [dict(prompt=tokenizer.apply_chat_template(p['prompt'], add_generation_prompt=True, tokenize=False), **{s: p[s][0]['content'] for s in ('chosen', 'rejected')}) for p in pairs]
    args = CPOConfig(output_dir=str(folder), loss_type='simpo', cpo_alpha=0.05, beta=10.0, simpo_gamma=5.4, max_length=512, report_to=[], use_cpu=True, bf16=False, per_device_train_batch_size=len(pairs), gradient_checkpointing=False)
    trainer = CPOTrainer(model=model, args=args, train_dataset=Dataset.from_list(text), processing_class=tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(pairs))])
    loss, _ = trainer.get_batch_loss_metrics(model, batch, 'train')
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize('n', [1, 2, 6])
def test_loss_and_gradients_are_those_of_trl(student, tokenizer, tmp_path, n):
    (a, ga), (b, gb) = ours(load(student), PAIRS[:n], tokenizer), trl(load(student), PAIRS[:n], tokenizer, tmp_path)
    assert abs(a - b) < 1e-5 * abs(b), (a, b)
    assert (ga - gb).norm() < 1e-5 * gb.norm() and gb.norm() > 0.1


def test_untied_output_layer_equals_trl(student, tokenizer, tmp_path):
    "Other models have an output layer of their own, several key heads, and a bias on their queries"
    from transformers import Qwen2Config, Qwen2ForCausalLM
    torch.manual_seed(1)
    config = Qwen2Config(vocab_size=load(student).config.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / 'qwen')
    (a, ga), (b, gb) = ours(load(tmp_path / 'qwen'), PAIRS[:2], tokenizer), trl(load(tmp_path / 'qwen'), PAIRS[:2], tokenizer, tmp_path)
    assert abs(a - b) < 1e-5 * abs(b) and (ga - gb).norm() < 1e-5 * gb.norm()


def test_split_and_part_do_not_matter(student, tokenizer):
    loss, grad = ours(load(student), PAIRS, tokenizer)
    for split, part in ((1, 1024), (2, 777), (4, 49151), (6, 1 << 20)):
        again, g = ours(load(student), PAIRS, tokenizer, split, part)
        assert again == pytest.approx(loss, abs=1e-5) and (g - grad).norm() < 1e-5 * grad.norm(), (split, part)


def test_bfloat16_is_near(student, tokenizer):
    loss, grad = ours(load(student), PAIRS, tokenizer)
    with torch.autocast('cpu', torch.bfloat16): again, g = ours(load(student), PAIRS, tokenizer)
    assert again == pytest.approx(loss, rel=0.02) and torch.cosine_similarity(g, grad, dim=0) > 0.99


def test_prompt_is_what_sampling_sends(tokenizer):
    from citrus.llm.local import render
    from citrus.train.preference import encode_pair
    for p in PAIRS:
        e = encode_pair(p, tokenizer)
        assert e['prompt'] == render(tokenizer, p['prompt']) and e['chosen'][-1] == tokenizer.eos_token_id
        assert tokenizer.decode(e['chosen'][:-1]) == p['chosen'][0]['content']


@pytest.mark.parametrize('template, message', [
    ("{% for m in messages %}[{{ m['content'].split('</think>')[-1] }}{% endfor %}{% if add_generation_prompt %}[{% endif %}", 'rewrites replies'),
    ("{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}", 'rewrites the prompt'),
    ("{% for m in messages if m['role'] != 'system' %}[{{ m['content'] }}{% endfor %}", 'what the system says'), ("{{ 1 + 'a' }}", 'system, user.*unsupported operand'),
    ("{{ raise_exception('System role not supported') }}", 'system, user.*System role not supported'), (None, 'chat_template is not set')])
def test_templates_that_do_not_fit_are_one_line(template, message, tokenizer, monkeypatch):
    from citrus.llm.local import render
    from citrus.train.preference import encode_pair
    from citrus.train.encoding import encode_dialogue
    monkeypatch.setattr(tokenizer, 'chat_template', template)
    with pytest.raises(UserError, match=message): encode_pair(pair(0, 'Why?', '<think>It hurts.</think>Yes', 'No'), tokenizer)
    if 'rewrites' in message: return
    with pytest.raises(UserError, match=message): render(tokenizer, PAIRS[0]['prompt'])
    with pytest.raises(UserError, match=message): encode_dialogue(PAIRS[0]['prompt'] + PAIRS[0]['chosen'], tokenizer)


OPENS = ("{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
         "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}")


@pytest.mark.parametrize('said', ['It hurts.</think>Yes', '<think>It hurts.</think>Yes', '<think>\nIt hurts.</think>Yes'])
def test_a_thought_that_the_prompt_opens_is_not_opened_again(said, tokenizer, monkeypatch):
    from citrus.llm.local import render
    from citrus.train.preference import encode_pair
    from citrus.train.encoding import encode_dialogue
    monkeypatch.setattr(tokenizer, 'chat_template', OPENS)
    asked, prompt = pair(0, 'Why?', said, 'No</think>No'), render(tokenizer, says('user', 'Why?'))
    encoded = encode_pair(asked, tokenizer)
    assert encoded['prompt'] == render(tokenizer, asked['prompt'])
    assert [tokenizer.decode(encoded[side][:-1]) for side in ('chosen', 'rejected')] == ['It hurts.</think>Yes', 'No</think>No']
    row = encode_dialogue(says('user', 'Why?') + asked['chosen'], tokenizer)
    assert row['input_ids'][:len(prompt)] == prompt and set(row['labels'][:len(prompt)]) == {-100}
    assert [l for l in row['labels'] if l != -100] == encoded['chosen']
    with pytest.raises(UserError, match='opens a thought'): encode_dialogue(says('user', 'Why?') + says('assistant', 'Yes'), tokenizer)


def test_pairs_without_a_difference_are_refused_and_counted(tokenizer):
    from citrus.train.preference import PairEncoder
    pairs = PAIRS[0], pair(8, 'Who?', 'He', 'He'), pair(9, 'Who?', ' ', 'She'), pair(10, 'Who?', 'He', 'He ')
    refused = [why for _, why in map(PairEncoder(tokenizer, 100).encode, pairs)]
    assert refused == ['', 'same answer', 'empty answer', ''], 'a blank at the end is another token'


def test_empty_replies_are_refused_and_counted(tokenizer):
    from citrus.train.encoding import encode_rows
    rows = [dict(messages=says('user', 'Hi') + says('assistant', text)) for text in ('Hello', '', ' \n', 'word ' * 99)] + [dict(messages=says('user', 'Hi'))]
    rows.append(dict(messages=says('user', 'Hi') + says('assistant', '') + says('user', 'Hi?') + says('assistant', 'Hello')))
    kept, refused = encode_rows(rows, tokenizer, 64)
    assert len(kept) == 1 and refused == {'empty reply': 3, 'too long': 1, 'no reply': 1}


# --- training --------------------------------------------------------------------------------------------------------

HOW = dict(beta=10.0, gamma=5.4, alpha=0.05, learning_rate=1e-3, global_batch=2, epochs=2, checkpoint_seconds=300.0, report_to='none', seed=0,
           length=2048, micro_batch=1, lora_rank=0)


def train(folder, student, pairs, name='model', **kw):
    from citrus.prefer import train_preferred
    write_jsonl(folder / 'pairs.jsonl', pairs, 'pair')
    train_preferred(**HOW | dict(out=str(folder / name), base=str(student), pairs=str(folder / 'pairs.jsonl')) | kw)
    return read_jsonl(folder / f'{name}.history.jsonl'), load(folder / name)


def weights(model): return torch.cat([p.flatten() for p in model.parameters()])


def test_curves_do_not_depend_on_the_micro_batch(student, tmp_path):
    (a, _), (b, _) = (train(tmp_path, student, PAIRS[:5], f'm{m}', global_batch=4, micro_batch=m) for m in (1, 4))   # 5 pairs: the last step has one
    assert len(a) == len(b) == 4
    for x, y in zip(a, b): assert x == pytest.approx(y, rel=0.02, abs=0.02), 'bfloat16 rounds by the batch'


def test_empty_and_long_pairs_are_refused_and_counted(student, tmp_path):
    bad = [pair(7, 'x ' * 300, 'yes', 'no')]
    log, model = train(tmp_path, student, PAIRS[:4] + bad, length=100)
    clean, same = train(tmp_path, student, PAIRS[:4], 'clean', length=100)
    assert log == clean and torch.equal(weights(model), weights(same))
    assert json.loads((tmp_path / 'model' / 'training.json').read_text())['refused'] == {'too long': 1} and '1 of them refused' in (tmp_path / 'model' / 'README.md').read_text()
    with pytest.raises(UserError, match='none of 1 pairs can be used.*too long'): train(tmp_path, student, bad, 'none', length=100)


def test_adapters_end_in_plain_weights(student, tmp_path):
    log, model = train(tmp_path, student, PAIRS, lora_rank=4, learning_rate=1e-2)
    start, names = load(student), [n for n, _ in model.named_parameters()]
    moved = {n for (n, p), (_, q) in zip(model.named_parameters(), start.named_parameters()) if not torch.equal(p, q)}
    assert names == [n for n, _ in start.named_parameters()] and moved and all('proj' in n for n in moved), 'only linear layers have adapters'
    assert log[-1]['margin'] > log[0]['margin']


def test_a_swapped_pair_pushes_the_other_way(student, tmp_path):
    swapped = [p | dict(chosen=p['rejected'], rejected=p['chosen']) for p in PAIRS]
    (a, _), (b, _) = train(tmp_path, student, PAIRS, epochs=4), train(tmp_path, student, swapped, 'swapped', epochs=4)
    assert a[0]['margin'] == pytest.approx(-b[0]['margin'], abs=0.3) and a[-1]['margin'] > a[0]['margin'] + 0.5 and b[-1]['margin'] > b[0]['margin'] + 0.5


def foreign(student, folder, config):
    "A random student of another architecture, with the same tokenizer"
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(student).save_pretrained(folder)
    return folder


SMALL = dict(vocab_size=49152, hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)


@pytest.mark.parametrize('window', [16, 1024])
def test_pairs_longer_than_a_window_are_read_one_by_one(window, student, tmp_path, capsys):
    from transformers import MistralConfig
    base = foreign(student, tmp_path / 'mistral', MistralConfig(**SMALL, num_hidden_layers=2, sliding_window=window))
    log, _ = train(tmp_path, base, PAIRS[:4], lora_rank=0)
    record = json.loads((tmp_path / 'model' / 'training.json').read_text())
    assert record['shared_prompt'] == (window == 1024) and ('row of its own' in capsys.readouterr().out) == (window == 16) and len(log) == 4


@pytest.mark.parametrize('packed', [True, False])
def test_rows_of_a_model_with_a_state_are_not_packed(packed, student, tmp_path):
    from transformers import LlamaConfig, Qwen3NextConfig
    from citrus.sft import fine_tune
    linear = dict(head_dim=8, linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4, num_experts=4, num_experts_per_tok=2,
                  moe_intermediate_size=16, shared_expert_intermediate_size=16)
    config = LlamaConfig(**SMALL, num_hidden_layers=2) if packed else Qwen3NextConfig(**SMALL, **linear, num_hidden_layers=4)
    base = foreign(student, tmp_path / 'base', config)
    rows = [dict(id=str(i), stage=1, source='coqa', messages=says('user', f'What is {i}?') + says('assistant', f'It is {i}.')) for i in range(4)]
    write_jsonl(tmp_path / 'rows.jsonl', rows, 'sft')
    fine_tune(out=str(tmp_path / 'model'), base=str(base), rows=str(tmp_path / 'rows.jsonl'), checkpoint_seconds=300.0, report_to='none', lora_rank=0, epochs=1, learning_rate=1e-3,
          global_batch=1, micro_batch=1, length=128, weight_decay=0.0, beta2=0.95, clip=1.0, seed=0)
    record = json.loads((tmp_path / 'model' / 'training.json').read_text())
    assert record['packed'] == packed and (record['steps'] < 4) == packed and f'packed {packed}' in (tmp_path / 'model' / 'README.md').read_text()
