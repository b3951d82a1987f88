"A model of the hub is fetched once, however often the key of its stage changes."
import json
import subprocess
import sys
from pathlib import Path

SCRIPT = r'''
import json, os, sys
sys.path.insert(0, sys.argv[1])
from hub import Hub, serve
os.environ.update(HF_ENDPOINT=serve(), HF_HOME=sys.argv[2] + '/cache', CITRUS_HOME=sys.argv[2] + '/runs', HF_HUB_DISABLE_TELEMETRY='1', HF_HUB_DISABLE_XET='1')
from pathlib import Path
from citrus.llm.student import make_student
weights = {f'model-0000{i}-of-00002.safetensors': bytes([i]) * 1000 for i in (1, 2)}
Hub.sets = {'goat/model': weights | {'config.json': b'{}', 'tokenizer_config.json': b'{"chat_template": "x"}', 'chat_template.jinja': b'old', 'pytorch_model.bin': b'no', 'original/model.safetensors': b'no'}}
home = Path(sys.argv[2])
(home / 'runs').mkdir()
make = lambda key: make_student('goat/model', '', 0, home / key, 'turns.jinja')
first = make('a')
sent = dict(Hub.sent)
second = make('b')
cached = sorted((home / 'cache').rglob('*.safetensors'))
print(json.dumps(dict(
    sent=sent, again=dict(Hub.sent), names=sorted(p.name for p in second.iterdir()), links=[p.stat().st_nlink for p in sorted(second.glob('*.safetensors'))],
    same=[p.read_bytes() == weights[p.name] and not p.is_symlink() for p in sorted(second.glob('*.safetensors'))],
    template=next((home / 'cache').rglob('chat_template.jinja')).read_text(), own=(second / 'chat_template.jinja').stat().st_nlink)))
'''


def test_a_second_key_downloads_no_weights(tmp_path):
    child = subprocess.run([sys.executable, '-c', SCRIPT, str(Path(__file__).parent), str(tmp_path)], capture_output=True, text=True)
    seen = json.loads(child.stdout.splitlines()[-1]) if child.stdout else child.stderr[-2000:]
    assert seen['sent'] == seen['again'] and seen['sent']['model-00001-of-00002.safetensors'] == 1 and 'pytorch_model.bin' not in seen['sent']
    assert seen['names'] == ['chat_template.jinja', 'config.json', 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'tokenizer_config.json']
    assert seen['same'] == [True, True] and seen['links'] == [3, 3], 'one copy on the disk: the cache and two stages'
    assert seen['template'] == 'old' and seen['own'] == 1, 'what a run changes is its own'
