"""The benchmark times what it says: the same model everywhere, the products of the real steps, each peer in its turn.

No test looks at how long anything takes.
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
from benchmarks import curves, peers, team, worker
from benchmarks.curves import Line
from benchmarks.peer_limit import Product, products
from benchmarks.peers import PEERS, Entry
from benchmarks.report import factor
from benchmarks.team import Job, PeerPool, PeerProcess, Times
from benchmarks.workloads import TINY, WORKLOADS, data

QUICK = [workload.quick() for workload in WORKLOADS.values()]
TORCH = ["torch-padded", "torch-cropped", "torch-packed"]


def made(name, workload):
    return PEERS[name].make(workload, "cpu")


# ------------------------------------------------------------------------------------------ what is computed


@pytest.mark.parametrize("workload", QUICK, ids=lambda w: w.name)
@pytest.mark.filterwarnings("ignore:Layer .conv1d.", "ignore:__array__ implementation")
def test_all_peers_have_the_same_model_and_data(workload):
    own = made("padless", workload)
    weights, outputs, real = own.weights(), own.predict(), own.ids != 0
    for name in [*TORCH, "keras-torch"]:
        if workload.kind in PEERS[name].cannot:
            continue
        other = made(name, workload)
        other.load(weights)
        if workload.kind == "conv" and name == "keras-torch":  # Keras lets padding into the pooling
            assert abs(other.loss() - own.loss()) > 1e-3
            continue
        assert other.loss() == pytest.approx(own.loss(), abs=1e-5), name
        found = np.asarray(other.predict())
        assert found.shape == outputs.shape, name
        np.testing.assert_allclose(*((x[real] if workload.tags else x) for x in (found, outputs)), atol=2e-5, err_msg=name)


def test_cropped_batches_end_with_their_longest_row():
    peer = made("torch-cropped", QUICK[0])
    for rows in torch.arange(len(peer.ids)).split(2):
        found = peer._batch(rows)
        assert found.ids.shape == found.labels.shape == (2, peer.lengths[rows].max())


@pytest.mark.parametrize("workload", QUICK, ids=lambda w: w.name)
def test_an_epoch_of_torch_learns(workload):
    for name in TORCH:
        if workload.kind not in PEERS[name].cannot:
            peer = made(name, workload)
            before = peer.loss()
            for _ in range(10):
                peer.train()
            assert peer.loss() < before, name


def test_disturbed_weights_leave_nothing_at_zero():
    given = made("padless", QUICK[3]).model.get_weights()
    for before, after in zip(given, peers.disturbed(given), strict=True):
        assert after.dtype == np.float32 and before.shape == after.shape and (after != before).all() and after.all()


@pytest.mark.parametrize("fill", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("name", WORKLOADS)
def test_data_are_filled_as_asked_and_alike_for_all(name, fill):
    workload = replace(WORKLOADS[name], fill=fill)
    ids, labels = data(workload)
    real = ids != 0
    assert real.shape == (64 * workload.steps, 200)
    assert real.mean() == pytest.approx(fill, rel=0.02)
    assert real.any(axis=1).all()
    assert fill == 1 or np.ptp(real.sum(axis=1)) > 20
    holes = (real[:, 1:] > real[:, :-1]).any()
    assert holes == (workload.holes and fill < 1)
    assert labels.shape == (real.shape if workload.tags else real.shape[:1])
    again = data(workload)
    assert np.array_equal(ids, again[0]) and np.array_equal(labels, again[1])


# ------------------------------------------------------------------------------------------ the limit

IDS = np.array([[3, 0, 0, 0, 0], [5, 6, 7, 8, 9]])  # 6 real steps; a query sees (1 * 1 + 5 * 5) / 6 = 4.3 keys
LIMITS = {
    "lstm-128": [Product(6, 2, 20), Product(6, 5, 20), Product(6, 5, 3)],
    "bilstm": [Product(6, 2, 20, 2), Product(6, 5, 20, 2), Product(2, 10, 3)],
    "gru-holes": [Product(6, 2, 15), Product(6, 5, 15), Product(6, 5, 3)],
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
    small = replace(WORKLOADS[name], steps=1, batch=2, width=5, units=5, features=2, classes=3, heads=2)
    assert products(small, IDS) == LIMITS[name]


@pytest.mark.parametrize("workload", QUICK, ids=lambda w: w.name)
def test_the_limit_multiplies_once_forward_and_twice_backward(workload):
    limit = made("limit", workload)
    once = sum(2 * p.rows * p.inner * p.columns * p.times for p in products(workload, data(workload)[0]))
    for what, times in (("predict", 1), ("train", 3)):
        with FlopCounterMode(display=False) as flops:
            getattr(limit, what)()
        assert flops.get_total_flops() == times * once * workload.steps


# ------------------------------------------------------------------------------------------ turns


class Inside:
    """A peer in this very process, behind the same lines."""

    log: list = []

    def __init__(self, name, threads, device):
        self.name, self.worker = name, worker.Worker(name, device)

    def ask(self, **order):
        order = json.loads(json.dumps(order))
        what = order.pop("do")
        self.log.append((self.name, what, order.get("key"), order.get("what")))
        return json.loads(json.dumps(getattr(self.worker, what)(**order)))

    def close(self):
        pass


@pytest.fixture
def inside(monkeypatch):
    monkeypatch.setattr(team, "PeerProcess", Inside)
    monkeypatch.setattr(team, "PAUSE", 0)
    monkeypatch.setattr(worker.gc, "collect", lambda: 0)  # slow among all that tests have imported
    monkeypatch.setattr(Inside, "log", [])
    return Inside


def test_peers_take_turns_and_each_is_first_in_its_round(inside):
    names = ["limit", "torch-padded", "torch-packed"]
    with PeerPool(names, 1, "cpu") as asked:
        asked.build(0, QUICK[0])
        inside.log.clear()
        job = Job(0, "train", parts=2)
        found = asked.in_turn([job], 3)
    order = [name for name, *_ in inside.log]
    assert order == [*names, *names[1:], names[0], names[2], *names[:2], *names]
    assert {at: len(times.wall) for at, times in found.items()} == {(name, job): 3 for name in names}  # warmed up once


def test_a_time_is_that_of_one_part():
    times = Times()
    times.add({"wall": 6.0, "cpu": 12.0}, 3)
    times.add({"wall": 12.0, "cpu": 12.0}, 3)
    assert times.wall == [2.0, 4.0] and times.cpu == [4.0, 4.0]
    assert times.median == 3.0 and times.quartiles == (2.5, 3.5)


def test_a_time_is_that_of_one_repetition(monkeypatch):
    clock = [0.0]

    class Slow:
        def predict(self):
            clock[0] += 3

    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(worker, name, lambda: clock[0])
    asked = worker.Worker("limit", "cpu")
    asked.peers[0] = Slow()
    assert asked.time(0, "predict", repeat=5) == {"wall": 3, "cpu": 3}


def test_who_cannot_or_is_not_installed_is_left_out_with_a_word(inside, monkeypatch):
    monkeypatch.setitem(PEERS, "keras-jax", Entry("Keras on JAX", "peer_fit", "keras", ("keras", "no_such_package")))
    with PeerPool(["limit", "keras-jax", "torch-packed"], 1, "cpu") as asked:
        asked.build(0, WORKLOADS["conv"].quick())
        assert asked.names == ["limit"]
        assert asked.left_out == {"keras-jax": "no_such_package not installed", "torch-packed": "has no conv classifier"}


def test_a_process_answers_in_lines_and_says_how_it_died():
    process = PeerProcess("limit", 1, "cpu")
    try:
        assert "torch" in process.ask(do="build", key=0, workload=vars(QUICK[0]))["versions"]
        assert set(process.ask(do="time", key=0, what="train")) == {"wall", "cpu"}
        assert process.ask(do="memory")["megabytes"] >= 0
        with pytest.raises(team.PeerProcessError, match="KeyError: 7"):
            process.ask(do="time", key=7, what="train")
    finally:
        process.close()
    assert process.process.returncode == 1


NOISY = """
import sys, types
from benchmarks import peers, worker
class Noisy:
    train = predict = lambda self: print("noise")
