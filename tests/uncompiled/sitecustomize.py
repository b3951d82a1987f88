"DeepSpeed compiles a shared-memory channel for ranks on a CPU, which takes a compiler and a minute; without it they talk by gloo as the others do"
import importlib.util
import sys

if any(a.endswith(('citrus_train', 'ranks.py')) for a in sys.orig_argv) and importlib.util.find_spec('deepspeed'):
    import deepspeed.ops
    deepspeed.ops.__compatible_ops__ = {}
