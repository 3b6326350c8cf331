"""Objects as JSON values: only JSON values are written, and only registered names are read."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from padless.errors import ArgumentError
from padless.registry import register
from padless.saving.serialization import (
    ConfigDataclass,
    CustomObjectScope,
    deserialize,
    get,
    get_custom_objects,
    register_keras_serializable,
    serialize,
)

pytestmark = pytest.mark.usefixtures("restore_registrations")

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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


# ---------------------------------------------------------------------------------------------------- round trips


@given(json_values)
def test_json_values_do_not_change(value):
    assert serialize(value) == value
    assert json.loads(json.dumps(serialize(value))) == value


@given(st.integers(), json_values)
def test_an_object_is_restored_from_json(size, inner):
    restored = deserialize(json.loads(json.dumps(serialize(Blob(size, inner), KIND))), KIND)
    assert type(restored) is Blob and restored.get_config() == {"size": size, "inner": inner}


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
def test_arrays_tuples_and_dtypes_become_json_values(value, written):
    result = serialize(value)
    assert result == written
    assert json.dumps(result) == json.dumps(written)  # 1 == True == np.True_, but not in JSON


def test_an_object_becomes_its_class_name_and_config():
    assert serialize(Blob(np.int64(2)), KIND) == {"class_name": "Blob", "config": {"size": 2, "inner": None}}


def test_objects_and_functions_in_a_config_are_serialized():
    written = serialize(Blob(inner=[Blob(1), quarter_of_these_tests]), KIND)
    inner = {"class_name": "Blob", "config": {"size": 1, "inner": None}}
    assert written["config"]["inner"] == [inner, "quarter_of_these_tests"]


def test_a_function_becomes_its_registered_name():
    assert serialize(halve, KIND) == "halve"
    assert serialize({"out": [halve]}, KIND) == {"out": ["halve"]}


@pytest.mark.parametrize("function", [lambda x: x, len, torch.nn.ReLU()])
def test_a_function_without_a_registered_name_is_refused(function):
    with pytest.raises(ArgumentError, match="register"):
        serialize(function, KIND)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {1: 2}])
def test_a_value_without_a_json_form_is_refused(value):
    with pytest.raises(ArgumentError, match="cannot be saved"):
        serialize(value)


def test_a_config_other_than_a_dictionary_is_refused():
    class Wrong:
        def get_config(self):
            return [1]

    with pytest.raises(ArgumentError, match="must return a dictionary"):
        serialize(Wrong(), KIND)


def test_a_class_with_the_name_of_a_registered_class_is_refused():
    other = type("Blob", (Blob,), {})
    with pytest.raises(ArgumentError, match="means another class"):
        serialize(other(), KIND)
    register_keras_serializable("mine")(other)
    restored = deserialize(serialize(other(5), KIND), KIND)
    assert type(restored) is other and restored.size == 5


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
def test_get_creates_an_object_from_a_name_a_class_or_a_config(identifier):
    blob = get(identifier, KIND)
    assert type(blob) is Blob and blob.size == 3


def test_get_returns_instances_functions_and_none_unchanged():
    blob = Blob()
    assert get(blob, KIND) is blob
    assert get(halve, KIND) is halve and get("halve", KIND) is halve
    assert get(None, KIND) is None


def test_configs_of_keras_are_read():
    blob = {"module": "keras.layers", "class_name": "Blob", "config": {"size": 7}, "registered_name": None}
    function = {"module": "builtins", "class_name": "function", "config": "halve", "registered_name": "function"}
    array = {"class_name": "__numpy__", "config": {"value": [1, 2], "dtype": "float32"}}
    assert get(blob, KIND).size == 7
    assert get(function, KIND) is halve
    assert deserialize(array, KIND).tolist() == [1.0, 2.0]


def test_a_class_of_another_module_is_not_the_class_of_the_same_name():
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


def test_deserialize_does_not_change_the_config():
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
def test_an_invalid_identifier_is_refused(identifier, message):
    with pytest.raises(ArgumentError, match=message):
        get(identifier, KIND)


# ---------------------------------------------------------------------------------------------------- user-defined objects


def test_registered_functions_and_classes_have_their_package_in_the_name():
    @register_keras_serializable()
    def identity(x):
        return x

    @register_keras_serializable("pack", name="Other")
    class Mine(Blob):
        pass

    assert serialize(identity, KIND) == "Custom>identity"
    assert get("Custom>identity", KIND) is identity
    assert serialize(Mine(4), KIND)["class_name"] == "pack>Other"
    assert type(get(serialize(Mine(4), KIND), KIND)) is Mine
    keras = {"module": "m", "class_name": "Mine", "config": {"size": 4}, "registered_name": "pack>Other"}
    assert type(get(keras, KIND)) is Mine


def test_an_unknown_package_is_an_error_although_the_name_is_known():
    with pytest.raises(ArgumentError, match="pack>Blob"):
        get("pack>Blob", KIND)
    get_custom_objects()["Blob"] = halve
    with pytest.raises(ArgumentError, match="pack>Blob"):
        get("pack>Blob", KIND)
    assert type(get("Blob", KIND)) is Blob  # a registration does not replace a built-in


def test_custom_objects_have_precedence_and_scopes_nest():
    inner, outer = (lambda x: x), (lambda x: -x)
    assert deserialize("halve", KIND, {"halve": outer}) is outer
    with CustomObjectScope({"halve": outer, "other": outer}):
        assert get("halve", KIND) is outer
        assert serialize(outer, KIND) == "halve"
        with CustomObjectScope({"halve": inner}):
            assert get("halve", KIND) is inner and get("other", KIND) is outer
        assert get("halve", KIND) is outer
    assert get("halve", KIND) is halve


def test_an_error_ends_a_scope():
    with pytest.raises(KeyError), CustomObjectScope({"halve": len}):
        raise KeyError
    assert get("halve", KIND) is halve


def test_custom_objects_are_known_inside_from_config():
    class Holder(Blob):
        @classmethod
        def from_config(cls, config):
            return cls(inner=deserialize(config["inner"], KIND))

    config = serialize(Holder(inner=Blob(8)), KIND)
    config["config"]["inner"]["class_name"] = "Renamed"
    assert deserialize(config, KIND, {"Holder": Holder, "Renamed": Blob}).inner.size == 8


def test_a_name_with_a_package_is_found_in_custom_objects_without_it():
    assert get({"class_name": "pack>Mine", "config": {"size": 1}}, KIND, {"Mine": Blob}).size == 1


def test_registration_needs_parentheses_and_get_config():
    with pytest.raises(ArgumentError, match="parentheses"):
        register_keras_serializable(halve)
    with pytest.raises(ArgumentError, match="get_config"):
        register_keras_serializable()(type("NoConfig", (), {}))
