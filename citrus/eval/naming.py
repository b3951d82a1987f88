import functools, re, unicodedata
from decimal import Decimal
from fractions import Fraction

RAISED_DIGITS = str.maketrans('⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻', '0123456789+-')
LATEX = [(r'\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}', r'\1/\2'),
         (r'\\(?:text|math|operator)\w*\s*\{([^{}]*)\}', r'\1'),
         (r'\\times|\\cdot', '×'), (r'\\pm', '±'), (r'\\leq?\b', '≤'), (r'\\geq?\b', '≥'), (r'\\lt\b', '<'),
         (r'\\gt\b', '>'),
         (r'\\uparrow', '↑'), (r'\\downarrow', '↓'), (r'\\(?:right|long)\w*arrow', '→'), (r'\{,\}', ','),
         (r'\\[,;!% ]', ' ')]
SIGNS = [(r'<\s*sup\s*>\s*([-+]?\d+)\s*<\s*/\s*sup\s*>', r'^\1'), (r'[−–‐‑‒﹣－]', '-'), (r'<->|⇔|⟷', '↔'),
         (r'->|⇒|⟶|➔|➡', '→'),
         (r'>=|≧|⩾', '≥'), (r'<=|≦|⩽', '≤'), (r'\+/-|\+-', '±'), (r'[⇑⬆]', '↑'), (r'[⇓⬇]', '↓'),
         (r'≠|!=', ' unequal '),
         (r'↑', ' increased '), (r'↓', ' decreased '), (r'\(\s*\+\s*\)', ' positive '),
         (r'\(\s*-\s*\)', ' negative ')]

def replaced(text: str, pairs: list) -> str:   # pairs: (pattern, what takes its place)
    "A text after several replacements, in their order"
    for pattern, new in pairs: text = re.sub(pattern, new, text)
    return text

def composed(text: str) -> str:
    "A text without full-width forms, accents and raised or lowered figures"
    text = re.sub(r'(?<=\d)[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+', lambda m: '^' + m[0].translate(RAISED_DIGITS), text.replace('＾', '^'))
    text = re.sub(r'(?<=\d)([¼½¾⅓⅔⅛])', r' \1', text.translate(RAISED_DIGITS))
    text = unicodedata.normalize('NFKD', text).replace('⁄', '/')
    return ''.join(c for c in text if not unicodedata.combining(c))

def one_form(text: str) -> str:
    "A text in which each sign and each letter has one code: powers as `^`, arrows as words"
    if '\\' in text or '{' in text: text = replaced(text, LATEX)
    if not text.isascii(): text = composed(text)
    return replaced(text, SIGNS) if re.search(r'[^\w\s.,;:?]', text) else text

LARGEST = 30   # Powers beyond this are left as they are written

def scaled_number(m: re.Match) -> str:
    "A number with a power of ten, worked out"
    power = int(m[2])
    if abs(power) > LARGEST: return m[0]
    return f'{Decimal(m[1] or 1).scaleb(power):f}'

UNITS = 'mg|g|kg|ug|ng|ml|dl|l|mm|cm|m|km|mmol|mol|meq|mmhg|iu|hz|bpm|kcal'
PLAIN_NUMBERS = [(r'\bmcg\b', 'ug'), (r'[$€£¥]\s*(?=[-+.]?\d)', ''),
           (r'(?<=[\d])\s*(?:×|\*|x)\s*(?=10\s*(?:\^|\*\*))', 'e'),
           (r'(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?![\d,])', lambda m: m[1].replace(',', '')),
           (r'(?<![\d.,])(\d+),(\d{1,2})(?![\d,])', r'\1.\2'), (r'(?<![\w.])\.(?=\d)', '0.'),
           (r'(?<![\w.])(?:(\d+(?:\.\d+)?)e)?10\s*(?:\^|\*\*)\s*\{?\s*\(?([-+]?\d{1,3})\)?\s*\}?', scaled_number),
           (r'(?<![\w.])(\d+(?:\.\d+)?)e([-+]?\d{1,3})\b', scaled_number),
           (r'(?<![\w.])(\d+)\.0+(?![\d.])', r'\1'), (r'(?<![\w.])(\d+\.\d*[1-9])0+(?![\d.])', r'\1'),
           (r'((?<=\d)|(?<=\d[a-z]))\s+([-+])\s+(?=\d)', r'\2'),
           (rf'(?<![\w.])(\d+(?:\.\d+)?)({UNITS})\b', r'\1 \2'), (r'\^', '')]

