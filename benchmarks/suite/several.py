"""Several captions an image: what four prompts of one image cost beside one prompt, when the engine is full.

The image is computed once, and its keys and values serve all of its captions. So four captions take less than four
times as long as one; how much less depends on the image's share of the work.
"""

from recap_fast.generate.prepared import PreparedEngine
from suite import model, step
from suite.setting import Findings, Setting

ONE, MANY = 1, 4
"""Captions of an image."""
TOKENS, TINY_TOKENS = 64, 6
BAR = 1.9
"""The most that many captions may cost, as a multiple of one."""


def run(setting: Setting) -> Findings:
    """The 8B engine in the card's fastest precision."""
    found, made = setting.find("several"), model.make(setting, model.best_precision(setting))
    lengths = [TOKENS if setting.is_real else TINY_TOKENS]
    rates = {}
    for captions in (ONE, MANY):
        name = f"{step.variant(made.spec)}, {captions} x {lengths[0]} tokens"
        rate = step.measure(found, setting, step.Case(made=made, name=name, lengths=lengths, captions=captions))
        if rate is not None:
            rates[captions] = rate
            found.add("   captions", f"{captions * rate:,.1f} a second")
    if len(rates) == 2:
        cost, should = rates[ONE] / rates[MANY], _expected(setting, made, lengths[0])
        met = cost <= BAR if setting.is_real else None
        what = f"{MANY} captions an image cost, as a multiple of {ONE}"
        found.add(what, f"{cost:.2f}", f"<= {BAR}", met, measured=cost, expected=should)
    return found


def _expected(setting: Setting, made: PreparedEngine, tokens: int) -> float | None:
    """What many captions should cost, as a multiple of one; None where that is not known."""
    one, many = (step.expectation(setting, made, tokens, captions) for captions in (ONE, MANY))
    return None if one is None or many is None else one.images_per_s / many.images_per_s
