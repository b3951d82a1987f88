import functools, re, unicodedata

from citrus.eval.naming import LATEX, replaced

CUT = ' §cut'
BOXED = re.compile(r'\\f?boxed\s?\{((?:[^{}]|\{(?:[^{}]|\{[^{}]{0,200}\}){0,200}\}){0,300})\}')

def answer_zone(
    raw: str,           # The reply
    cut: bool = False,  # Whether it was cut at the token limit
) -> tuple:             # (kind, text): kind is 'block', 'open block', 'tail' or 'open think'
    "The part of a reply that may hold its answer"
    whole = re.sub(r'</?(?:think|answer)>', lambda m: m[0].lower(), raw, flags=re.I)
    after = whole.rpartition('</think>')[2]
    closed = re.findall(r'<answer>((?:(?!<answer>).)*?)</answer>', after, re.S)
    if closed: return 'block', closed[-1].strip()
    end = CUT if cut else ''
    _, tag, rest = after.rpartition('<answer>')
    if tag: return 'open block', rest.strip() + end
    boxes = {b.strip() for b in BOXED.findall(after)}
    if len(boxes) == 1 and '<think>' not in after: return 'block', boxes.pop()
    if '<think>' in after: return 'open think', '' if cut else after.strip()[-200:]
    return 'tail', after.strip() + end

ZONE_CHARACTERS = 4000   # Characters of a zone that are read: half from its beginning, half from its end

def ends_of(text: str) -> str:
    "A text that is read in a moment however long it is"
    half = ZONE_CHARACTERS // 2
    return text if len(text) <= ZONE_CHARACTERS else f'{text[:half]}\n~\n{text[-half:]}'

RIGHT = (
    r'(?:correct[oa]|final|adecuad[oa]|m[aá]s probable|correcte?|finale?|exacte?|juste|(?:la |le )?plus'
    r' probable|à retenir)'
)
GERMAN = r'(?:richtige|korrekte|beste|endgültige|wahrscheinlichste)'
LETTER_AHEAD = r'(?=\(?[A-Z](?![A-Za-zÀ-ɏ]))'
FOREIGN_FORMS = [   # what gives or refuses an answer in other languages; what has to follow; its English
    (rf'\b(?:la |mi |el )?(?:respuesta|opci[oó]n|alternativa|elección|diagnóstico)(?: {RIGHT})*\s?(?:es|sería|'
     rf':)\s?(?:la |el )?(?:opción |letra |respuesta )?', '', 'the answer is '),
    (r'\b(?:elijo|escojo|selecciono|marco)(?: la)?(?: opción| letra)?\s', LETTER_AHEAD, 'I choose '),
    (r'\bes decir, (?:la |el )?', LETTER_AHEAD, 'the answer is '),
    (rf"\b(?:la |ma |le )?(?:bonne |meilleure )?(?:r[eé]ponse|proposition|diagnostic|option)(?: "
     rf"{RIGHT})*\s?(?:est|serait|:)\s?(?:donc )?(?:la |le |l')?(?:réponse |option |lettre )?", '', 'the answer is '),
    (r"\bc'est (?:donc )?(?:la |l')?(?:réponse |option |lettre )?", LETTER_AHEAD, "it's "),
    (r'\bje (?:choisis|retiens|dirais)(?: la)?(?: réponse| lettre)?\s', LETTER_AHEAD, 'I choose '),
    (rf'\b(?:die |meine )?(?:{GERMAN} )*(?:antwort|lösung|auswahl|diagnose|option)\s?(?:ist|lautet|wäre|'
     rf':)\s?(?:also |daher |somit )?(?:die )?(?:antwort |option |lösung )?', '', 'the answer is '),
    (r'\b(?:richtig|korrekt) ist (?:also |daher |somit )?(?:die )?(?:antwort |option |lösung )?', LETTER_AHEAD,
    'the answer is '),
    (r'\b(?:es|das|dies) ist (?:also )?', LETTER_AHEAD, "it's "),
    (r'\bich (?:wähle|nehme)(?: die)?(?: antwort| option)?\s', LETTER_AHEAD, 'I choose ')]

