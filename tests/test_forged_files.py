"""Forged and damaged files: each is refused with `NotLoaded` before anything changes, and costs what its bytes cost."""

import io
import json
import os
import pickle
import time
import zipfile

import numpy as np
import pytest
import torch

import padless
from padless import Input, Model, Sequential, load_model
from padless.errors import ArgumentError, DataError, FileMissing, NotLoaded, PadlessError
from padless.graph import serialization as graph
from padless.initializers import Constant
from padless.layers import GRU, RNN, Bidirectional, Dense, Embedding, Layer, Masking, TimeDistributed, TorchModuleWrapper
from padless.saving import get_custom_objects, json_text, register_keras_serializable
from padless.saving import safetensors_io as archive

pytestmark = pytest.mark.usefixtures("restore_registrations")


def small_model():
    return Sequential([Input((None, 3)), Dense(2, name="dense")], name="small")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def parts_of(content: bytes):
    """Return the header and the data of a file."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def join(header, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def write_config(path, config, arrays=None):
    """Write a file with a valid checksum for a config, which may be a text."""
    arrays = arrays or {}
    text = config if isinstance(config, str) else json.dumps(config)
    metadata = {archive.FORMAT_KEY: "1", archive.CONFIG_KEY: text}
    metadata[archive.CHECKSUM_KEY] = archive._checksum(arrays, metadata)
    header, data = {"__metadata__": metadata}, b""
    for name, array in arrays.items():
        content = array.numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    path.write_bytes(join(header, data))


def refuse(path, match=None, load=load_model):
    with pytest.raises(NotLoaded, match=match):
        load(path)


# ------------------------------------------------------------------------------------------------ the path


@pytest.mark.parametrize("load", [load_model, small_model().load_weights])
def test_what_is_not_a_regular_file_is_refused_without_waiting(load, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "link to a pipe", ".", "loop", "/dev/zero", "/dev/stdin", "null\0character", "x" * 5000):
        with pytest.raises(NotLoaded):
            load(tmp_path / name)
    with pytest.raises(FileMissing) as error:
        load(tmp_path / "nothing")
    assert isinstance(error.value, FileNotFoundError) and isinstance(error.value, DataError)


def test_a_link_to_a_file_is_loaded(path, tmp_path):
    small_model().save(path)
    (tmp_path / "link").symlink_to(path)
    assert load_model(tmp_path / "link").name == "small"


def test_arrays_do_not_change_when_the_file_does(path):
    small_model().save_weights(path)
    arrays, _ = archive.read(path)
    before = {name: array.clone() for name, array in arrays.items()}
    os.truncate(path, 0)
    assert all(torch.equal(arrays[name], before[name]) for name in before)


# ------------------------------------------------------------------------------------------------ the header


def forged_headers():
    """Yield a name and a function that changes the header and returns it with the data."""

    def of_entry(**changes):
        def change(header, data):
            header["dense/kernel"] |= changes
            return header, data

        return change

    yield "offsets outside", of_entry(data_offsets=[0, 999])
    yield "offsets reversed", of_entry(data_offsets=[24, 0])
    yield "offsets overlap", of_entry(data_offsets=[4, 28])
    bias = {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}
    yield "a gap before an overlap", lambda header, data: ({**header, "dense/bias": bias}, data)
    yield "negative offsets", of_entry(data_offsets=[-24, 0])
    yield "offsets of floats", of_entry(data_offsets=[0.0, 24.0])
    yield "offsets of booleans", of_entry(data_offsets=[False, 24])
    yield "three offsets", of_entry(data_offsets=[0, 24, 24])
    yield "a larger shape", of_entry(shape=[10**6, 10**6])
    yield "a negative shape", of_entry(shape=[-3, -2])
    yield "a shape with many axes", of_entry(shape=[1] * 10**4 + [6])
    yield "a huge number", of_entry(shape=[10**30, 0])
    yield "an unknown dtype", of_entry(dtype="F4")
    yield "a dtype of another size", of_entry(dtype="F64")
    yield "a dtype that is not a name", of_entry(dtype=["F32"])
    yield "a further key", of_entry(path="/etc/passwd")
    yield "an entry that is a list", lambda header, data: ({**header, "dense/kernel": [1]}, data)
    yield "a header that is a list", lambda header, data: ([header], data)
    yield "metadata that are a list", lambda header, data: ({**header, "__metadata__": []}, data)
    yield "metadata with a number", lambda header, data: ({**header, "__metadata__": {"a": 1}}, data)
    yield "a missing entry", lambda header, data: ({k: v for k, v in header.items() if k != "dense/kernel"}, data)
    yield "bytes at the end", lambda header, data: (header, data + b"\0")
    yield "bytes missing", lambda header, data: (header, data[:-1])
    yield "a name twice", lambda header, data: (json.dumps(header)[:-1].encode() + b', "dense/bias": 1}', data)
    yield "bytes before", lambda header, data: (b" " + json.dumps(header).encode(), data)
    yield "text after", lambda header, data: (json.dumps(header).encode() + b"{}", data)
    yield "not UTF-8", lambda header, data: (json.dumps(header).encode().replace(b"dense", b"\xff"), data)
    yield "half a surrogate", lambda header, data: (json.dumps(header).encode().replace(b"dense/b", b"\\ud800"), data)


@pytest.mark.parametrize(("name", "change"), list(forged_headers()))
def test_a_header_that_does_not_describe_the_file_is_refused(name, change, path):
    model = small_model()
    before = model.get_weights()
    model.save(path)
    path.write_bytes(join(*change(*parts_of(path.read_bytes()))))
    refuse(path, "model.safetensors' is not a complete safetensors file")
    refuse(path, load=model.load_weights)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_the_length_of_the_header_is_checked_first(path):
    small_model().save(path)
    content = path.read_bytes()
    for length in (0, 1, len(content) - 7, 2**31, 2**63, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + content[8:])
        refuse(path, "not a complete")
    for size in (0, 1, 7, 8, 9):
        path.write_bytes(content[:size])
        refuse(path, "not a complete")


def test_booleans_of_other_bytes_are_refused(path):
    archive.write(path, {"mask": torch.tensor([True, False])})
    header, data = parts_of(path.read_bytes())
    path.write_bytes(join(header, b"\x02\x00"))
    refuse(path, "byte 2", load=archive.read)


# ------------------------------------------------------------------------------------------------ two formats in one file


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("/tmp/must-not-exist-of-padless",))


def with_pickle() -> bytes:
    """Return a safetensors file that is a pickle, too: the length of its header is an opcode that skips to the payload."""
    skipped = 40
    header = b'{"__metadata__": {"a": "'
    header += b" " * (skipped - 3 - len(header)) + pickle.dumps(Evil(), protocol=0)
    size = (skipped << 8) | 0x58  # the opcode of a string of 40 bytes
    header += b" " * (size - len(header) - 3) + b'"}}'
    return size.to_bytes(8, "little") + header


def test_a_file_with_a_pickle_inside_is_refused(path):
    path.write_bytes(with_pickle())
    refuse(path, "pickle, too")
    path.write_bytes(pickle.dumps(Evil()))
    refuse(path)
    torch.save({"a": torch.ones(2)}, path)
    refuse(path)
    assert not os.path.exists("/tmp/must-not-exist-of-padless")


def test_a_file_with_a_zip_archive_or_hdf5_inside_is_refused(path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zip_file:
        zip_file.writestr("archive/data.pkl", pickle.dumps(1))
    content = buffer.getvalue()
    content += b"\0" * (-len(content) % 4)
    archive.write(path, {"dense/kernel": torch.frombuffer(bytearray(content), dtype=torch.uint8)})
    refuse(path, "zip archive, too", load=archive.read)
    archive.write(path, {"a": torch.zeros(2000, dtype=torch.uint8)})
    forged = bytearray(path.read_bytes())
    forged[512:520] = b"\x89HDF\r\n\x1a\n"
    path.write_bytes(forged)
    refuse(path, "HDF5", load=archive.read)


# ------------------------------------------------------------------------------------------------ version and checksum


def test_a_file_of_a_newer_version_is_refused_with_advice(path):
    small_model().save(path)
    header, data = parts_of(path.read_bytes())
    header["__metadata__"]["padless.format"] = "2"
    path.write_bytes(join(header, data))
    refuse(path, r"newer version of padless wrote it \(format 2\).*Update padless")
    for version in ("", "x", "-1", "1.5", "٣", "1" * 99):
        header["__metadata__"]["padless.format"] = version
        path.write_bytes(join(header, data))
        refuse(path, "damaged")


def test_the_checksum_covers_all_bytes_of_the_content(path):
    small_model().save(path)
    header, data = parts_of(path.read_bytes())
    for key in ("padless.format", "padless.config", "padless.checksum"):
        changed = {**header, "__metadata__": {k: v for k, v in header["__metadata__"].items() if k != key}}
        path.write_bytes(join(changed, data))
        refuse(path)
    path.write_bytes(join({**header, "__metadata__": {**header["__metadata__"], "note": "x"}}, data))
    refuse(path, "damaged")
    path.write_bytes(join(header, data[:-1] + bytes([data[-1] ^ 1])))
    refuse(path, "damaged")
    header["other/kernel"] = header.pop("dense/kernel")
    path.write_bytes(join(header, data))
    refuse(path, "damaged")


def test_weights_of_another_program_are_read_on_purpose_only(path):
    from safetensors.torch import save_file

    model = small_model()
    save_file({"dense/kernel": torch.ones(3, 2), "dense/bias": torch.ones(2)}, path)
    refuse(path, r"load_weights\(path, foreign=True\)", load=model.load_weights)
    refuse(path)
    model.load_weights(path, foreign=True)
    assert all((weight == 1).all() for weight in model.get_weights())
    model.save_weights(path)
    model.load_weights(path, foreign=True)  # a file of padless is verified all the same
    header, data = parts_of(path.read_bytes())
    path.write_bytes(join(header, data[:-1] + b"\1"))
    with pytest.raises(NotLoaded, match="damaged"):
        model.load_weights(path, foreign=True)


# ------------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool, torch.complex64, torch.uint8])
def test_arrays_of_another_kind_are_not_weights(dtype, path):
    model = small_model()
    before = model.get_weights()
    archive.write(path, {"dense/kernel": torch.ones(3, 2), "dense/bias": torch.ones(2).to(dtype)})
    refuse(path, f"dtype torch.float32.*{dtype}", load=model.load_weights)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_another_width_are_converted(dtype, path):
    model = small_model()
    arrays = {
        "dense/kernel": torch.full((3, 2), 0.5, dtype=dtype),
        "dense/bias": torch.tensor([float("nan"), 0.5], dtype=dtype),
    }
    archive.write(path, arrays)
    model.load_weights(path)
    assert (model.get_weights()[0] == 0.5).all() and np.isnan(model.get_weights()[1][0])


def test_equal_names_are_matched_before_numbers(path):
    """Layers `a_1` and `a_01` have the same number, which must not exchange or lose their weights."""

    def make(*names):
        x = h = Input((2,))
        for name in names:
            h = Dense(2, name=name)(h)
        return Model(x, h)

    model = make("a_1", "a_01", "a", "a_0")
    model.save_weights(path)
    before = model.get_weights()
    model.set_weights([w + 1 for w in before])
    model.load_weights(path)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    model.save(path)
    assert all(np.array_equal(a, b) for a, b in zip(before, load_model(path).get_weights(), strict=True))
    refuse(path, "unknown", load=make("a_1", "a_2", "a_3", "a_4").load_weights)
    make("dense_3", "dense_10").save_weights(path)
    make("dense", "dense_1").load_weights(path)
    make("x\ny_3", "b" * 300 + "_" + "9" * 5000).save_weights(path)
    refuse(path, load=make("c", "d").load_weights)


# ------------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 100_000, "inside each other"),
        ("[" * 100 + "]" * 100, "inside each other"),
        ('{"a":' * 100 + "1" + "}" * 100, "inside each other"),
        ("[1,]", "not JSON"),
        ("", "not JSON"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('{"layers": [{"a": 1, "\\u0061": 2}]}', "'a' twice"),
        ("9" * 41, "integer"),
        ("9" * 5000, "integer"),
        ("1e999", "no float"),
        ("NaN", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ('{"~": "float", "of": "1"}', "number"),
        ('{"~": "float", "of": [1]}', "number"),
        ('["\\ud800"]', "Unicode"),
        ('"' + "x" * 2**25 + '"', "characters"),
        ("[" + "0," * 2**22 + "0]", "values"),
    ],
)
def test_text_that_exceeds_a_bound_is_refused(text, match, path):
    with pytest.raises(DataError, match=match):
        json_text.decode(text)
    if 0 < len(text) < 10**6:
        write_config(path, text)
        refuse(path, match)


@pytest.mark.parametrize("text", ['"\\', '"', '"\\"', "[],", "{}", "\\", "-", '{"a":1,'])
def test_the_time_to_check_a_text_is_linear(text):
    start = time.process_time()
    with pytest.raises(DataError):
        json_text.decode(text * 200_000)  # a quadratic method would take hours
    assert time.process_time() - start < 10


def test_numbers_that_are_not_finite_are_kept():
    value = {"a": [float("inf"), -float("inf"), 1.5], "b": float("nan"), "c": 2**70}
    text = json_text.encode(value)
    assert "Infinity" not in text and "NaN" not in text
    assert str(json_text.decode(text)) == str(value)
    layer = Masking(mask_value=float("inf"))
    model = Sequential([Input((None, 2)), layer])
    assert json_text.decode(json_text.encode(model.get_config()))["layers"][1]["config"]["mask_value"] == float("inf")


def test_a_config_that_could_not_be_read_is_not_saved(path):
    model = Sequential([Input((None, 3)), Dense(2, name="x" * 2**25)])
    with pytest.raises(ArgumentError, match="cannot be saved"):
        model.save(path)
    assert not path.exists()


# ------------------------------------------------------------------------------------------------ configs


def config_of(model) -> dict:
    return {"class_name": type(model).__name__, "config": model.get_config(), "build_config": {"inputs": []}}


@pytest.mark.parametrize(
    "config",
    [
        [],
        3,
        "Dense",
        {},
        {"class_name": "Dense", "config": {"units": 2}},
        {"class_name": "Functional", "config": {}},
        {"class_name": "Functional", "config": []},
        {"class_name": "Functional", "config": {"layers": 3, "input_layers": [], "output_layers": []}},
        {"class_name": "Functional", "config": {"layers": [3], "input_layers": [], "output_layers": []}},
        {"class_name": "Functional", "config": {"layers": [], "input_layers": [], "output_layers": []}},
        {"class_name": "Functional", "config": {"inputs": [1], "outputs": [2]}},
        {"class_name": "Sequential", "config": {"layers": 3}},
        {"class_name": "Sequential", "config": {"layers": ["Dense", 3]}},
        {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": {"units": 10**30}}]}},
        {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense"}], "build_config": 3}},
        {"class_name": ["Functional"], "config": {}},
        {"class_name": "TorchFunction", "config": {"name": "x", "function": "torch.load"}},
        {"class_name": "function", "config": "relu"},
        {"class_name": "__numpy__", "config": {"value": [1], "dtype": "S1000000000"}},
        {"class_name": "__tensor__", "config": {}},
        {"class_name": "Dense", "module": 3, "config": {}},
        {"class_name": "Dense", "registered_name": ["Dense"], "config": {}},
    ],
)
def test_a_config_of_another_structure_is_refused(config, path):
    write_config(path, config)
    refuse(path)
    write_config(path, {"class_name": "Sequential", "config": {"layers": [config]}})
    refuse(path)


def test_calls_in_the_worst_order_take_linear_time():
    """800 calls, each of which needs the result of the next one, and a call that waits for itself."""
    x = h = Input((2,), name="x")
    for number in range(800):
        h = Dense(2, use_bias=False, name=f"d{number}")(h)
    config = Model(x, h).get_config()
    config["layers"].reverse()
    nodes = {(entry["name"], 0): node for entry in config["layers"] for node in entry["inbound_nodes"]}
    calls = list(graph._sort_calls(nodes, {("x", 0): []}))
    assert [name for name, _ in calls] == [f"d{number}" for number in range(800)]
    assert len(Model.from_config(config).layers) == 801
    with pytest.raises(ArgumentError, match="wait for each other"):
        list(graph._sort_calls(nodes, {}))
    chain = {
        (str(n), 0): {
            "args": [{"class_name": "__keras_tensor__", "config": {"keras_history": [str(n + 1), 0, 0]}}],
            "kwargs": {},
        }
        for n in range(50_000)
    }
    start = time.process_time()
    assert len(list(graph._sort_calls(chain, {("50000", 0): []}))) == 50_000
    assert time.process_time() - start < 10


def test_too_many_calls_are_refused():
    entry = {"class_name": "Dense", "config": {}, "name": "d", "inbound_nodes": [{"args": [], "kwargs": {}}] * (2**16 + 1)}
    with pytest.raises(ArgumentError, match="at most 65536"):
        Model.from_config({"layers": [entry], "input_layers": [], "output_layers": []})


def test_20_000_empty_arrays_take_linear_time(path):
    arrays = {f"layer_{number}/w": torch.zeros(0) for number in range(20_000)}
    archive.write(path, arrays)
    model = small_model()
    start = time.process_time()
    refuse(path, "and 19995 more", load=model.load_weights)
    assert time.process_time() - start < 10


# ------------------------------------------------------------------------------------------------ names


def test_a_registration_does_not_replace_a_built_in(path):
    class Evil(Layer):
        def __init__(self, **kwargs):
            raise AssertionError("the class of a registration was created under the name of a built-in")

    register_keras_serializable("evil", "Dense")(Evil)
    get_custom_objects()["Dense"] = Evil
    small_model().save(path)
    assert type(load_model(path).layers[0]) is Dense
    config = config_of(small_model())
    config["config"]["layers"][1]["registered_name"] = "evil>Dense"
    write_config(path, config)
    refuse(path, "built-in class name 'Dense' and the registered name 'evil>Dense'")


def test_custom_objects_of_the_caller_replace_a_built_in(path):
    class Mine(Dense):
        pass

    model = small_model()
    model.save(path)
    twin = load_model(path, custom_objects={"Dense": Mine})
    assert type(twin.layers[0]) is Mine and type(load_model(path).layers[0]) is Dense


@pytest.mark.parametrize("place", ["layer", "cell", "wrapped", "bidirectional", "module", "activation", "initializer"])
def test_a_name_means_only_what_its_place_takes(place):
    """A user has registered a function, a metric, an initializer and a layer; none may be reached as another kind."""
    register_keras_serializable("mine", "function")(lambda x: x)

    @register_keras_serializable("mine")
    class Metric(padless.metrics.Metric):
        def __init__(self, **kwargs):
            raise AssertionError("created in the place of another kind")

    @register_keras_serializable("mine")
    class Plain:
        def __init__(self, **kwargs):
            raise AssertionError("created in the place of another kind")

        def get_config(self):
            return {}

    @register_keras_serializable("mine")
    class MyLayer(Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            if place not in ("layer", "wrapped", "module", "activation", "cell", "bidirectional"):
                raise AssertionError("created in the place of another kind")

    builders = {
        "layer": lambda config: Sequential.from_config({"layers": [config]}),
        "cell": lambda config: RNN.from_config({"cell": config}),
        "wrapped": lambda config: TimeDistributed.from_config({"layer": config}),
        "bidirectional": lambda config: Bidirectional.from_config({"layer": config}),
        "module": lambda config: TorchModuleWrapper.from_config({"module": config}),
        "activation": lambda config: Dense.from_config({"units": 2, "activation": config}),
        "initializer": lambda config: Dense.from_config({"units": 2, "kernel_initializer": config}),
    }
    names = ["mine>Metric", "mine>function", "mine>Plain", "mine>MyLayer", "Adam", "MeanSquaredError", "os.system"]
    allowed = {
        "layer": {"mine>MyLayer"},
        "wrapped": {"mine>MyLayer"},
        "module": {"mine>MyLayer"},
        "activation": {"mine>function", "mine>MyLayer"},
        "initializer": {"mine>function"},
    }.get(place, set())
    for name in names:
        if name in allowed or (name, place) in {("mine>Plain", "activation"), ("mine>Plain", "initializer")}:
            continue
        with pytest.raises(PadlessError):
            builders[place]({"class_name": name, "config": {}})


# ------------------------------------------------------------------------------------------------ the process


def state_of_process():
    """Return what loading must not change. The tests' own type checks draw from `random`, so it is not among it."""
    return (
        torch.get_default_dtype(),
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),
        torch.is_grad_enabled(),
        dict(get_custom_objects()),
        torch.get_num_threads(),
    )