sys.modules["benchmarks.noisy"] = types.SimpleNamespace(make=lambda *_: Noisy())
peers.PEERS["noisy"] = peers.Entry("noisy", "noisy", needs=())
worker.main()
"""


def test_what_a_framework_prints_is_no_answer():
    orders = [{"do": "build", "key": 0, "workload": vars(QUICK[0])}, {"do": "time", "key": 0, "what": "train"}]
    done = subprocess.run(
        [sys.executable, "-c", NOISY, "noisy", "1", "cpu"],
        capture_output=True,
        text=True,
        cwd=team.ROOT,
        input="\n".join(map(json.dumps, orders)),
        check=True,
    )
    assert [set(json.loads(line)) for line in done.stdout.splitlines()] == [{"versions"}, {"wall", "cpu"}]
    assert done.stderr == 3 * "noise\n"


# ------------------------------------------------------------------------------------------ the command


def test_the_command_prints_a_table_and_writes_json_and_svg(inside, tmp_path, capsys):
    files = [tmp_path / "times.json", tmp_path / "ratios.svg"]
    assert (
        command.main(
            [
                "--quick",
                "--workload",
                "lstm-128",
                "--workload",
                "conv",
                "--fill",
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
        assert all(len(peer[what][clock]) == 2 for what in ("train", "predict") for clock in ("wall", "cpu"))
    assert tagger["ratios"]["limit"] == {"train": 1.0, "predict": 1.0}
    for what, ratio in tagger["ratios"]["padless"].items():
        own, limit = (np.median(tagger["peers"][name][what]["wall"]) for name in ("padless", "limit"))
        assert ratio == pytest.approx(own / limit)
    picture = ElementTree.parse(files[1]).getroot()
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in picture.iter(f"{space}text")]
    bars = [bar for bar in picture.iter(f"{space}rect") if bar.get("fill") != "white"]
    ratios = [
        one["ratios"][name][what] for what in ("train", "predict") for one in (tagger, classifier) for name in one["peers"]
    ]
    assert "LSTM tagger 128, fill 0.5" in texts and {factor(ratio) for ratio in ratios} <= set(texts)
    widths = [float(bar.get("width")) for bar in bars]
    assert len(widths) == len(ratios) == 2 * (4 + 3)
    drawn = np.polyfit(np.log(ratios), widths, 1)
    assert drawn[0] > 10
    np.testing.assert_allclose(np.polyval(drawn, np.log(ratios)), widths, atol=0.1)  # a logarithmic axis


def test_curves_are_printed_and_written(inside, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(curves, "IMPORTS", [("", "json", ""), ("json", "no_such_package", "")])
    file = tmp_path / "curves.json"
    assert command.main(["--quick", "--curves", "--peers", "limit,padless", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    for title in ("against fill", "against length", "against batch", "R2", "fit adds", "model(x)", "json"):
        assert title in printed
    written = json.loads(file.read_text())
    assert [curve["against"] for curve in written["curves"]] == ["fill", "length", "batch"]
    assert [[point["x"] for point in curve["points"]] for curve in written["curves"][1:]] == [[10, 20, 40], [1, 2, 4]]
    (start,) = written["starts"]
    assert list(start["latency"]) == ["padless"] and set(start["latency"]["padless"]) == {"predict_one", "call_one"}
    assert list(start["imports"]) == ["json"]


def test_another_loss_of_careful_torch_code_fails_the_run(inside, monkeypatch, capsys):
    from benchmarks.peer_torch import Torch

    right = Torch.loss
    monkeypatch.setattr(Torch, "loss", lambda self: right(self) + 2e-4)
    assert command.main(["--quick", "--workload", "lstm-128", "--peers", "padless,torch-padded"]) == 1
    assert re.search(r"torch, padded \*", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--fill", "0"], "above 0"),
        (["--rounds", "0"], "at least 1"),
        (["--peers", "torch"], "there is no torch"),
        (["--curves", "--svg", "x.svg"], "--curves"),
        (["--svg", "x.svg", "--peers", "padless"], "the limit"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, said, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert said in capsys.readouterr().err


def test_the_models_of_the_table_are_timed_unless_told():
    def pairs(*arguments):
        return [(w.name, w.fill) for w in command.chosen(command.parser().parse_args(arguments))]

    assert len(pairs()) == 8 and pairs()[-1] == ("lstm-128", 0.1)
    assert pairs("--workload", "gru-holes") == [("gru-holes", 0.7)]
    assert pairs("--fill", "0.2") == [(name, 0.2) for name in WORKLOADS]


def test_a_line_is_found_again():
    line = Line.through([(x, 0.5 + 2 * x) for x in (0.1, 0.3, 1.0)])
    assert (line.intercept, line.slope, line.r2) == pytest.approx((0.5, 2.0, 1.0))
    assert Line.through([(0, 0), (1, 1), (2, 0)]).r2 == pytest.approx(0, abs=1e-9)
    assert math.isclose(Line.through([(0, 3), (1, 3)]).r2, 1)


def test_the_loop_beside_fit_trains_the_same_layers():
    loop = made("padless-loop", TINY.quick())
    before = loop.layers[0].get_weights()[0]
    loop.train()
    assert [type(layer).__name__ for layer in loop.layers] == ["Embedding", "GlobalAveragePooling1D", "Dense"]
    assert (loop.layers[0].get_weights()[0] != before).any()