IN_WORDS = 'zero one two three four five six seven eight nine ten eleven twelve'.split()

@functools.lru_cache(maxsize=1 << 14)
def number(text: str) -> Fraction | None:
    "The value of a text that is a number and nothing else"
    if text.strip(' .').lower() in IN_WORDS: return Fraction(IN_WORDS.index(text.strip(' .').lower()))
    text = replaced(one_form(text).casefold(), PLAIN_NUMBERS[:-1]).strip(' .')
    m = re.fullmatch(r'([-+]?)\s*(?:(\d+)\s+)?(\d+(?:\.\d+)?)(?:\s*/\s*(\d+(?:\.\d+)?))?', text)
    if not m or (m[2] and not m[4]) or (m[4] and not Fraction(m[4])): return None
    value = Fraction(m[2] or 0) + Fraction(m[3]) / Fraction(m[4] or 1)
    return -value if m[1] == '-' else value

ROMAN = {n: str(i + 1) for i, n in enumerate('i ii iii iv v vi vii viii ix x xi xii xiii xiv xv'.split())}
COUNTED = 'types?|subtypes?|stages?|grades?|class|factors?|complex|groups?|nerves?|phase|category|level|bipolar'
AFTER_KIND = re.compile(rf'\b({COUNTED})[\s-]+([ivx]+)([a-c]?)(?!\w)', re.I)
ALONE = re.compile(r'()\b(II|III|VI|VII|VIII|IX|XI|XII|XIII|IV(?=[A-Ca-c]?\W*$))([A-Ca-c]?)\b')
SPELLED = {
    'sjoe': (r'sjoe', 'sjo'),
    'haem': (r'haem', 'hem'),
    'tumour': (r'\btumour', 'tumor'),
    'colour': (r'colour', 'color'),
    'sulph': (r'sulph', 'sulf'),
    'leucocyt': (r'leucocyt', 'leukocyt'),
    'fibre': (r'\bfibre', 'fiber'),
    'centre': (r'\bcentre', 'center'),
    'litre': (r'litre', 'liter'),
    'behaviour': (r'behaviour', 'behavior'),
    'ae': (r'(?<=[a-z])ae(?=[a-z]{2})|\bae(?=[a-z]{4})', 'e'),
    'oea': (r'(?<=rrh)oea|(?<=pn)oea', 'ea'),
    'oe': (r'(?<=[a-z]{2})oe(?=[a-z]{2})|\boe(?=[a-z]{4})|\b([cf])oe(?=[a-z]{3})', r'\1e'),
    'isation': (r'isation', 'ization'),
    'ised': (r'(?<=\w{4})ised\b', 'ized'),
}

def arabic(m: re.Match) -> str:
    "A Roman numeral as a number, with the letter that follows it"
    kind, numeral, letter = m.groups()
    if numeral.lower() not in ROMAN: return m[0]
    return f'{kind} {ROMAN[numeral.lower()]}{letter}'.strip()

@functools.lru_cache(maxsize=256)
def greek(letter: str) -> str:
    "The name of a Greek letter"
    return f' {unicodedata.name(letter).split()[-1].lower()} '

def spelled(text: str) -> str:
    "A text in lower case with American spelling, the names of Greek letters and Arabic numerals"
    text = AFTER_KIND.sub(arabic, ALONE.sub(arabic, text) if 'I' in text else text).casefold()
    if not text.isascii(): text = re.sub(r'[µμ](?=[gmls]\b)', 'u', text)
    if not text.isascii(): text = re.sub(r'-?([α-ω])-?', lambda m: greek(m[1]), text)
    return replaced(text, [pair for hint, pair in SPELLED.items() if hint in text])