LATER_FORMS = [  # after those above
    (r'选项\s?', r'(?=[A-Z]\s?是?(?:正确|对))', 'option '),
    (
        r'\bist (?:damit |somit |also )?(?:die|meine) (?:richtige |korrekte |beste )?antwort ',
        LETTER_AHEAD,
        'the answer is ',
    ),
    (r"\b(?:no es|nicht|n'est pas|pas) (?:la |die )?", LETTER_AHEAD, 'not '),
    (r'\b(?:sino|sondern|mais)(?: la| die)? ', LETTER_AHEAD, 'but '),
    (r'(?:不是|并非|不选)\s?', LETTER_AHEAD, ' not '),
    (r'而是\s?选?', LETTER_AHEAD, ' but '),
    (
        (
            r"\b(?:es|ist|est|sind|son|sont) (?:falsch|incorrect[oae]s?|errónea|fausse?s?|faux|nicht"
            r" (?:richtig|korrekt))\b"
        ),
        '',
        'is wrong',
    ),
    (
        (
            r"\bno es correct[oa]\b|\bn'est pas (?:correcte?|la bonne réponse)\b|\bist"
            r" nicht\b|是?(?:错误|不正确|不对)的?"
        ),
        '',
        ' is wrong',
    ),
    (
        r"(?<!no )\b(?:creo que )?es la |\bil s'agit (?:donc )?de (?:la )?(?:réponse |lettre |l'option )?",
        LETTER_AHEAD,
        "it's ",
    ),
    (r'答案应该?(?:是|为|选)', '', '答案:'),
    (r'(?<=[A-Z])\s?选?项是?', '', ' '),
    (r'(?<=[A-Z])\s?是?(?:正确|对)(?:的|答案)?(?![A-Za-z])', '', ' is the correct answer'),
    (
        r"(?<=\b[A-Z])\)? (?:es|est|ist) (?:la |die )?(?:correct[ae]|m[aá]s (?:probable|adecuada)|plus"
        r" probable|"
        r"wahrscheinlichste|bonne|exacte|juste|richtig(?:e antwort)?|korrekt)\b",
        '',
        ' is the correct answer',
    ),
    (r'最(?:符合|合适|恰当|佳)的?(?:诊断|选项|答案)?(?:是|为|:)\s?', '', '答案:'),
    (r'\b(?:la |die )?(?:opción|respuesta|réponse|antwort|lösung) ', r'(?=[A-Z] is the correct)', 'option '),
    (r'(?<!不)我认为(?:应该|应)?(?:是|为|选)?\s?', LETTER_AHEAD, '答案:'),
    (r'(?:最可能的?|最终|正确|首先考虑的?)(?:诊断|选项|答案)(?:应?(?:考虑)?(?:是|为))?:?\s?', '', '答案:'),
    (r'(?<!鉴别)(?<!不能)(?<!不)(?<!无法)诊断(?:应?(?:考虑)?(?:是|为)|:)\s?', '', '答案:'),
]

TELLS_OF = re.compile(r"[^\W\d_a-zA-Z]|(?i:\b(?:es|est|ist|sino|sondern|mais|respuesta|opcion|reponse|antwort|"
                      r"c'est|elijo|agit)\b)")

def in_english(text: str) -> str:
    "A text in which the set phrases of other languages that give an answer are in the form that the rules read"
    if not TELLS_OF.search(text): return text
    for words, follows, english in FOREIGN_FORMS + LATER_FORMS: text = re.sub(f'(?i:{words}){follows}', english, text)
    return re.sub(r'[^\S\n]+', ' ', text).strip()

