"""The benchmark: all peers have the same model, the limit has the products of the real steps, and peers run in turn.

No test depends on the speed of the machine.
"""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as command
from benchmarks import curves, peer_pool, peers, worker
from benchmarks.curves import Line, TimedImport
from benchmarks.peer_limit import Product, list_products
from benchmarks.peer_pool import Job, PeerPool, PeerProcess, Times
from benchmarks.peer_torch import TorchPeer
from benchmarks.peers import PEERS, PeerSpec
from benchmarks.report import format_ratio
from benchmarks.workloads import TINY, WORKLOADS, make_data

TINY_WORKLOADS = [workload.shrink() for workload in WORKLOADS.values()]
TORCH = ["torch-padded", "torch-cropped", "torch-packed"]


def make_peer(name, workload):
    return PEERS[name].make(workload, "cpu")


# ------------------------------------------------------------------------------------------ the models


@pytest.mark.slow
@pytest.mark.parametrize("workload", TINY_WORKLOADS, ids=lambda w: w.name)
@pytest.mark.filterwarnings("ignore:Layer .conv1d.", "ignore:__array__ implementation")
def test_all_peers_have_the_same_model_and_data(workload):
    padless = make_peer("padless", workload)
    weights, outputs, real = padless.weights(), padless.predict(), padless.ids != 0
    for name in [*TORCH, "keras-torch"]:
        if workload.kind in PEERS[name].unsupported:
            continue
        other = make_peer(name, workload)
        other.load(weights)
        if workload.kind == "conv" and name == "keras-torch":  # padding influences the pooling in Keras
            assert abs(other.loss() - padless.loss()) > 1e-3
            continue
        assert other.loss() == pytest.approx(padless.loss(), abs=1e-5), name
        other_outputs = np.asarray(other.predict())
        assert other_outputs.shape == outputs.shape, name
        pair = [x[real] if workload.step_labels else x for x in (other_outputs, outputs)]
        np.testing.assert_allclose(*pair, atol=2e-5, err_msg=name)


def test_cropped_batches_have_the_width_of_their_longest_sequence():
    peer = make_peer("torch-cropped", TINY_WORKLOADS[0])
    for rows in torch.arange(len(peer.ids)).split(2):
        batch = peer._make_batch(rows)
        assert batch.ids.shape == batch.labels.shape == (2, peer.lengths[rows].max())


@pytest.mark.slow
@pytest.mark.parametrize("workload", TINY_WORKLOADS, ids=lambda w: w.name)
def test_training_lowers_the_loss_in_torch(workload):
    for name in TORCH:
        if workload.kind not in PEERS[name].unsupported:
            peer = make_peer(name, workload)
            before = peer.loss()
            for _ in range(10):
                peer.train()
            assert peer.loss() < before, name


def test_weights_with_noise_have_no_zeros():
    weights = make_peer("padless", TINY_WORKLOADS[3]).model.get_weights()
    for before, after in zip(weights, peers.add_noise(weights), strict=True):
        assert after.dtype == np.float32 and before.shape == after.shape and (after != before).all() and after.all()


@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("name", WORKLOADS)
def test_data_have_the_density_and_are_equal_in_each_process(name, density):
    workload = replace(WORKLOADS[name], density=density)
    ids, labels = make_data(workload)
    real = ids != 0
    assert real.shape == (64 * workload.batches, 200)
    assert real.mean() == pytest.approx(density, rel=0.02)
    assert real.any(axis=1).all()
    assert density == 1 or np.ptp(real.sum(axis=1)) > 20
    has_gaps = (real[:, 1:] > real[:, :-1]).any()
    assert has_gaps == (workload.gaps and density < 1)
    assert labels.shape == (real.shape if workload.step_labels else real.shape[:1])
    again = make_data(workload)
    assert np.array_equal(ids, again[0]) and np.array_equal(labels, again[1])


# ------------------------------------------------------------------------------------------ the limit

