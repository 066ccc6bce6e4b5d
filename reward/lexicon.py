"""Words of chest X-ray reports that decide the sense of an answer."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STOP_WORDS = _words(
    "a an the this that these those there here it its is are was were be been being has have had "
    "do does did in on at of to from with within by for as and which who where what when also "
    "image chest x ray xray radiograph film patient study seen noted present visible visualized "
    "visualised show shown shows show showing demonstrates demonstrate demonstrated appears appear "
    "appearing suggests suggest suggesting indicates indicate indicating consistent evidence "
    "finding findings sign signs identified observed located side sided due area region aspect "
    "any some can"
)

SIDES: dict[str, frozenset[str]] = {
    "left": frozenset({"left"}),
    "right": frozenset({"right"}),
    "bilateral": frozenset({"left", "right"}),
}

LEVELS = frozenset({"upper", "mid", "lower"})

SAME_WORD: dict[str, str] = {
    "bilaterally": "bilateral",
    "both": "bilateral",
    "leftsided": "left",
    "rightsided": "right",
    "middle": "mid",
    "opacification": "opacity",
    "opacifications": "opacity",
    "opacities": "opacity",
    "opaque": "opacity",
    "oedema": "edema",
    "enlargement": "enlarged",
    "enlarge": "enlarged",
    "elevation": "elevated",
    "elevate": "elevated",
    "raised": "elevated",
    "atelectatic": "atelectasis",
    "atelectases": "atelectasis",
    "blunted": "blunting",
    "widening": "widened",
    "thickened": "thickening",
    "cardiac": "heart",
    "consolidative": "consolidation",
    "calcified": "calcification",
    "fractured": "fracture",
    "collapsed": "collapse",
    "congested": "congestion",
    "hyperinflated": "hyperinflation",
    "metastases": "metastasis",
    "diaphragm": "hemidiaphragm",
    "cavities": "cavity",
    "cavitation": "cavity",
}

FINDINGS = _words(
    "abnormal abscess aneurysm atelectasis blunting bronchiectasis calcification cardiomegaly "
    "catheter clear collapse congestion consolidation cyst cystic device deviation edema effusion "
    "elevated emphysema enlarged fibrosis fracture granuloma hematoma hernia hyperinflation "
    "infiltrate infection lesion mass metastasis nodule normal opacity pacemaker pneumonia "
    "pneumothorax pneumomediastinum scarring scoliosis shift stable stent sternotomy thickening "
    "tortuous tube tuberculosis tumor unremarkable widened wire worsened improved "
    "sharp intact increased decreased dilated lucency hemorrhage embolism cavity adenopathy "
    "lymphadenopathy kyphosis osteopenia dislocation pneumoperitoneum implant port bronchitis"
)

NEGATES_AFTER = _words("no without denies nor fails failed")
"""Negate what follows in the clause."""

NEGATES_CLAUSE = _words(
    "not absent never neither negative cannot absence lack excluded unlikely resolved"
)
"""Negate the whole clause."""

CLAUSE_BREAKS = _words("but however although though whereas while except")
