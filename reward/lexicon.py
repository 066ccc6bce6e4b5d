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

LEVELS = frozenset({"upper", "mid", "lower", "apical"})

EXCLUSIVE: tuple[frozenset[str], ...] = (
    frozenset({"left", "right"}),
    LEVELS,
    *(
        _words(group)
        for group in (
            "mild moderate severe",
            "small large",
            "smaller larger",
            "acute chronic",
            "above below",
            "midline deviation",
            "increased decreased",
            "improved worsened",
            "normal abnormal",
            "normal enlarged",
            "prominent obscured",
            "engorged sparse",
        )
    ),
)
"""Words of which two texts that name some must name the same."""

SAME_WORD: dict[str, str] = {
    "bilaterally": "bilateral",
    "both": "bilateral",
    "leftsided": "left",
    "rightsided": "right",
    "middle": "mid",
    "apex": "apical",
    "apices": "apical",
    "base": "lower",
    "basal": "lower",
    "basilar": "lower",
    "bibasilar": "lower",
    "tiny": "small",
    "minimal": "small",
    "big": "large",
    "massive": "large",
    "unremarkable": "normal",
    "abnormality": "abnormal",
    "tracheal": "trachea",
    "deviated": "deviation",
    "displaced": "deviation",
    "higher": "elevated",
    "greater": "larger",
    "increase": "increased",
    "decrease": "decreased",
    "worse": "worsened",
    "better": "improved",
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
    "abscess aneurysm atelectasis blunting bronchiectasis calcification catheter collapse "
    "congestion consolidation cyst cystic device deviation edema effusion elevated emphysema "
    "enlarged fibrosis fracture granuloma hematoma hernia hyperinflation infiltrate infection "
    "lesion mass metastasis nodule opacity pacemaker pneumonia pneumothorax pneumomediastinum "
    "scarring scoliosis stent sternotomy thickening tortuous tube tuberculosis tumor widened wire "
    "dilated lucency hemorrhage embolism cavity adenopathy lymphadenopathy kyphosis osteopenia "
    "dislocation pneumoperitoneum implant port bronchitis"
)

NEGATES_AFTER = _words(
    "no without denies nor fails failed lacks lacking excludes exclude zero non hardly couldnt"
)
"""Negate what follows in the clause."""

NEGATES_CLAUSE = _words(
    "not absent never neither negative cannot absence lack excluded unlikely resolved resolution "
    "resolving disappeared gone false"
)
"""Negate the whole clause; two of them undo each other."""

CLAUSE_BREAKS = _words("but however although though whereas while except")

NEW_SUBJECT = _words("is are was were has have there the a an no not shows appears")
"""Behind "and", the sign of a new statement that a negation does not reach."""

UNCERTAIN = _words(
    "possible possibly maybe perhaps might may could questionable suspected suspicious"
)
"""Leave open what is said."""

COMPARES = _words("than compared versus vs")
"""Set one side against the other."""