IDS = np.array([[3, 0, 0, 0, 0], [5, 6, 7, 8, 9]])  # 6 real steps, and (1 * 1 + 5 * 5) / 6 = 4.3 keys for a query
LIMITS = {
    "lstm-128": [Product(6, 2, 20), Product(6, 5, 20), Product(6, 5, 3)],
    "bilstm": [Product(6, 2, 20, 2), Product(6, 5, 20, 2), Product(2, 10, 3)],
    "gru-gaps": [Product(6, 2, 15), Product(6, 5, 15), Product(6, 5, 3)],
    "transformer": [
        Product(6, 2, 6, 2),
        Product(12, 1, 4, 2),
        Product(12, 4, 1, 2),
        Product(6, 2, 2, 2),
        Product(6, 2, 5, 2),
        Product(6, 5, 2, 2),
        Product(6, 2, 3),
    ],
    "conv": [Product(6, 10, 5), Product(2, 5, 3)],
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_has_the_products_of_the_real_steps(name):
    small = replace(WORKLOADS[name], batches=1, batch=2, width=5, units=5, features=2, classes=3, heads=2)
    assert list_products(small, IDS) == LIMITS[name]


@pytest.mark.parametrize("workload", TINY_WORKLOADS, ids=lambda w: w.name)
def test_the_limit_multiplies_once_forward_and_twice_backward(workload):
    limit = make_peer("limit", workload)
    once = sum(2 * p.rows * p.inner * p.columns * p.times for p in list_products(workload, make_data(workload)[0]))
    for action, times in (("predict", 1), ("train", 3)):
        with FlopCounterMode(display=False) as flops:
            getattr(limit, action)()
        assert flops.get_total_flops() == times * once * workload.batches


# ------------------------------------------------------------------------------------------ the processes


class PeerInThisProcess:
    """A peer without a process, with the interface of `PeerProcess`."""

    log: list = []

    def __init__(self, name, threads, device):
        self.name, self.worker = name, worker.Worker(name, device)

    def send(self, command, **arguments):
        arguments = json.loads(json.dumps(arguments))
        self.log.append((self.name, command))
        return json.loads(json.dumps(getattr(self.worker, command)(**arguments)))

    def close(self):
        pass


@pytest.fixture
def log(monkeypatch):
    """Run peers in this process, and return the list of their commands."""
    monkeypatch.setattr(peer_pool, "PeerProcess", PeerInThisProcess)
    monkeypatch.setattr(peer_pool, "PAUSE", 0)
    monkeypatch.setattr(worker.gc, "collect", lambda: 0)  # slow with all the modules that tests import
    monkeypatch.setattr(PeerInThisProcess, "log", [])
    return PeerInThisProcess.log


def test_peers_run_in_turn_and_each_round_begins_with_another_peer(log):
    names = ["limit", "torch-padded", "torch-packed"]
    with PeerPool(names, 1, "cpu") as pool:
        pool.build(0, TINY_WORKLOADS[0])
        log.clear()
        job = Job(0, "train", parts=2)
        times = pool.run_rounds([job], 3)
    order = [name for name, _ in log]
    assert order == [*names, *names[1:], names[0], names[2], *names[:2], *names]
    rounds = {key: len(peer_times.wall) for key, peer_times in times.items()}
    assert rounds == {(name, job): 3 for name in names}  # the warm-up does not count


def test_a_time_is_divided_by_the_number_of_parts():
    times = Times()
    times.add({"wall": 6.0, "cpu": 12.0}, 3)
    times.add({"wall": 12.0, "cpu": 12.0}, 3)
    assert times.wall == [2.0, 4.0] and times.cpu == [4.0, 4.0]
    assert times.median == 3.0 and times.quartiles == (2.5, 3.5)


@pytest.mark.slow
def test_a_time_is_divided_by_the_number_of_repetitions(monkeypatch):
    clock = [0.0]

    class Slow:
        def predict(self):
            clock[0] += 3

    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(worker, name, lambda: clock[0])
    limit = worker.Worker("limit", "cpu")
    limit.peers[0] = Slow()
    assert limit.time(0, "predict", repeat=5) == {"wall": 3, "cpu": 3}


def test_peers_that_are_not_installed_or_lack_a_model_are_excluded_with_the_reason(log, monkeypatch):
    monkeypatch.setitem(PEERS, "keras-jax", PeerSpec("Keras on JAX", "peer_fit", "keras", ("keras", "no_such_package")))
    with PeerPool(["limit", "keras-jax", "torch-packed"], 1, "cpu") as pool:
        pool.build(0, WORKLOADS["conv"].shrink())
        assert pool.names == ["limit"]
        assert pool.excluded == {"keras-jax": "no_such_package not installed", "torch-packed": "has no conv classifier"}


@pytest.mark.slow
def test_a_process_answers_commands_and_its_last_error_is_reported():
    process = PeerProcess("limit", 1, "cpu")
    try:
        assert "torch" in process.send("build", model=0, workload=vars(TINY_WORKLOADS[0]))["versions"]
        assert set(process.send("time", model=0, action="train")) == {"wall", "cpu"}
        assert process.send("memory")["megabytes"] >= 0
        with pytest.raises(peer_pool.PeerProcessError, match="KeyError: 7"):
            process.send("time", model=7, action="train")
    finally:
        process.close()
    assert process.process.returncode == 1


NOISY = """
import sys, types
from benchmarks import peers, worker
class Noisy:
    train = predict = lambda self: print("noise")
sys.modules["benchmarks.noisy"] = types.SimpleNamespace(make=lambda *_: Noisy())
peers.PEERS["noisy"] = peers.PeerSpec("noisy", "noisy", packages=())
worker.main()
"""


def test_output_of_a_framework_goes_to_standard_error():
    commands = [
        {"command": "build", "model": 0, "workload": vars(TINY_WORKLOADS[0])},
        {"command": "time", "model": 0, "action": "train"},
    ]
    done = subprocess.run(
        [sys.executable, "-c", NOISY, "noisy", "1", "cpu"],
        capture_output=True,
        text=True,
        cwd=peer_pool.ROOT,
        input="\n".join(map(json.dumps, commands)),
        check=True,
    )
    assert [set(json.loads(line)) for line in done.stdout.splitlines()] == [{"versions"}, {"wall", "cpu"}]
    assert done.stderr == 3 * "noise\n"


# ------------------------------------------------------------------------------------------ the command


def test_the_command_prints_a_table_and_writes_json_and_svg(log, tmp_path, capsys):
    files = [tmp_path / "times.json", tmp_path / "ratios.svg"]
    assert (
        command.main(
            [
                "--quick",
                "--workload",
                "lstm-128",
                "--workload",
                "conv",
                "--density",
                "0.5",
                "--rounds",
                "2",
                "--peers",
                "limit,padless,torch-padded,torch-packed",
                "--json",
                str(files[0]),
                "--svg",
                str(files[1]),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    for title in ("LSTM tagger 128", "conv classifier", "the limit", "padless", "torch, PackedSequence", "x limit"):
        assert title in printed
    assert "Left out: torch, PackedSequence (has no conv classifier)." in printed
    written = json.loads(files[0].read_text())
    assert written["rounds"] == 2
    tagger, classifier = written["comparisons"]
    assert list(tagger["peers"]) == ["limit", "padless", "torch-padded", "torch-packed"]
    assert list(classifier["peers"]) == ["limit", "padless", "torch-padded"]
    for peer in tagger["peers"].values():
        assert all(len(peer[action][clock]) == 2 for action in ("train", "predict") for clock in ("wall", "cpu"))
    assert tagger["ratios"]["limit"] == {"train": 1.0, "predict": 1.0}
    for action, ratio in tagger["ratios"]["padless"].items():
        padless, limit = (np.median(tagger["peers"][name][action]["wall"]) for name in ("padless", "limit"))
        assert ratio == pytest.approx(padless / limit)
    picture = ElementTree.parse(files[1]).getroot()
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in picture.iter(f"{space}text")]
    bars = [bar for bar in picture.iter(f"{space}rect") if bar.get("fill") != "white"]
    ratios = [
        one["ratios"][name][action]
        for action in ("train", "predict")
        for one in (tagger, classifier)
        for name in one["peers"]
    ]
    assert "LSTM tagger 128, density 0.5" in texts and {format_ratio(ratio) for ratio in ratios} <= set(texts)
    widths = [float(bar.get("width")) for bar in bars]
    assert len(widths) == len(ratios) == 2 * (4 + 3)
    line = np.polyfit(np.log(ratios), widths, 1)  # the axis is logarithmic
    assert line[0] > 10
    np.testing.assert_allclose(np.polyval(line, np.log(ratios)), widths, atol=0.1)


@pytest.mark.slow
def test_curves_are_printed_and_written(log, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(curves, "IMPORTS", [TimedImport("json"), TimedImport("no_such_package", after="json")])
    file = tmp_path / "curves.json"
    assert command.main(["--quick", "--curves", "--peers", "limit,padless", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    for title in ("against density", "against length", "against batch", "R2", "fit adds", "model(x)", "json"):
        assert title in printed
    written = json.loads(file.read_text())
    assert [curve["axis"] for curve in written["curves"]] == ["density", "length", "batch"]
    assert [[point["x"] for point in curve["points"]] for curve in written["curves"][1:]] == [[10, 20, 40], [1, 2, 4]]
    (costs,) = written["fixed_costs"]
    assert list(costs["latency"]) == ["padless"] and set(costs["latency"]["padless"]) == {"predict_one", "call_one"}
    assert list(costs["imports"]) == ["json"]


def test_a_different_loss_in_torch_fails_the_run(log, monkeypatch, capsys):
    loss = TorchPeer.loss
    monkeypatch.setattr(TorchPeer, "loss", lambda self: loss(self) + 2e-4)
    assert command.main(["--quick", "--workload", "lstm-128", "--peers", "padless,torch-padded"]) == 1
    assert re.search(r"torch, padded \*", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--density", "0"], "above 0"),
        (["--rounds", "0"], "at least 1"),
        (["--peers", "torch"], "unknown peers torch"),
        (["--curves", "--svg", "x.svg"], "--curves"),
        (["--svg", "x.svg", "--peers", "padless"], "the limit"),
    ],
)
def test_wrong_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_the_default_workloads_and_the_options_that_change_them():
    def pairs(*arguments):
        options = command.make_parser().parse_args(arguments)
        return [(w.name, w.density) for w in command.choose_workloads(options)]

    assert len(pairs()) == 8 and pairs()[-1] == ("lstm-128", 0.1)
    assert pairs("--workload", "gru-gaps") == [("gru-gaps", 0.7)]
    assert pairs("--density", "0.2") == [(name, 0.2) for name in WORKLOADS]


def test_a_line_is_fitted():
    line = Line.fit([(x, 0.5 + 2 * x) for x in (0.1, 0.3, 1.0)])
    assert (line.intercept, line.slope, line.r2) == pytest.approx((0.5, 2.0, 1.0))
    assert Line.fit([(0, 0), (1, 1), (2, 0)]).r2 == pytest.approx(0, abs=1e-9)
    assert math.isclose(Line.fit([(0, 3), (1, 3)]).r2, 1)


def test_the_loop_without_fit_trains_the_same_layers():
    loop = make_peer("padless-loop", TINY.shrink())
    before = loop.layers[0].get_weights()[0]
    loop.train()
    assert [type(layer).__name__ for layer in loop.layers] == ["Embedding", "GlobalAveragePooling1D", "Dense"]
    assert (loop.layers[0].get_weights()[0] != before).any()
