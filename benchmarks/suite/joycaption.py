"""JoyCaption's real shape, full: SigLIP's 729 image tokens, and captions of 250 tokens and of 128.

Long captions leave few steps with new images: most of the time goes into decode rows, and their keys and values.
"""

import dataclasses

from suite import model, step
from suite.setting import Findings, Setting

TOKENS, TINY_TOKENS = (250, 128), (9, 6)


def run(setting: Setting) -> Findings:
    """The card's fastest precision and bfloat16."""
    found, given = setting.find("joycaption"), dataclasses.replace(setting, model="joycaption")
    lengths = TOKENS if setting.is_real else TINY_TOKENS
    for tokens in lengths:
        for precision in (model.best_precision(setting), "bfloat16"):
            made = model.make(given, precision)
            name = f"{step.variant(made.spec)}, {tokens} tokens"
            case = step.Case(made=made, name=name, lengths=[tokens], is_profiled=tokens == lengths[0])
            step.measure(found, given, case)
    return found
