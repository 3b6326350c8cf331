"""Objects to JSON and back: what is written is plain, what is read was registered."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from padless.errors import ArgumentError
from padless.registry import register
from padless.saving import serialization as config
from padless.saving.serialization import (
    ConfigDataclass,
    CustomObjectScope,
    deserialize,
    get,
    register_keras_serializable,
    serialize,
)

KIND = "kind of these tests"


@register(KIND, "blob")
@dataclass(eq=False)
class Blob(ConfigDataclass):
    size: int = 3
    inner: object = None


@register(KIND)
def halve(x):
    return x / 2


@register("activation")
def quarter_of_these_tests(x):
    return x / 4


@register("second " + KIND)
class Second(Blob):
    pass


@pytest.fixture(autouse=True)
def clean_registrations():
    before = dict(config.get_custom_objects())
    yield
    config.get_custom_objects().clear()
    config.get_custom_objects().update(before)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


# ---------------------------------------------------------------------------------------------------- laws


@given(plain)
def test_plain_values_are_their_own_json(value):
    assert serialize(value) == value
    assert json.loads(json.dumps(serialize(value))) == value


@given(st.integers(), plain)
def test_an_object_survives_json(size, inner):
    again = deserialize(json.loads(json.dumps(serialize(Blob(size, inner), KIND))), KIND)
    assert type(again) is Blob and again.get_config() == {"size": size, "inner": inner}


# ---------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ((1, (2, None)), [1, [2, None]]),
        (torch.Size([2, 3]), [2, 3]),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (torch.tensor([1.0, 2.0], requires_grad=True), [1.0, 2.0]),
        (torch.bfloat16, "bfloat16"),
        ({"a": {"b": (np.int8(1),)}}, {"a": {"b": [1]}}),
    ],
)
def test_values_become_plain(value, written):
    result = serialize(value)
    assert result == written
    assert json.dumps(result) == json.dumps(written)  # 1 == True == np.True_, but not in JSON


def test_an_object_is_its_name_and_its_config():
    assert serialize(Blob(np.int64(2)), KIND) == {"class_name": "Blob", "config": {"size": 2, "inner": None}}


def test_objects_and_functions_inside_a_config_are_written_too():
    written = serialize(Blob(inner=[Blob(1), quarter_of_these_tests]), KIND)
    inner = {"class_name": "Blob", "config": {"size": 1, "inner": None}}
    assert written["config"]["inner"] == [inner, "quarter_of_these_tests"]


def test_a_function_is_its_registered_name():
    assert serialize(halve, KIND) == "halve"
    assert serialize({"out": [halve]}, KIND) == {"out": ["halve"]}


@pytest.mark.parametrize("function", [lambda x: x, len, torch.nn.ReLU()])
def test_what_has_no_name_is_refused_with_advice(function):
    with pytest.raises(ArgumentError, match="register"):
        serialize(function, KIND)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {1: 2}])
def test_what_is_not_json_is_refused(value):
    with pytest.raises(ArgumentError, match="cannot be saved"):
        serialize(value)


def test_a_config_that_is_no_dictionary_is_refused():
    class Wrong:
        def get_config(self):
            return [1]

    with pytest.raises(ArgumentError, match="must return a dictionary"):
        serialize(Wrong(), KIND)


def test_a_class_in_the_place_of_a_registered_one_is_refused():
    other = type("Blob", (Blob,), {})
    with pytest.raises(ArgumentError, match="means another class"):
        serialize(other(), KIND)
    register_keras_serializable("mine")(other)
    again = deserialize(serialize(other(5), KIND), KIND)
    assert type(again) is other and again.size == 5


# ---------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "identifier",
    [
        "Blob",
        "blob",
        Blob,
        {"class_name": "Blob", "config": {}},
        {"class_name": "Blob"},
        {"class_name": "blob", "config": None},
    ],
)
def test_get_makes_an_object_of_whatever_names_it(identifier):
    found = get(identifier, KIND)
    assert type(found) is Blob and found.size == 3


def test_get_leaves_instances_functions_and_none_alone():
    blob = Blob()
    assert get(blob, KIND) is blob
    assert get(halve, KIND) is halve and get("halve", KIND) is halve
    assert get(None, KIND) is None


def test_the_dictionaries_of_keras_are_read():
    blob = {"module": "keras.layers", "class_name": "Blob", "config": {"size": 7}, "registered_name": None}
    function = {"module": "builtins", "class_name": "function", "config": "halve", "registered_name": "function"}
    array = {"class_name": "__numpy__", "config": {"value": [1, 2], "dtype": "float32"}}
    assert get(blob, KIND).size == 7
    assert get(function, KIND) is halve
    assert deserialize(array, KIND).tolist() == [1.0, 2.0]


def test_a_class_of_another_module_does_not_become_the_one_of_the_same_name():
    with pytest.raises(ArgumentError, match="Unknown"):
        get({"module": "elsewhere", "class_name": "Blob", "config": {}, "registered_name": "Blob"}, KIND)


def test_a_list_gives_a_list():
    first, second = deserialize(["blob", {"class_name": "Blob", "config": {"size": 1}}], KIND)
    assert (first.size, second.size) == (3, 1)


def test_several_kinds_are_tried_in_order():
    assert type(get("Second", (KIND, "second " + KIND))) is Second
    assert serialize(Second(1), (KIND, "second " + KIND))["class_name"] == "Second"
    with CustomObjectScope({}):
        assert type(get("Blob", ("second " + KIND, KIND))) is Blob


def test_reading_does_not_change_the_config():
    class Popping(Blob):
        @classmethod
        def from_config(cls, config):
            return cls(config.pop("size"))

    written = {"class_name": "Popping", "config": {"size": 2}}
    assert deserialize(written, KIND, {"Popping": Popping}).size == 2
    assert written == {"class_name": "Popping", "config": {"size": 2}}


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("blub", r"Unknown .*'blub'.*Did you mean 'blob'\?.*custom_objects"),
        ({"class_name": "os.system", "config": {}}, "Unknown"),
        ({"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}, "Unknown"),
        ({"class_name": "__lambda__", "config": {"value": "x"}}, "__lambda__"),
        ({"class_name": "function", "config": {}}, "name under 'config'"),
        ({"size": 3}, "is not a config"),
        ({"class_name": 3, "config": {}}, "is not a config"),
        ({"class_name": "Blob", "config": [3]}, "must be a dictionary"),
        ({"class_name": "Blob", "config": {"sise": 3}}, "sise"),
        (3, "is not a kind of these tests"),
    ],
)
def test_what_means_nothing_is_refused(identifier, message):
    with pytest.raises(ArgumentError, match=message):
        get(identifier, KIND)


# ---------------------------------------------------------------------------------------------------- one's own


def test_a_registered_function_and_class_are_written_with_their_package():
    @register_keras_serializable()
    def mine(x):
        return x

    @register_keras_serializable("pack", name="Other")
    class Mine(Blob):
        pass

    assert serialize(mine, KIND) == "Custom>mine"
    assert get("Custom>mine", KIND) is mine
    assert serialize(Mine(4), KIND)["class_name"] == "pack>Other"
    assert type(get(serialize(Mine(4), KIND), KIND)) is Mine
    keras = {"module": "m", "class_name": "Mine", "config": {"size": 4}, "registered_name": "pack>Other"}
    assert type(get(keras, KIND)) is Mine


def test_a_package_does_not_fall_back_on_the_name_alone():
    with pytest.raises(ArgumentError, match="pack>Blob"):
        get("pack>Blob", KIND)
    config.get_custom_objects()["Blob"] = halve
    with pytest.raises(ArgumentError, match="pack>Blob"):
        get("pack>Blob", KIND)
    assert get("Blob", KIND) is halve


def test_custom_objects_go_first_and_scopes_nest():
    inner, outer = (lambda x: x), (lambda x: -x)
    assert deserialize("halve", KIND, {"halve": outer}) is outer
    with CustomObjectScope({"halve": outer, "other": outer}):
        assert get("halve", KIND) is outer
        assert serialize(outer, KIND) == "halve"
        with CustomObjectScope({"halve": inner}):
            assert get("halve", KIND) is inner and get("other", KIND) is outer
        assert get("halve", KIND) is outer
    assert get("halve", KIND) is halve


def test_a_scope_ends_with_an_error():
    with pytest.raises(KeyError), CustomObjectScope({"halve": len}):
        raise KeyError
    assert get("halve", KIND) is halve


def test_custom_objects_reach_what_a_from_config_reads():
    class Holder(Blob):
        @classmethod
        def from_config(cls, config):
            return cls(inner=deserialize(config["inner"], KIND))

    held = serialize(Holder(inner=Blob(8)), KIND)
    held["config"]["inner"]["class_name"] = "Renamed"
    assert deserialize(held, KIND, {"Holder": Holder, "Renamed": Blob}).inner.size == 8


def test_a_package_name_is_found_by_its_bare_name_in_custom_objects():
    assert get({"class_name": "pack>Mine", "config": {"size": 1}}, KIND, {"Mine": Blob}).size == 1


def test_registering_needs_parentheses_a_name_and_a_config():
    with pytest.raises(ArgumentError, match="parentheses"):
        register_keras_serializable(halve)
    with pytest.raises(ArgumentError, match="get_config"):
        register_keras_serializable()(type("NoConfig", (), {}))
