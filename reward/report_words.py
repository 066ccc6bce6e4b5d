"""The words of chest X-ray reports that the text score reads, and which of them belong together.

Observations and groups of words are written as `reward.text.stem` returns them.
"""

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
    }.items()
    for variant in variants.split()
}