COMMON_NAMES = '''
amyotrophic lateral sclerosis=ALS=Lou Gehrig disease; granulomatosis with polyangiitis=Wegener granulomatosis=GPA
eosinophilic granulomatosis with polyangiitis=Churg Strauss syndrome=EGPA; multiple sclerosis=MS
trisomy 21=Down syndrome; trisomy 18=Edwards syndrome; trisomy 13=Patau syndrome; monosomy X=Turner syndrome=45 X
47 XXY=Klinefelter syndrome; chronic obstructive pulmonary disease=COPD; systemic lupus erythematosus=SLE
rheumatoid arthritis=RA; tuberculosis=TB; myocardial infarction=MI; acute myocardial infarction=AMI=heart attack
urinary tract infection=UTI; deep vein thrombosis=deep venous thrombosis=DVT
gastroesophageal reflux disease=GERD=GORD; congestive heart failure=CHF; diabetic ketoacidosis=DKA
hypertension=HTN=high blood pressure
type 1 diabetes mellitus=type 1 diabetes=T1DM=insulin dependent diabetes mellitus
type 2 diabetes mellitus=type 2 diabetes=T2DM; acute myeloid leukemia=AML; chronic myeloid leukemia=CML
chronic lymphocytic leukemia=CLL; acute lymphoblastic leukemia=ALL; hepatocellular carcinoma=HCC=hepatoma
benign prostatic hyperplasia=BPH; polycystic ovary syndrome=PCOS=Stein Leventhal syndrome
immune thrombocytopenia=ITP=immune thrombocytopenic purpura=idiopathic thrombocytopenic purpura
thrombotic thrombocytopenic purpura=TTP; hemolytic uremic syndrome=HUS; disseminated intravascular coagulation=DIC
acute respiratory distress syndrome=ARDS; syndrome of inappropriate antidiuretic hormone=SIADH
human immunodeficiency virus=HIV; hepatitis B=HBV=hepatitis B virus; hepatitis C=HCV=hepatitis C virus
hepatitis A=HAV=hepatitis A virus; cytomegalovirus=CMV; Epstein Barr virus=EBV; respiratory syncytial virus=RSV'''

MORE_NAMES = '''
coronavirus disease 2019=COVID 19=SARS CoV 2; chronic kidney disease=CKD; acute kidney injury=AKI
autosomal dominant polycystic kidney disease=ADPKD; atrial fibrillation=AF=AFib; Guillain Barre syndrome=GBS
neurofibromatosis type 1=NF1=von Recklinghausen disease; neurofibromatosis type 2=NF2
tuberous sclerosis=TSC=tuberous sclerosis complex=Bourneville disease; obstructive sleep apnea=OSA
attention deficit hyperactivity disorder=ADHD; post traumatic stress disorder=PTSD
Wilson disease=hepatolenticular degeneration; Huntington disease=Huntington chorea
hereditary hemorrhagic telangiectasia=HHT=Osler Weber Rendu disease=Rendu Osler disease; Hansen disease=leprosy
cystic fibrosis=CF=mucoviscidosis; spinal muscular atrophy=SMA; Duchenne muscular dystrophy=DMD
myasthenia gravis=MG; pertussis=whooping cough; vitamin B1=thiamine; vitamin C=ascorbic acid
vitamin B12=cobalamin; scurvy=vitamin C deficiency; beriberi=thiamine deficiency
hyperthyroidism due to Graves disease=Graves disease=Basedow disease
Hashimoto thyroiditis=chronic lymphocytic thyroiditis; primary adrenal insufficiency=Addison disease
cerebrovascular accident=CVA=stroke; transient ischemic attack=TIA; inflammatory bowel disease=IBD
irritable bowel syndrome=IBS; celiac disease=celiac sprue; acetaminophen=paracetamol; epinephrine=adrenaline
norepinephrine=noradrenaline; albuterol=salbutamol; furosemide=frusemide; meperidine=pethidine
infectious mononucleosis=glandular fever; chickenpox=varicella; shingles=herpes zoster; measles=rubeola
German measles=rubella; giant cell arteritis=temporal arteritis=GCA; polyarteritis nodosa=PAN'''

