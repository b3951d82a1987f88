import re

from citrus.eval.naming import canonical, spelling
from citrus.eval.plain import options_only, plain

ITEM = r'''[(\["'“]*([A-Za-z])[)\]"'”]*(?![A-Za-zÀ-ɏ0-9_'’-])'''
ITEMS = (
    rf'{ITEM}(?:\s?(?:(?:[,?]\s?)?(?:\b(?:and|or|und|oder|et|ou|y|o)\b|and/or|还是|或者?|和|与|及|以及)(?:'
    rf' perhaps| maybe| possibly| else)?|[,/&+、\s])\s?{ITEM})*'
)

def labels_in(text: str, options: list) -> set:
    "Every single letter of a text that is the label of an option"
    return {l.upper() for l in re.findall(r'(?<![A-Za-zÀ-ɏ0-9_])[A-Za-z](?![A-Za-zÀ-ɏ0-9_])', text)} & {
        o['label'] for o in options
    }

def only_letters(text: str, options: list) -> set:
    "`B`, `B.`, `(B)`, `Option B`, `A and C`"
    m = re.fullmatch(
        rf'(?:options?\b|choices?\b|letter\b:?|opci[oó]n\b|letra\b|r[eé]ponse\b|antwort\b|选项?)?\s?({ITEMS})[\s.:。'
        r'!、)]*',
        plain(text),
        re.I,
    )
    return labels_in(m[1], options) if m and len(m[1]) < 80 else set()

def only_text(text: str, options: list) -> set:
    "`Birch syndrome`, `B. Birch syndrome`, `(B) birch syndrome`"
    name = canonical(plain(text))
    forms = lambda o: (canonical(o['text']), canonical(f'{o["label"]}. {o["text"]}'))
    return {o['label'] for o in options if name and name in forms(o)}

def phrase(text: str) -> str:
    "The phrase that follows a label"
    return spelling(
        re.split(
            r'[.;:]\s|\n|\s(?:because|since|is|are|was|which|would|will)\b', text.strip(' .:)-–—"'), maxsplit=1
        )[0]
    )

def text_fits(
    beside: str,
    options: list,
) -> dict:   # label -> (share of its words found, their number), where they are most of the phrase
    "How well each option's text fits the words beside a label"
    words = set(phrase(beside).split())
    fits = {}
    for o in options:
        name = set(spelling(o['text']).split())
        both = len(words & name)
        if both and both >= 0.3 * (len(words) + len(name)):
            fits[o['label']] = both / len(name), both
    return fits

def begins_with(text: str, options: list) -> set:
    "The option whose text (with or without its letter) a text begins with, the longest if one begins another"
    rest = spelling(text[:400].split('\n')[0]) + ' '
    names = {
        spelling(t): o['label']
        for o in options
        for t in (o['text'], f'{o["label"]}. {o["text"]}')
    }
    best = max((n for n in names if n and rest.startswith(n + ' ')), key=len, default=None)
    return {names[best]} if best and not rest[len(best):].startswith((' or ', ' cut ')) else set()

def meant(label: str, beside: str, options: list) -> set:
    "The label, and the option that the words beside it are, fit better, or those that they name, if there are any"
    words = phrase(beside)
    named = {o['label'] for o in options if f' {spelling(o["text"])} ' in f' {words} '}
    if len(named - {label}) > 1 and not re.search(r'\b(?:not|nor|than|or|others?)\b', words):
        return named | {label}
    whole = begins_with(beside.strip(' .:)-–—"'), options)
    if whole: return whole | {label}
    fits = text_fits(beside, options)
    best = max(fits, key=fits.get, default=label)
    better = (
        best != label and fits[best][0] >= 2 / 3 and fits[best] > fits.get(label, (0, 0))
    )
    return {label, best} if better else {label}

