"""The first seeds of the random models, and what they are drawn from."""

import re

import pytest
import torch

from fuzz import random_models
from fuzz._model_programs import Input, Line, Program, draw_program
from fuzz.random_models import Case, Data, Failure, Violation
from padless.registry import entries

pytestmark = pytest.mark.slow

ABSTRACT = {"Layer"}  # nothing to run


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 50, 10))
def test_random_models_have_the_properties(first):
    outcomes = {random_models.run_case(seed) for seed in range(first, first + 10)}
    assert outcomes == {"keeps the properties", "keeps the properties and equals Keras"}


def test_every_public_layer_can_be_drawn():
    public = {cls.__name__ for cls in entries("layer").values() if cls.__module__.startswith("padless.")}
    drawn = set()
    for seed in range(1500):
        drawn |= set(re.findall(r"\b(\w+)\(", draw_program(seed).source))
    assert public - ABSTRACT - drawn == set()


def test_a_failing_case_is_shrunk_to_a_short_program(monkeypatch):
    def no_lstm(case):
        if case.program.has("LSTM") and case.data.batch:
            raise Violation("LSTM is wrong")

    monkeypatch.setattr(random_models, "PROPERTIES", {"no_lstm": no_lstm})
    seed = next(seed for seed in range(1000) if draw_program(seed).has("LSTM") and len(draw_program(seed).lines) > 6)
    with pytest.raises(Failure) as failure:
        random_models.run_case(seed)
    text = str(failure.value)
    assert text.startswith("no_lstm fails.\nx") and "violation: LSTM is wrong" in text and "mask [[]]" in text
    assert text.count("\nh") == len(re.findall(r"LSTM|Embedding|Masking\(", text.split("violation")[0]))


def test_the_source_of_a_program_builds_the_model():
    program = Program(
        (Input("x0", "packed", (3,)),), (Line(("h1",), "L.LSTM(2)($0)", ("x0",)), Line(("h2",), "-$0", ("h1",))), ("h2",)
    )
    assert program.source.splitlines() == [
        'x0 = Input((None, 3), name="x0", masked=True)',
        "h1 = L.LSTM(2)(x0)",
        "h2 = -h1",
        "model = Model([x0], [h2])",
    ]
    assert random_models.build(program).output_shape == [(None, 2)]
    assert Case(program, Data({}, {})).model(torch.float64).count_params() == 48


def test_no_check_of_a_case_is_empty():
    assert list(random_models.PROPERTIES) == [
        "equals_single_sequences",
        "independent_of_batch",
        "ignores_padding",
        "equals_its_files",
        "paths_agree",
        "fit_equals_loop",
    ]
