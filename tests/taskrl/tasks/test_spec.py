import json

from taskrl.tasks.spec import TaskSpec

SPEC = TaskSpec(mixture=(("contrastive", 0.75), ("rotation", 0.25)), levels=(("crop", 0.3), ("mirror", 0.5)))


def test_json_reads_back_to_an_equal_spec_with_the_same_hash() -> None:
    again = TaskSpec.from_json(SPEC.to_json())
    assert again == SPEC and hash(again) == hash(SPEC)
    assert "\n" not in SPEC.to_json()
    assert json.loads(SPEC.to_json())["mixture"] == {"contrastive": 0.75, "rotation": 0.25}


def test_shares_and_levels_that_are_not_there_are_0_and_none() -> None:
    assert (SPEC.share("rotation"), SPEC.share("jigsaw")) == (0.25, 0.0)
    assert (SPEC.level("crop"), SPEC.level("mask_ratio")) == (0.3, None)


def test_the_description_names_shares_and_strengths() -> None:
    assert SPEC.describe() == "contrastive 75% + rotation 25%; crop 0.3, mirror 0.5"
    alone = TaskSpec(mixture=(("jigsaw", 1.0),), levels=(("crop", 1.0),))
    assert alone.describe() == "jigsaw; crop 1"
