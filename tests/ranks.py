"What each process of a launch does in the tests: several trainings one after the other, since the imports take longer than they do. `ranks.py CONFIG`"
import json
import shutil
import sys
from pathlib import Path

from accelerate.state import AcceleratorState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

import citrus.train.checkpoints
from citrus.core.launch import call, leave
from citrus.core.store import die_with_parent


def copying(keep):
    "What a kill after the third step would leave goes to the training `NAME_again` as well, which goes on from there"
    def keep_checkpoint(part, step):
        keep(part, step)
        again = part.parent.with_name(f'{part.parent.stem}_again.checkpoint')
        if step == 3 and not again.exists(): shutil.copytree(part.parent, again)
    return keep_checkpoint


if __name__ == '__main__':
    die_with_parent()
    citrus.train.checkpoints.keep_checkpoint = copying(citrus.train.checkpoints.keep_checkpoint)
    for function, arguments in json.loads(Path(sys.argv[1]).read_text()):
        call(function, arguments)
        AcceleratorState._reset_state(True)
        unset_hf_deepspeed_config()   # or the probes of the next training would be sharded
    leave()
