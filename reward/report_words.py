"""The words of chest X-ray reports that the text score reads, and which of them belong together.

Observations and groups of words are written as `reward.text.stem` returns them.
"""

from collections import defaultdict

from reward.boxes_in_text import word_set

STOP_WORDS = word_set(
    "a an the this that these those there here it its is are was were be been being has have had "
    "do does did in on at of to from with within by for as and which who where what when also "
    "image chest x ray xray radiograph film patient study seen noted present visible visualized "
    "visualised show shown shows show showing demonstrates demonstrate demonstrated appears appear "
    "appearing suggests suggest suggesting indicates indicate indicating consistent evidence "
    "finding findings sign signs identified observed located side sided due area region aspect "
    "any some can"
)
FINDINGS = word_set(
    "abscess aneurysm atelectasis blunting bronchiectasis calcification catheter collapse "
    "congestion consolidation cyst cystic device deviation edema effusion elevated emphysema "
    "enlarged fibrosis fracture granuloma hematoma hernia hyperinflation infiltrate infection "
    "lesion mass metastasis nodule opacity pacemaker pneumonia pneumothorax pneumomediastinum "
    "scarring scoliosis stent sternotomy thickening tortuous tube tuberculosis tumor widened wire "
    "dilated lucency hemorrhage embolism cavity adenopathy lymphadenopathy kyphosis osteopenia "
    "dislocation pneumoperitoneum implant port bronchitis"
)
SIDES = word_set("left right")
LEVELS = word_set("upper mid lower apical")
EXCLUSIVE = (
    SIDES,
    LEVELS,
    word_set("mild moderate severe"),
    word_set("small large"),
    word_set("smaller larger"),
    word_set("acute chronic"),
    word_set("above below"),
    word_set("midline deviation"),
    word_set("increased decreased"),
    word_set("improved worsened"),
    word_set("normal abnormal"),
    word_set("normal enlarged"),
    word_set("prominent obscured"),
    word_set("engorged sparse"),
)
"""Words of which two texts that name some must name the same."""

OBSERVATIONS = FINDINGS | word_set(
    "normal abnormal clear sharp intact stable unchanged midline small large smaller larger "
    "increased decreased improved worsened prominent obscured engorged sparse mild moderate severe "
    "acute chronic hazy haziness dense density lucent marking fluid airspace aerated expanded "
    "inflated flattened shifted rotated crowding silhouetting"
)
"""Words that state what a region looks like."""

NORMAL = word_set("normal clear sharp intact midline")
"""Words for what is as it should be."""

NAMED_BY = {
    "clear": word_set("clear hazy haziness normal"),
    **dict.fromkeys(("hazy", "haziness"), word_set("clear hazy haziness")),
    **{
        word: frozenset().union(*(group for group in EXCLUSIVE if word in group))
        for word in frozenset().union(*EXCLUSIVE)
    },
}
"""For each word that is not to be left out, the words of which an answer then has to name one."""

ALIKE = {
    **{
        word: group
        for group in (
            word_set("small mild"),
            word_set("large severe"),
            word_set("larger increased worsened"),
            word_set("smaller decreased improved"),
        )
        for word in group
    },
    **dict.fromkeys(NAMED_BY.keys() & (NORMAL | FINDINGS), FINDINGS),
}
"""Words that may be named in its place, if the reference does not have them itself."""

_GENERAL_AND_SPECIAL = (
    (
        "opacity hazy haziness dense density",
        "consolidation infiltrate airspace pneumonia infection atelectasis collapse edema "
        "congestion effusion mass nodule lesion tumor metastasis granuloma scarring fibrosis "
        "tuberculosis abscess hemorrhage",
    ),
    ("consolidation infiltrate airspace", "pneumonia infection atelectasis collapse edema"),
    ("infection", "pneumonia tuberculosis abscess bronchitis"),
    ("lesion mass", "nodule tumor metastasis granuloma abscess cyst cystic"),
    ("fluid", "effusion edema"),
    ("effusion", "blunting obscured"),
    ("edema", "congestion engorged"),
    ("atelectasis", "collapse crowding"),
    ("lucent lucency", "pneumothorax emphysema hyperinflation cavity cyst cystic"),
    ("hyperinflation", "emphysema flattened inflated expanded"),
    ("enlarged", "dilated widened aneurysm prominent tortuous adenopathy lymphadenopathy"),
    ("adenopathy", "lymphadenopathy"),
    ("deviation", "shifted rotated"),
    ("device", "catheter tube wire pacemaker stent port implant sternotomy"),
    ("wire", "sternotomy pacemaker"),
    ("port", "catheter"),
    ("cavity", "cyst cystic abscess"),
    ("granuloma", "calcification"),
    ("scarring", "fibrosis thickening"),
)


