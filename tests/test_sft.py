"Fine-tuning: the prompt it trains on, what it refuses, and LoRA."
import json

import pytest
import torch

from citrus.core.files import UserError
from citrus.core.records import read_jsonl, write_jsonl

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
LLAMA3 = ("{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
MISTRAL = ("{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{{ bos_token }}"
           "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
           "{% if m['role'] == 'user' %}{{ '[INST] ' + (first if loop.first else '') + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}")
ZEPHYR = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
TEMPLATES = dict(chatml=CHATML, llama3=LLAMA3, mistral=MISTRAL, zephyr=ZEPHYR)
SETTINGS = dict(epochs=1, learning_rate=1e-3, global_batch=2, micro_batch=1, length=64, weight_decay=1e-4, beta2=0.95, clip=1.0, lora_rank=0,
                seed=0, checkpoint_seconds=9999.0, report_to='none')
LORA = dict(lora_rank=4, learning_rate=3e-3)

say = lambda who, text: dict(role=who, content=text)


@pytest.fixture(scope='module')
def student(micro, store):
    return store / 'runs' / 'micro' / 'assets' / 'base'


@pytest.fixture
def tokenizer(student):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(student)


# --- the prompt ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', TEMPLATES)
def test_training_prompt_is_sampling_prompt(name, tokenizer):
    "Tokens before every reply in training are those that sampling starts from, and the reply is the plain text and the end of the turn"
    from citrus.llm.prompt import ask, target
    from citrus.train.encoding import encode_dialogue
    tokenizer.chat_template = TEMPLATES[name]
    question = dict(id='q', context=None, stem='A child has a fever. Which is it?', open_stem='A child has a fever. What is it?', options=[dict(label='A', text='Gout'), dict(label='B', text='Mumps')])
    reply = target('Fever and swelling.\n\nSo mumps.', 'Mumps')
    for prompt in (ask(question, 'open'), ask(question, 'options'), ask(question, 'open')[1:]):
        row = encode_dialogue([*prompt, say('assistant', reply)], tokenizer)
        sent = list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)['input_ids'])
        assert row['input_ids'][:len(sent)] == sent and set(row['labels'][:len(sent)]) == {-100} and row['labels'][len(sent)] != -100
        assert tokenizer.decode(row['input_ids']) == tokenizer.apply_chat_template([*prompt, say('assistant', reply)], tokenize=False)
        said = tokenizer.decode([l for l in row['labels'] if l != -100]).strip()
        assert said.startswith(reply) and 0 < len(said) - len(reply) < 20, 'the reply and its end of turn, nothing else'


