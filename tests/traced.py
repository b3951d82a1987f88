"What ran while stages ran, as `tracing/sitecustomize.py` notes it, against what their keys hold."
from citrus.core.keys import mention, reached_from
from citrus.core.ingredients import BOOKKEEPING, followed, own_module
from citrus.core.parameters import STAGES, notebook_path


def labels(stage):
    "`module.label` of the ingredients of a stage, and of what draws its figures"
    modules, marked, reached = followed(stage)
    places = set(reached)
    for module, d in [*marked, *((m, d) for (m, _), d in reached.items())]:
        for g in d.drawings: places |= set(reached_from(modules, [(module, mention(*g.mentioned))], BOOKKEEPING))
    return {(module, modules[module].definitions[i].label) for module, i in places}


def names(labels):
    "(module, name) of all that the labels cover: `Stage.read` covers `read` and what is in the class"
    return {(module, part) for module, label in labels for name in label.split(', ') for part in (name, name.rpartition('.')[2])}


def uncovered(lines):
    "Lines of a trace whose function is no ingredient of their stage"
    held = {stage: names(labels(stage)) for stage in STAGES}
    held['launched'] = set().union(*held.values())
    left = []
    for stage, module, function in (line.split() for line in lines):
        module = own_module(notebook_path(stage)) if module == 'notebook' else module
        name = function.partition('.<locals>')[0]
        if not {(f'citrus.{module}', n) for n in (name, name.partition('.')[0])} & held[stage]: left.append((stage, module, function))
    return left