SPECIAL_NAMES = '''
IgA vasculitis=Henoch Schonlein purpura=HSP; IgA nephropathy=Berger disease; Lyme disease=Lyme borreliosis
Chagas disease=American trypanosomiasis; kala azar=visceral leishmaniasis; syphilis=lues
glucose 6 phosphate dehydrogenase deficiency=G6PD deficiency; phenylketonuria=PKU; maple syrup urine disease=MSUD
Hurler syndrome=mucopolysaccharidosis type 1H; mucopolysaccharidosis type 2=Hunter syndrome=MPS type 2
familial Mediterranean fever=FMF; Charcot Marie Tooth disease=CMT; adult T cell leukemia=ATLL
hypertrophic cardiomyopathy=HCM=HOCM; Wolff Parkinson White syndrome=WPW; pneumocystis pneumonia=PCP=PJP
left bundle branch block=LBBB; right bundle branch block=RBBB; patent ductus arteriosus=PDA
ventricular septal defect=VSD; atrial septal defect=ASD; abdominal aortic aneurysm=AAA; tetralogy of Fallot=TOF
congenital adrenal hyperplasia=CAH; primary biliary cholangitis=PBC=primary biliary cirrhosis
primary sclerosing cholangitis=PSC; polymyalgia rheumatica=PMR; obsessive compulsive disorder=OCD
benign paroxysmal positional vertigo=BPPV; ST elevation myocardial infarction=STEMI
non ST elevation myocardial infarction=NSTEMI; severe combined immunodeficiency=SCID
pelvic inflammatory disease=PID; chronic inflammatory demyelinating polyneuropathy=CIDP
progressive supranuclear palsy=PSP; multiple system atrophy=MSA; herpes simplex virus=HSV; sickle cell anemia=HbSS
antiphospholipid syndrome=APS; heparin induced thrombocytopenia=HIT; common variable immunodeficiency=CVID
magnetic resonance imaging=MRI; computed tomography=CT; electrocardiogram=ECG=EKG; complete blood count=CBC
white blood cell=WBC'''

NAME_PART = re.compile(r'(?<![\w.])[-+]?\d+(?:\.\d+)?\w*(?:[-+/:]\w*\d\w*)*|[^\W_]+|[<>≤≥±→←↔%+&]')

def plain_words(text: str) -> list:
    "The words, numbers and signs of a text, each in one form"
    text = replaced(spelled(one_form(text)), [(r"(?<=\w)['’`´](?:s\b)?", ''), (r'\bper\s?cent\b', '%')])
    if any(c.isdigit() for c in text): text = replaced(text, PLAIN_NUMBERS)
    if '+' in text: text = re.sub(r'(?<=[a-z0-9])\+(?![\w+]|\s*\d)', ' positive ', text)
    if '-' in text: text = re.sub(r'(?<=[a-z0-9])-(?=$|[\s,.;:)\]])(?!\s*(?:and|or|to|und|oder|y|et)\b)',
        ' negative ', text)
    text = re.sub(r'\b(alpha|beta|gamma|delta)(?=\d)', r'\1 ', re.sub(r'^\W*(?:an?|the)(?=\s+\w)', '', text))
    parts = ['and' if w in '+&' else w for w in NAME_PART.findall(text)]
    return [w for part in parts for w in re.split(r'(?<=\w)([-+/:])', part)]

def name_groups() -> list:   # `name=other name=...`, the one to use first
    "The groups of the table"
    text = '\n'.join((COMMON_NAMES, MORE_NAMES, SPECIAL_NAMES))
    return [g for g in re.split(r'[;\n]\s*', text) if g]

@functools.cache
def known_names() -> dict:   # a name, as `plain_words` joins them -> the name it is known by
    "The table of names that mean the same"
    groups = [[' '.join(plain_words(n)) for n in g.split('=')] for g in name_groups()]
    return {n: group[0] for group in groups for n in group[1:]}