REST = (   # to the end of what is denied
    r"(?:(?!\b(?:but|so|therefore|thus|hence|sino|sondern|mais|donc|also|because)\b|\.(?!\d))[^;!?\n。]){0,160}"
)
CLAUSE = r'[^.,;\n。]{0,60}'
DENIED_IN_ENGLISH = rf"""
    \b(?:i|we|one|you)\s(?:\w+\s)?(?:do\snot|don't|did\snot|didn't|would\snot|wouldn't|can\s?not|can't|could\snot|never)\s
        (?:\w+ly\s)?(?:think|believe|feel|say|suspect|agree|suppose|consider|accept|claim|conclude){REST}
    |\b(?:i|we)\s(?:\w+\s)?(?:doubt|disagree|question|deny|have\s(?:my\s)?doubts)\b{REST}
    |\b(?:(?:initially|originally|previously|at\sfirst),?\s(?:i\s)?|i\s(?:first|once|initially|originally)\s)
        (?:thought|believed|chose|picked|considered){REST}
    |\b(?:it\sis|it's|it\swould\sbe|it\sseems)\s(?:\w+ly\s)?(?:false|untrue|wrong|incorrect|not\s(?:true|the\scase|clear|likely|certain)
        |unclear|unlikely|doubtful|questionable|a\smistake|an\serror)\s(?:that|whether|if|to)\b{REST}
    |\b(?:some|others|many|people|students|one|you)\s(?:might|may|could|would|will|often)?\s?
        (?:be\stempted|think|say|argue|believe|assume|claim)\b{REST}
    |\b(?:never|not|n't|refus\w*|reluctan\w*|tempt\w*|hesita\w*|unwise|inappropriate)\s(?:\w+\s)?to\s(?:choose|select|pick|go\swith|opt\sfor){REST}
    |\bnever\s(?:choose|select|pick|go\swith|opt\sfor){REST}
    |\b(?:if|unless)\s(?!(?:i|we|you|one|forced|asked|pressed)\b)[^.;\n]{{0,120}}?\b
        (?:answer|choice|option|diagnosis)\s(?:would|could|might|may)\b{REST}
    |\b(?:least|less|worst|poorest|weakest|wrong|incorrect|false|inappropriate|improbable|unlikel\w*|contraindicated|second|next|runner-up)\b
        (?:[ -](?!(?:because|since|as|and|the|that|so)\b)\w+){{0,4}}?\s(?:answer|choice|option|preference|diagnosis|correct|best|most\slikely|one)\b[^.,;:\n]{{0,30}}?
        (?:\bis\b|\bwould\sbe\b|:|=){CLAUSE}"""

DENIED_ELSEWHERE = rf"""
    \bno\s(?:creo|pienso|considero|opino|elijo|elegir[ií]a|escojo|escoger[ií]a|selecciono|seleccionar[ií]a|marco|marcar[ií]a
        |dir[ií]a|estoy|me\sparece|recomiendo|es\s(?:cierto|verdad|probable)){REST}
    |\b(?:dudo|es\s(?:falso|improbable|dudoso))\sque\b{REST}
    |\b(?:je|on|nous|il)\sn(?:e\s|')\w+\s(?:\w+\s)?(?:pas|jamais|point|guère)\b{REST}
    |\b(?:je|on)\sdoute\b{REST}|\bil\sest\s(?:faux|improbable|peu\sprobable|douteux)\sque\b{REST}
    |\bich\s(?:glaube|denke|meine|finde|wähle|nehme|würde|bin|entscheide)\b[^.,;\n]{{0,30}}\bnicht\b{REST}
    |\bich\s(?:be)?zweifle\b{REST}|\bes\sist\s(?:falsch|unwahrscheinlich|zweifelhaft|nicht\s(?:richtig|wahr|so)),?\sdass\b{REST}
    |\b(?:peor|fals[ao]|incorrect[ao]|err[óo]ne[ao]|mala|menos\s\w+|mauvaise?|pire|fausse|moins\s\w+|falsche|schlechteste
        |unwahrscheinliche?(?:re|ste)?|ungeeignet\w*|inkorrekte|unrichtige|am\swenigsten\s\w+)\b(?:\s\w+){{0,3}}?\s?
        (?:\b(?:es|est|ist|lautet|wäre|sería|serait)\b|:){CLAUSE}
    |(?:(?<!不得)不(?:太|会|敢|能|宜|可|必|要|建议|推荐|主张|应该?|适合)*|切勿|勿|别|避免|莫|无法|难以|怀疑|质疑)
        (?:认为|觉得|相信|同意|选择?|考虑|诊断|支持|确定|答案)(?:(?![而应但故因]|(?<=[A-Za-z])选)[^。,;?\n]){{0,40}}
    |(?:最不(?:可能|符合|合适|恰当|适合|宜)|错误|不正确|不恰当|最差|可能性最小)的?(?:诊断|选项|答案|选择)?(?:应?(?:是|为|选)|:)[^。,;\n]{{0,30}}"""