def _related() -> dict[str, frozenset[str]]:
    related: defaultdict[str, set[str]] = defaultdict(set)
    for general, special in _GENERAL_AND_SPECIAL:
        for word in general.split():
            related[word].update(general.split(), special.split())
        for word in special.split():
            related[word].update([word, *general.split()])
    return {word: frozenset(words) for word, words in related.items()}


RELATED = _related()
"""For each of these observations, the words that may mean the same, itself included.

An opacity may be a consolidation or an effusion; a consolidation is no effusion.
"""

BOTH_SIDES = word_set(
    "lungs bases apices hila hemidiaphragms diaphragms angles sulci clavicles zones lobes fields"
)
"""Plurals that mean both sides if no side is named."""
ONLY_LEFT = word_set("lingula lingular retrocardiac")
"""Words for what is only on the left; only on the right is the middle lobe."""

NEGATES_AFTER = word_set(
    "no without denies nor fails failed lacks lacking excludes exclude zero non hardly couldnt"
)
"""Negate what follows in the clause."""

NEGATES_CLAUSE = word_set(
    "not absent never neither negative cannot absence lack excluded unlikely resolved resolution "
    "resolving disappeared gone false"
)
"""Negate the whole clause; two of them cancel each other."""

CLAUSE_BREAKS = word_set("but however although though whereas while except")
NEW_SUBJECT = word_set("is are was were has have there the a an no not shows appears")
"""Behind "and", the sign of a new statement that a negation does not reach."""

UNCERTAIN = word_set(
    "possible possibly maybe perhaps might may could questionable suspected suspicious"
)
COMPARES = word_set("than compared versus vs")

SAME_WORD = {
    variant: word
    for word, variants in {
        "1": "first 1st",
        "2": "two second 2nd",
        "3": "three 3rd",  # not "third", which is also a part of a lung
        "4": "four fourth 4th",
        "5": "five fifth 5th",
        "6": "six sixth 6th",
        "7": "seven seventh 7th",
        "8": "eight eighth 8th",
        "9": "nine ninth 9th",
        "10": "ten tenth 10th",
        "11": "eleven eleventh 11th",
        "12": "twelve twelfth 12th",
        "bilateral": "bilaterally both",
        "left": "leftsided",
        "right": "rightsided",
        "mid": "middle",
        "apical": "apex apices",
        "lower": "base basal basilar bibasilar",
        "small": "tiny minimal",
        "large": "big massive",
        "normal": "unremarkable",
        "abnormal": "abnormality",
        "trachea": "tracheal",
        "deviation": "deviated displaced",
        "elevated": "higher elevation elevate raised",
        "larger": "greater",
        "increased": "increase",
        "decreased": "decrease",
        "worsened": "worse",
        "improved": "better",
        "opacity": "opacification opacifications opacities opaque",
        "edema": "oedema",
        "enlarged": "enlargement enlarge",
        "atelectasis": "atelectatic atelectases",
        "blunting": "blunted",
        "widened": "widening",
        "thickening": "thickened",
        "heart": "cardiac",
        "consolidation": "consolidative",
        "calcification": "calcified",
        "fracture": "fractured",
        "collapse": "collapsed",
        "congestion": "congested",
        "hyperinflation": "hyperinflated",
        "metastasis": "metastases",
        "hemidiaphragm": "diaphragm",
        "cavity": "cavities cavitation",
        "lingula": "lingular",
    }.items()
    for variant in variants.split()
}