STATED = re.compile(
    r'(?:(?<!incorrect )(?<!wrong )(?<!not the )(?<!other'
    r' )\b(?:answer|choice|option|preference|diagnosis|correct|most'
    r' likely|best)\b[^.:=\n~]{0,30}?(?:\bis|\bwould be|\bshould be|\bmust be|:|=|\s[-–]\s)'
    r"|(?<!not )(?<!n't )(?<!n't we )\b(?:choose|select|pick|go with|opt for|(?:i'd|i would|i'll)"
    r" (?:say|give|take|go for)|vote for|going (?:with|for))\b(?:\s(?:factor|answer))?"
    r'|"(?:final_)?answer"\s?:\s?\{\s?"(?:label|letter)"\s?:|\bfinal\s?:|答案(?:是|为|:)?|应?故?选(?:择|项)?(?:是|为|:)?)[\s:"]*(?:(?:therefore|actually|clearly|exactly|most'
    r' likely|likely|probably|indeed|that|option|choice|letter)\s)*',
    re.I,
)
STATEMENT_END = r'''(?:(?<=[)\]])|(?=\s?(?:$|[,;:!()\n。，；"}\u4e00-\u9fff]|\.(?!\s?[a-z])|\.\s(?:because|since|as)\b|[-–—]\s|(?:because|since|as|for|which|due|given|based|rather|over|instead|and|or|~)(?!\w))))'''
OPTION_LINE = re.compile(r'(?m)^\(?([A-Z])[).:、](?!.*\. )')
SORRY = re.compile(   # `A... no, C`
    r"\W{0,6}(?i:no|nope|sorry|i mean|or rather|make that)\b\W{0,3}(?i:it's |option )?\(?[A-Z](?![\w'])"
)
OR_ANOTHER = re.compile(  # `C, or D?`
    r"[\s,;?()]{0,4}(?:\b(?:or|oder|ou|o)\b|还是|或者?)[\s,]?(?:(?i:perhaps|maybe|possibly|else|option|even),?\s)*\(?[A-Z](?![A-Za-zÀ-ɏ'’])"
)
TAKEN_BACK = re.compile(r'[^.\n]{0,60}\b(?:which|that) (?:is|was) (?:incorrect|wrong|not\b)')

LEADING = (
    r"the|this|that|then|and|but|so|also|thus|hence|therefore|because|since|as|overall|in|my|our|your|i|we|you|it|would|will|"
    r"should|must|can|have|has|'d|'ll|think|believe|conclude|say|is|are|be|am|a|an|of|for|to|final|right|correct|best|most|"
    r"single|only|accepted|appropriate|likely|possible|probable|clear|sure|confident|certain|here|opinion|view|case|"
    r"question|patient|according|above|given|considering|all|based|on|to|findings|presentation|these|"
    r"por|lo|tanto|as[ií]|que|entonces|creo|yo|dir[ií]a|mi|opini[oó]n|en|sin|duda|la|el|"
    r"donc|je|pense|crois|dirais|par|cons[eé]quent|ainsi|alors|sans|doute|[aà]|mon|avis|le|"
    r"daher|somit|deshalb|ich|denke|glaube|dass|meiner|meinung|nach|ohne|zweifel|die|das"
)
KNOWN_LEAD = re.compile(rf'(?:\W|\d|\b(?:{LEADING})\b|本题|本例|因此|所以|综上(?:所述)?|综合(?:分析|考虑)|故|则|应该?|考虑|该?患者的?|我|'
                        r'选择|正确|最终|最|可能|这道题|认为|的|是|为|根据|以上|分析|诊断|答案)*', re.I)
SUPPOSED = re.compile(
    r'\W*(?:if|had|were|unless|suppos\w+|assuming|si|wenn|falls|h[aä]tte|w[aä]re|如果|若|假如|假设)(?!\w*\s(?:asked|forced|pressed))(?![a-zà-ÿ])',
    re.I,
)

def certain(text: str, start: int) -> bool:   # start: where a statement begins
    "Whether nothing but known words stands before a statement in its clause, and its sentence is no supposition"
    sentence = re.split(r'[.!?;。\n]\s*', text[:start])[-1]
    clause = re.split(r'[,:~|"]|\b(?:so|thus|therefore|hence|and|but|because|donc|also|daher|somit)\b', sentence)[-1]
    return bool(KNOWN_LEAD.fullmatch(clause)) and not SUPPOSED.match(sentence)

def listed(text: str, options: list) -> set:
    "The labels of a list that a text begins with, if it is a list: *The answer is:* and then all options"
    labels = set()
    for line in text.split('\n')[:len(options)]:
        m = OPTION_LINE.match(line)
        if not m or not labels_in(m[1], options): break
        labels.add(m[1])
    return labels if len(labels) > 1 else set()