DENIAL = re.compile(f'{DENIED_IN_ENGLISH}|{DENIED_ELSEWHERE}', re.I | re.X)
NOW = re.compile(
    r"~ ?,? ?(?:but|sino|sondern|mais)(?: (?:rather|instead|it is|it's|that it"
    r" is|option|que|es|la|el|die|für))*\s(?=\(?[A-Z](?![\w'’]))"
)

def without_denials(text: str) -> str:
    """A text in which what it denies, doubts, or calls the worst is gone: *I don't think the answer is C*; `~` is
    in its place"""
    return NOW.sub('~. The answer is ', DENIAL.sub(' ~ ', text))

@functools.lru_cache(maxsize=1024)
def plain(text: str) -> str:
    "Text without markup, full-width forms and tags"
    text = unicodedata.normalize('NFKC', text).replace('【', '(').replace('】', ')')
    if '\\' in text: text = replaced(text, LATEX)
    text = re.sub(r'\\f?boxed\s?\{\s*\(?([A-Za-z])\)?\s*\}', r'(\1)', text)
    text = re.sub(r'\*\*\s*\(?([A-Z])\)?[.:)]?\s*\*\*', r'(\1)', text)
    text = re.sub(r'[^\S\n]+', ' ', re.sub(r'</?\w+>|\\[\[\]()]|[*_`$#]', ' ', text))
    return in_english(without_denials(re.sub(r' ?\n[ \n]*', '\n', text).strip()))

NAMED = re.compile(
    r'\b((?i:vitamins?|hepatitis|influenza|types?|groups?|factor|protein|grade|stage|class|complex))\s(?=[A-Z](?![\w-])(?!\s?\())'
)
REJECTED = re.compile(
    r'''\b(?i:not|except|excludes?|excluding|eliminates?|rules?\ out|ruling\ out|rather\ than)\s(?:options?\s|choices?\s)?\(?[A-Z]\)?(?![\w-])
    |\b(?i:option\s|choice\s)?\(?[A-Z]\)?,?\s(?:which\s)?(?:is|was|can\ be|seems|are)\s(?:not|wrong|incorrect|unlikely|less|excluded|false|ruled\ out|out)\b
    |(?:排除|不选|不是)\s?\(?[A-Z]\)?''',
    re.X,
)

INSTEAD = re.compile(   # `not A but C`
    r"\s~\s,? ?but (?:rather |instead )?(?:it is |it's |is )?(?:option )?(?=\(?[A-Z](?![A-Za-z]))"
)

@functools.lru_cache(maxsize=256)
def options_only(text: str) -> str:
    """Plain text in which letters that are part of a name are tied to it (`vitamin_C`), and options that are
    refused are gone"""
    return INSTEAD.sub('', REJECTED.sub(' ~ ', NAMED.sub(r'\1_', text)))