def test_loading_leaves_the_process_as_it_was(path):
    """Random numbers and automatic names continue as if nothing had been loaded, after a success and after an error."""
    x = Input((None,))
    model = Model(x, Bidirectional(GRU(2))(Embedding(5, 3)(x)))
    model.save(path)
    padless.clear_session()
    before = state_of_process()
    load_model(path)
    assert state_of_process() == before
    content = path.read_bytes()
    config = config_of(model)
    config["config"]["layers"][-1]["config"]["layer"]["class_name"] = "os.system"
    write_config(path, config)
    refuse(path, "os.system")
    assert state_of_process() == before
    path.write_bytes(content[:-1])
    refuse(path)
    assert state_of_process() == before
    assert Dense(2).name == "dense" and Input((2,)).name.startswith("input_layer")
    config = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": {"units": 2}}]}}
    write_config(path, config)
    with pytest.raises(PadlessError):
        load_model(path)
    assert Dense(2).name == "dense_1"


def test_deeply_nested_layers_end_in_one_error(path):
    layer = {"class_name": "Dense", "config": {"units": 1, "name": "d"}}
    for number in range(29):
        layer = {"class_name": "TimeDistributed", "config": {"layer": layer, "name": f"t{number}"}}
    write_config(path, {"class_name": "Sequential", "config": {"layers": [layer]}})
    with pytest.raises(PadlessError):
        load_model(path)
    for number in range(100):
        layer = {"class_name": "TimeDistributed", "config": {"layer": layer, "name": f"u{number}"}}
    write_config(path, {"class_name": "Sequential", "config": {"layers": [layer]}})
    refuse(path, "inside each other")


def test_constant_initializers_hold_numbers_only():
    for value in (
        {"class_name": "__numpy__", "config": {"value": [1], "dtype": "O"}},
        {"class_name": "Dense", "config": {}},
    ):
        with pytest.raises(ArgumentError):
            Constant.from_config({"value": value})
    array = {"class_name": "__numpy__", "config": {"value": [[1], [2, 3]], "dtype": "float32"}}
    with pytest.raises(ArgumentError, match="lists of numbers"):
        Constant.from_config({"value": array})