def item_of(statement: str, rest: str, options: list) -> re.Match | None:
    "The letters that a statement is followed by; `A. birch` is one only where an option begins like that"
    item = re.match(
        ITEMS + ('' if statement.lower().endswith(('option ', 'choice ', 'letter ')) else STATEMENT_END),
        rest[:80],
    )
    before = re.match(rf'{ITEM}\. ', rest[:80])
    return item or (before if before and begins_with(rest[before.end():], options) else None)

def all_labels(options: list) -> set: return {o['label'] for o in options}

def letters_of(item: str, after: str, rest: str, options: list) -> set:   # after: behind the item; rest: from it on
    "The options that the letters of a statement mean; all of them where nobody knows what was meant"
    unknown = set(re.findall(r'\b[A-Z]\b', item)) - all_labels(options)   # `Choose X`
    if unknown or SORRY.match(after) or OR_ANOTHER.match(after): return all_labels(options)
    labels = labels_in(item, options)
    return listed(rest, options) or (meant(*labels, after, options) if len(labels) == 1 else labels)

def stated_letter(text: str, options: list) -> set:
    """`The answer is B because A is wrong`, `Answer: (B)`, `I choose B`, `答案：B`; with a doubtful statement beside
    it, both"""
    words = options_only(plain(text))
    sure = set()
    doubtful = set()
    for m in STATED.finditer(words):
        rest = words[m.end():m.end() + 400]
        item = item_of(m[0], rest, options)
        if not item or TAKEN_BACK.match(rest[item.end():]): continue
        labels = letters_of(item[0], rest[item.end():], rest, options)
        if labels == all_labels(options): return labels
        if certain(words, m.start()): sure |= labels
        else: doubtful |= labels
    return sure | doubtful if sure or not doubtful else all_labels(options)

def stated_text(text: str, options: list) -> set:
    "`The most likely diagnosis is Birch syndrome`"
    words = plain(text)
    rests = [words[m.end():] for m in STATED.finditer(words) if not TAKEN_BACK.match(words[m.end():])]
    return set().union(*(begins_with(r, options) or begins_with(re.sub(r'^\d+[.)] ', '', r), options) for r in rests))

REVERSED = re.compile(
    r'(?:^|(?<=[.,;\n"])(?<![A-Z]\.)(?<![A-Z]\)\.)) ?((?:\(?[A-Z][.)] )?[^.\n]{1,80}?),? (?:which )?(?:is|would'
    r' be|represents) (?:(?:actually|clearly|exactly|indeed|probably|likely) )?(?:the'
    r' )?(?:(?:correct|right|best)\b|(?:most likely )?(?:answer|diagnosis)\b)(?! not)',
    re.M,
)
CONCLUDED = re.compile(r'\b(?:[Tt]herefore|[Tt]hus|[Hh]ence|[Ss]o),?\s\(?([A-Z])\)?(?=\s?(?:[.\n]|$))')

REVERSED_LABEL = re.compile(
    r'(?:[Tt]he )?(?:[Ss]election |[Oo]ption |[Cc]hoice |[Aa]nswer )?(?:of )?\(?([A-Z])(?=$|[).:,]|'
    r' of\b| \()\)?(.*)'
)

def reversed_label(words: str, options: list) -> set:
    "The option of `B is the correct answer`; all of them for `D. Elm fever is the answer` where D is another"
    m = REVERSED_LABEL.match(words)
    if not m: return set()
    another = (
        m[2][:1] in '.)'
        and len(phrase(m[2])) > 4
        and m[1] not in text_fits(m[2], options)
    )
    if another: return all_labels(options)
    return {l for x in labels_in(m[1], options) for l in meant(x, m[2], options)}

def reversed_name(words: str, options: list) -> set:
    "The option of `Hepatitis C is the answer`"
    name = re.split(r'\b(?:but|however|so|thus|therefore|hence),? ', words)[-1]
    length = {o['label']: len(spelling(o['text']).split()) for o in options}
    return {l for l in begins_with(name, options) if len(spelling(name).split()) <= length[l] + 3}