@functools.lru_cache(maxsize=1 << 16)
def spelling(text: str) -> str:
    "A name or a text in one spelling; a name in it is found as a part of it"
    return ' '.join(plain_words(text))

def canonical(text: str) -> str:
    "A name in the form in which two spellings of it, or two names of the same, are equal"
    return known_names().get(spelling(text), spelling(text))

MAY_LACK = {'disease', 'syndrome', 'disorder', 'infection'}
ABROAD = [(r'\bleuc(?=[ae]mi[ae]\b)', 'leuk'), (r'(?<=\w{2})[ae]mie\b', 'emia'),
          (r'\b(?:syndrom|sindrome|sd)\b', 'syndrome'), (r'\b(?:maladie|enfermedad|krankheit|morbus)\b', 'disease'),
          (r'^(syndrome|disease) (?:(?:of|de|du|des|d|von|del) )?(?:la |the )?(.+)$', r'\2 \1'),
          (r'^(?:un|une|une?o|el|la|le|ein|eine|das|der|die) (?=\w{4})', '')]
# names, and abbreviations, that are words too
EVERYDAY = set('''
down best still short charge hunter hand may grave fed all as it aids ms hit his her him she he map
cold rest lead blue white brown gray field fields cat fish good cross sweet bloom page paget pan'''.split())
SMALL = set('''
of due to from with without after before by in no not than non and or secondary left right versus vs
unlike except but'''.split())

def one(word: str) -> str:
    "A word in the singular, as far as spelling tells"
    return (
        word[:-1]
        if len(word) > 4 and word.endswith('s') and not word.endswith(('ss', 'us', 'is'))
        else word
    )

@functools.cache
def long_forms() -> dict:   # an abbreviation of three letters or more -> the words that it stands for
    "The abbreviations of the table that are no everyday word"
    groups = [g.split('=') for g in name_groups()]
    short = {other.lower(): group[0] for group in groups for other in group[1:] if re.fullmatch(r'[A-Z]{3,6}', other)}
    return {other: plain_words(name) for other, name in short.items() if other not in EVERYDAY}

def name_words(text: str) -> list:
    "The words of a text in the singular, without *type* before a number or letter, with abbreviations written out"
    words = re.sub(r'\b(?:sub)?type (?=\d+[a-z]?\b|[a-z]\b)', '', text).split()
    return [one(w) for word in words for w in long_forms().get(word, [word]) if w != 'the']

@functools.lru_cache(maxsize=1 << 16)
def key(name: str) -> tuple:   # Words
    "The words by which names are compared"
    known = replaced(canonical(name), ABROAD)
    known = known_names().get(known, known)
    words = name_words(known)
    if len(words) < 2 or words[-1] != 'infection': return tuple(words)
    bare = ' '.join(words[:-1])
    return tuple(name_words(known_names().get(bare, bare)))

def packed(words: tuple) -> str:
    "Words without blanks; two numbers stay apart"
    return re.sub(r'(?<=\d) (?=\d)', '|', ' '.join(words)).replace(' ', '')

def same_words(a: tuple, b: tuple) -> bool:
    "Whether two names have the same words, in any order if no small word gives them one"
    if a == b or packed(a) == packed(b): return bool(a)
    return sorted(a) == sorted(b) and not SMALL & set(a) and all(re.fullmatch(r'\w+', w) for w in a)

def lacks_last(short: tuple, long: tuple) -> bool:
    "Whether a name is another without a last word that may be missing"
    if len(long) != len(short) + 1 or long[-1] not in MAY_LACK or set(short) <= MAY_LACK: return False
    return same_words(short, long[:-1])

@functools.lru_cache(maxsize=1 << 16)
def same_name(a: str, b: str) -> bool:
    "Whether two names say the same; numbers are compared as numbers"
    if (number(a) is None) != (number(b) is None): return False
    if number(a) is not None: return number(a) == number(b)
    short, long = sorted((key(a), key(b)), key=len)
    return same_words(short, long) or lacks_last(short, long)
