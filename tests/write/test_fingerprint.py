"""Refusals of a run into a folder with another fingerprint: each difference once, as people read it."""

import pytest

from recap_fast.errors import ConfigError
from recap_fast.write.fingerprint import refuse_other_fingerprint
from recap_fast.write.output_folder import OutputFolder

PLAIN = {"schema": 4, "prompt": "What?"}
SET = {"set": "mix", "prompts": {"a": "What?", "b": "Who?"}, "weights": {"a": 1.0, "b": 2.0}, "seed": 0}


def several(*prompts, num_captions=1, prompt="a: What?"):
    return {"schema": 4, "prompt": prompt, "prompts": list(prompts), "num_captions": num_captions}


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (PLAIN, several({"prompts": {"a": "What?"}}), ["prompt: 'What?' there, 'a: What?' now"]),
        (
            several({"prompts": {"a": "What?"}}, num_captions=2),
            PLAIN,
            ["num_captions: 2 there, 1 now", "prompt: 'a: What?' there, 'What?' now"],
        ),
        (several(SET), several({**SET, "seed": 7}), ["prompts.0.seed: 0 there, 7 now"]),
        (
            several(SET),
            several({**SET, "weights": {"a": 1.0, "b": 2.0000001}}, {"prompts": {"c": "?"}}),
            ["prompts.0.weights.b: 2.0 there, 2.0000001 now", "prompts.1.prompts.c: None there, '?' now"],
        ),
    ],
)
def test_what_differs_in_prompts_is_said_once(tmp_path, old, new, lines):
    with pytest.raises(ConfigError) as refusal:
        refuse_other_fingerprint(OutputFolder.at(tmp_path), old, new)
    assert str(refusal.value).splitlines()[1:-1] == [f"  {line}" for line in lines]
    assert str(refusal.value).endswith(
        "Give another --output, the settings of that run, or --overwrite to remove its output."
    )


def test_another_schema_is_that_of_another_version(tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)schema: 3 there, 4 now.*other columns\. .* use the version that wrote"):
        refuse_other_fingerprint(OutputFolder.at(tmp_path), {**PLAIN, "schema": 3}, PLAIN, ["versions"])


def test_the_same_is_not_refused(tmp_path):
    refuse_other_fingerprint(OutputFolder.at(tmp_path), several(SET), several({**SET, "prompts": SET["prompts"]}))
