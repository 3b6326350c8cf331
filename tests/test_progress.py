"""The progress bar: its text, its refreshes, and the release of the terminal."""

import re
import time
from io import StringIO

import pytest
import torch
from rich.console import Console
from rich.errors import LiveError

from padless.callbacks import CallbackList, LambdaCallback
from padless.callbacks import progress_bar as progress
from padless.callbacks.progress_bar import ProgressBar, as_verbose
from padless.errors import ArgumentError


def terminal(width=120):
    return Console(file=StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm"})


def written(console):
    return console.file.getvalue()


def lines(console):
    """What is written, without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written(console)).replace("\r", "")


def fit(bar, epochs=2, steps=3, known=True, logs=None, **params):
    params = {"epochs": epochs, "steps": steps if known else None, "verbose": 1, **params}
    callbacks = CallbackList([bar], **params)
    callbacks.on_train_begin()
    for epoch in range(epochs):
        callbacks.on_epoch_begin(epoch)
        for step in range(steps):
            callbacks.on_train_batch_begin(step)
            callbacks.on_train_batch_end(step, logs or {"loss": torch.tensor(0.5)})
        callbacks.on_test_begin()
        callbacks.on_test_batch_end(0, {"loss": 9.0})
        callbacks.on_test_end({"loss": 9.0})
        callbacks.on_epoch_end(epoch, {"loss": 0.25, "val_loss": 1e-5})
    callbacks.on_train_end()


def test_the_bar_shows_epoch_steps_time_and_results():
    console = terminal()
    fit(ProgressBar(console=console))
    shown = lines(console)
    assert "Epoch 1/2" in shown and "Epoch 2/2" in shown
    assert "3/3" in shown and "/step" in shown and "━" in shown
    assert "loss 0.2500" in shown and "val_loss 1.0000e-05" in shown
    assert "9.0000" not in shown  # the validation's batches stay silent


def test_the_bar_shows_the_remaining_time_during_an_epoch(monkeypatch):
    monkeypatch.setattr(progress, "REFRESH_INTERVAL", 0.0)
    console = terminal()
    fit(ProgressBar(console=console))
    assert "1/3" in lines(console) and "left" in lines(console) and "loss 0.5000" in lines(console)


def test_many_metrics_are_shown_on_more_lines():
    console = terminal(width=80)
    bar = ProgressBar(console=console)
    callbacks = CallbackList([bar], epochs=1, steps=1, verbose=1)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0, {f"metric_{i}": float(i) for i in range(9)})
    callbacks.on_train_end()
    assert all(f"metric_{i} {i}.0000" in lines(console) for i in range(9))


@pytest.mark.parametrize("console, verbose", [
    (Console(file=StringIO(), width=40), 1),
    (Console(file=StringIO(), width=40), 2),
    (terminal(40), 2),
    (Console(file=StringIO(), force_terminal=True, width=40, _environ={"TERM": "dumb"}), "auto"),
])  # fmt: skip
def test_without_a_bar_each_epoch_is_a_plain_line(console, verbose):
    fit(ProgressBar(console=console), verbose=verbose)
    assert "\x1b" not in written(console)
    first, second = written(console).splitlines()
    assert re.fullmatch(r"Epoch 1/2 - 3/3 - \d+s, \d+[mu]s/step - loss: 0\.2500 - val_loss: 1\.0000e-05", first)
    assert second.startswith("Epoch 2/2")


def test_verbose_0_prints_nothing():
    for console in (terminal(), Console(file=StringIO())):
        fit(ProgressBar(console=console), verbose=0)
        assert written(console) == ""


def test_real_steps_per_second_are_shown():
    console, params = Console(file=StringIO()), {"epochs": 2, "steps": 1, "verbose": 2, "real_steps": 0}
    bar = ProgressBar(console=console)
    bar.set_params(params)
    bar.on_train_begin()
    for epoch in range(2):
        bar.on_epoch_begin(epoch)
        params["real_steps"] += 50
        time.sleep(0.01)
        bar.on_train_batch_end(0, {})
        bar.on_epoch_end(epoch, {})
    found = re.findall(r"([\d.]+)(k?) real steps/s", written(console))
    rates = [float(number) * (1000 if k else 1) for number, k in found]
    assert len(rates) == 2 and all(0 < rate <= 5000 for rate in rates)


def test_the_number_of_steps_is_shown_after_the_first_epoch():
    console = Console(file=StringIO())
    fit(ProgressBar(console=console), known=False)
    assert all(" - 3/3 - " in line for line in written(console).splitlines())
    moving = terminal()
    fit(ProgressBar(console=moving), known=False)
    assert "3/3" in lines(moving)


@pytest.mark.parametrize("kind", ["test", "predict"])
def test_evaluate_and_predict_print_a_line(kind):
    console = Console(file=StringIO())
    callbacks = CallbackList([ProgressBar(console=console)], steps=2, verbose=1)
    getattr(callbacks, f"on_{kind}_begin")()
    for step in range(2):
        logs = {"loss": torch.tensor(0.5)} if kind == "test" else {"outputs": torch.zeros(3, 2)}
        getattr(callbacks, f"on_{kind}_batch_end")(step, logs)
    getattr(callbacks, f"on_{kind}_end")()
    assert re.fullmatch(r"(Evaluate|Predict) - 2/2 - \d+s, \d+[mu]s/step( - loss: 0.5000)?\n", written(console))
    assert ("loss" in written(console)) == (kind == "test")


def test_outputs_of_predict_are_not_shown(monkeypatch):
    monkeypatch.setattr(progress, "REFRESH_INTERVAL", 0.0)
    console = terminal()
    bar = ProgressBar(console=console)
    bar.set_params({"steps": 2})
    bar.on_predict_begin()
    bar.on_predict_batch_end(0, {"outputs": torch.zeros(3, 2)})
    bar.on_predict_end()
    assert "Predict" in lines(console) and "1/2" in lines(console) and "outputs" not in lines(console)


def test_a_line_is_printed_if_the_terminal_has_another_bar(monkeypatch):
    def refuse(self):
        raise LiveError("Only one live display may be active at once")

    monkeypatch.setattr(progress.Live, "start", refuse)
    console = terminal()
    fit(ProgressBar(console=console))
    assert [line[:16] for line in lines(console).splitlines()] == ["Epoch 1/2 - 3/3 ", "Epoch 2/2 - 3/3 "]


def test_the_terminal_is_released_when_the_loop_raises():
    console = terminal()
    bar = ProgressBar(console=console)
    bar.set_params({"epochs": 1, "steps": 3})
    bar.on_train_begin()
    bar.on_epoch_begin(0)
    assert "\x1b[?25l" in written(console)  # the cursor is hidden while the bar moves
    assert "\x1b[?25h" not in written(console)
    bar.close()
    bar.close()
    assert written(console).count("\x1b[?25h") == 1
    bar.on_test_begin()  # after a failed fit it is no longer in fit
    bar.on_test_end({"loss": 1.0})
    assert "Evaluate" in lines(console)
    assert written(console).count("\x1b[?25h") == 2


def test_another_run_inside_a_callback_does_not_break_the_bar():
    console = terminal()

    def evaluate(epoch, logs):
        inner = ProgressBar(console=console)
        inner.set_params({"steps": 1})
        inner.on_test_begin()
        inner.on_test_batch_end(0, {})
        inner.on_test_end({"loss": 0.75})

    bar = ProgressBar(console=console)
    callbacks = CallbackList([LambdaCallback(on_epoch_end=evaluate), bar], epochs=1, steps=1)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0, {"loss": 0.5})
    callbacks.on_train_end()
    assert "0.7500" in lines(console) and "loss 0.5000" in lines(console)
    assert written(console).rfind("\x1b[?25h") > written(console).rfind("\x1b[?25l")


def test_logs_are_not_read_between_refreshes_and_a_step_is_fast():
    class Unreadable(dict):
        def items(self):
            raise AssertionError("logs were read")

    bar = ProgressBar(console=terminal())
    callbacks = CallbackList([bar], epochs=1, steps=1000, verbose=1)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    bar._draw_time += 3600  # no refresh is due
    logs = Unreadable(loss=1.0)
    best = min(_time_of(callbacks, logs) for _ in range(20))
    bar.close()
    assert best < 20e-6


def _time_of(callbacks, logs, calls=100):
    began = time.perf_counter()
    for step in range(calls):
        callbacks.on_train_batch_end(step, logs)
    return (time.perf_counter() - began) / calls


def test_the_bar_refreshes_at_most_ten_times_a_second(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: clock[0])
    console = terminal()
    bar = ProgressBar(console=console)
    bar.set_params({"epochs": 1, "steps": 1000})
    bar.on_epoch_begin(0)
    before = lines(console).count("Epoch")
    for step in range(1000):  # one second in all
        clock[0] += 0.001
        bar.on_train_batch_end(step, {"loss": 1.0})
    drawn = lines(console).count("Epoch") - before
    bar.close()
    assert 8 <= drawn <= 10


def test_as_verbose_accepts_the_values_of_keras_only():
    for verbose in (3, -1, "loud", None, 1.0):
        with pytest.raises(ArgumentError, match=re.escape(repr(verbose))):
            as_verbose(verbose)
    assert [as_verbose(verbose) for verbose in (0, 1, 2, "auto", True, False)] == [0, 1, 2, 1, 1, 0]