def reversed_statement(text: str, options: list) -> set:
    "`B is the correct answer`, `Hepatitis C is the answer`, `so B.`"
    words = options_only(plain(text))
    labels = [reversed_label(m[1].lstrip('~ ,;'), options) for m in REVERSED.finditer(words)]
    names = [reversed_name(m[1], options) for m in REVERSED.finditer(plain(text)) if len(spelling(m[1])) > 1]
    concluded = [labels_in(m[1], options) for m in CONCLUDED.finditer(words)]
    return set().union(*labels, *names, *concluded)

STRICT_END = r"\)?(?=\s?(?:$|\n|[.!;](?!\s?[a-z])))"
SHORT_STATEMENTS = [re.compile(p + STRICT_END) for p in (
    r"(?:^|[.;:!?\n,] ?|\b(?i:so|thus|therefore|hence|then|(?<!don't )i (?:think|believe)(?: that)?),? )(?i:it's|"
    r"it is|it must be|it has to be|that's|that is|must be)\s(?i:therefore |clearly |definitely |probably "
    r")?(?i:option |answer |choice )?\(?([A-Z])",
    r'(?:^|[.!?\n] ?)(?i:definitely|certainly|clearly|surely|obviously),? (?i:option )?\(?([A-Z])',
    r'(?:^|[.;:!?\n] ?)\(?([A-Z])\)? it is(?! not)',
    r'\b(?i:leaves|leaving)(?i: us with| me with| only| with)?\s(?i:option |answer )?\(?([A-Z])',
    r'\b(?i:only) (?i:option )?\(?([A-Z])\)? (?i:remains|is left|is possible|fits)',
    r"\bnot (?i:option )?\(?[A-Z]\)?,? but (?i:rather |instead )?(?i:it is )?(?i:option )?\(?([A-Z])")]

def short_statement(text: str, options: list) -> set:
    "`It's C.`, `That leaves C.`, `so only C remains`, `not A but C`: a letter that nothing follows"
    words = plain(text)
    return set().union(*(labels_in(m[1], options) for p in SHORT_STATEMENTS for m in p.finditer(words)))

GOOD_LINE = re.compile(r'(?:[-–—:|(,]|\bis) ?(?:this is )?(?:the )?(?:correct|right|best)\b(?! (?:but|if|answer '
                       r'to))|[✓✔✅]', re.I)
BAD_LINE = re.compile(r"\b(?:not|incorrect|wrong|partly|partially|neither|isn't)\b|[✗✘❌]", re.I)

def marked_line(text: str, options: list) -> set:
    "The one line of a list of options that says *correct*, if the list has three options or more"
    lines = re.findall(r'(?m)^(?:\| ?)?\(?([A-Z])\)?(?=[).:| ])(.*)$', text)
    lines = [(l, rest) for l, rest in lines if labels_in(l, options)]
    if len({l for l, _ in lines}) < 3: return set()
    return {l for l, rest in lines if GOOD_LINE.search(rest) and not BAD_LINE.search(rest)}

RETHOUGHT = re.compile(r'\b(?:wait|correction|on second thoughts?|let me (?:reconsider|correct)|scratch that|i '
                       r'was wrong|actually,? no|no,? actually)\b', re.I)

def every_statement(text: str, options: list) -> set:
    "Every option that a text states as its answer"
    if len(set(re.findall(r'"answer"\s*:\s*"([^"]+)"', text))) > 1: return all_labels(options)
    rules = stated_letter, stated_text, reversed_statement, short_statement
    return set().union(*(rule(text, options) for rule in rules)) or marked_line(text, options)

def stated(text: str, options: list) -> set:
    "The options that a text states as its answer; after a second thought, those that it states from there on"
    labels = every_statement(text, options)
    again = list(RETHOUGHT.finditer(text))
    if not labels or not again or not every_statement(text[:again[-1].start()], options): return labels
    later = text[again[-1].end():]
    reason, *rest = re.split(r'[.!?:]\s', later, maxsplit=1)
    why = again[-1][0].lower() in ('wait', 'on second thought', 'on second thoughts')
    # it changes its mind, and does not say why
    if why and (not rest or every_statement(reason, options)): return all_labels(options)
    return every_statement(later, options) or all_labels(options)