@pytest.mark.parametrize('name', TEMPLATES)
def test_every_turn_is_learned_and_its_prompt_is_the_same_text(name, tokenizer):
    from citrus.train.encoding import encode_dialogue
    tokenizer.chat_template = TEMPLATES[name]
    talk = [say('system', 'Ask first.'), say('user', 'I have a fever.'), say('assistant', 'Where does it hurt?'), say('user', 'At the jaw.'), say('assistant', 'Mumps.')]
    row = encode_dialogue(talk, tokenizer)
    text = lambda learned: tokenizer.decode([i for i, l in zip(row['input_ids'], row['labels']) if learned is None or (l != -100) == learned])
    assert text(None) == tokenizer.apply_chat_template(talk, tokenize=False)
    assert all(m['content'] in text(m['role'] == 'assistant') and m['content'] not in text(m['role'] != 'assistant') for m in talk)
    last = max(i for i in range(1, len(row['labels'])) if row['labels'][i] != -100 and row['labels'][i - 1] == -100)
    assert tokenizer.decode(row['input_ids'][:last]) == tokenizer.apply_chat_template(talk[:-1], add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize('template, message', [
    ("{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}", 'rewrites replies'),
    ("{% for m in messages %}{{ m['content'] if loop.last or m['role'] == 'user' else '' }}{% endfor %}", 'rewrites earlier turns'),
    ("{{ raise_exception('no system') }}", 'cannot write a conversation of user.*no system'),
    (None, 'chat_template is not set')])
def test_templates_that_change_the_text_are_refused(template, message, tokenizer):
    from citrus.train.encoding import encode_dialogue
    tokenizer.chat_template = template
    talk = [say('user', 'a'), say('assistant', '<think>b</think>c'), say('user', 'd'), say('assistant', '<think>e</think>f')]
    with pytest.raises(UserError, match=message): encode_dialogue(talk, tokenizer)


@pytest.mark.parametrize('name', ['8b', '70b', '72b'])
def test_full_size_data_is_known(name):
    from citrus.data.hub import HUB
    from citrus.core.recipes import load_recipe
    ids = [load_recipe(name)['sft'][f'sft{i}_hub'].partition(':')[0] for i in (1, 2, 3)]
    assert ids == ['BAAI/Infinity-Instruct'] * 2 + ['jdh-algo/Citrus_S3'] and all(HUB[i].record == 'sft' for i in ids)


def test_released_traces_are_read_in_both_usual_forms_and_refused_otherwise():
    from citrus.data.hub import hub_records
    forms = [dict(messages=[say('user', 'a'), say('assistant', 'b')]), dict(conversations=[{'from': 'human', 'value': 'a'}, {'from': 'gpt', 'value': 'b'}])]
    one, two = hub_records(forms, 'jdh-algo/Citrus_S3', 'train')
    assert one['messages'] == two['messages'] == forms[0]['messages'] and one['stage'] == 3
    with pytest.raises(UserError, match='row 0: cannot be read'): list(hub_records([dict(text='a')], 'jdh-algo/Citrus_S3', 'train'))


# --- a training --------------------------------------------------------------------------------------------------------

def trained(folder, student, **settings):
    "Train on 12 short rows, one too long and one without a reply; gives the model's folder and the losses"
    from citrus.sft import fine_tune
    folder.mkdir(exist_ok=True)
    rows = [dict(id=str(i), stage=1, source='coqa', messages=[say('user', f'Question {i}?'), say('assistant', f'Answer {i * i}.')]) for i in range(12)]
    rows += [dict(id='long', stage=1, source='coqa', messages=[say('user', 'very ' * 99), say('assistant', 'Long.')]), dict(id='silent', stage=1, source='mbpp', messages=[say('user', 'Hello?'), say('assistant', ' ')])]
    write_jsonl(folder / 'rows.jsonl', rows, 'sft')
    arguments = SETTINGS | dict(out=str(folder / 'model'), base=str(student), rows=str(folder / 'rows.jsonl')) | settings
    fine_tune(**arguments)
    return folder / 'model', [h['loss'] for h in read_jsonl(folder / 'model.history.jsonl')]


def weights(folder):
    from safetensors.torch import load_file
    return load_file(folder / 'model.safetensors')


@pytest.fixture(scope='module')
def alone(student, tmp_path_factory):
    return trained(tmp_path_factory.mktemp('sft') / 'alone', student)


@pytest.fixture(scope='module')
def lora(student, tmp_path_factory):
    return trained(tmp_path_factory.mktemp('sft') / 'lora', student, **LORA)


def test_a_model_lies_with_its_record_and_card(alone):
    folder, losses = alone
    record, card = json.loads((folder / 'training.json').read_text()), (folder / 'README.md').read_text()
    assert (record['rows'], record['refused'], record['sources']) == (14, {'too long': 1, 'empty reply': 1}, dict(coqa=13, mbpp=1)) and record['packed'] and record['steps'] == len(losses) == 6 and 0 < record['tokens'] < 12 * 64
    assert 'research only' in card.lower() and '| mbpp | 1 | CC BY 4.0 |' in card and 'learning_rate 0.001' in card and str(folder.parent) not in card + str(record)


def test_lora_saves_a_whole_model_and_its_adapters(lora, student):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from citrus.train.steps import load_student
    folder, losses = lora
    merged = PeftModel.from_pretrained(load_student(student), folder / 'adapter').merge_and_unload().state_dict()
    saved, base = weights(folder), weights(student)
    assert losses[0] > losses[-1] and saved.keys() == base.keys() and all(torch.equal(merged[k].bfloat16(), saved[k]) for k in saved)
    changed = {k for k in saved if not torch.equal(saved[k], base[k])}
    assert changed and all('proj' in k for k in changed)
    assert str(student) not in ''.join(p.read_text() for p in (folder / 'adapter').glob('*.json'))
    assert AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).config.model_type == 'llama'


def test_a_course_is_drawn_only_where_windows_lie_side_by_side():
    "Two steps have no course, and no half window is drawn at an end"
    import matplotlib.pyplot as plt
    import pandas as pd

    from citrus.prefer import margins
    from citrus.train.curves import plot_curves, plot_losses, smoothed
    line = pd.Series([1.0, 2, 3, 4, 5, 6], index=range(1, 7))
    assert smoothed(line[:5], 3).empty and smoothed(line, 3).to_dict() == {2: 2.0, 3: 3.0, 4: 4.0, 5: 5.0}
    for steps in (0, 2, 5, 6, 40):
        curves = pd.DataFrame(dict(reward_chosen=range(steps), reward_rejected=range(steps), margin=range(steps)), dtype=float)
        fig = plot_curves(curves)
        assert [len(ax.lines) for ax in fig.axes] == ([4, 2] if steps >= 6 else [2, 1] if steps else [])
        assert all(l.get_ydata().tolist()[:2] == [0, 1] for ax in fig.axes[:1] for l in ax.lines[:1])
        assert margins(curves) == (dict(margin_first=1.0, margin_last=steps - 2.0) if steps >= 6 else {})
        plt.close(fig)
    fig = plot_losses(pd.DataFrame(dict(training=['a'] * 13 + ['b'] * 14, step=[*range(13), *range(14)], loss=1.0)))
    assert [len(ax.lines) for ax in fig.axes] == [1, 2]
    plt.close(fig)
