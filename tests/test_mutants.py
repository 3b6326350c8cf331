"""The faults that `scripts/mutants` plants can be planted. Whether the tests find them it says itself."""

import importlib.util
from pathlib import Path

import padless

ROOT = Path(__file__).parent.parent


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAULTS = loaded("faults").FAULTS


def test_there_are_faults_for_every_room():
    assert len(FAULTS) >= 20
    rooms = {"ragged", "kernels", "graph", "layers", "losses", "metrics", "trainers"}
    assert {fault.file.split("/")[0] for fault in FAULTS} >= rooms
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_the_text_of_each_fault_stands_in_its_file_once():
    for fault in FAULTS:
        source = (Path(padless.__file__).parent / fault.file).read_text()
        assert source.count(fault.right) == 1, f"{fault.name}: in {fault.file}"
        assert fault.right != fault.wrong
        if fault.file.endswith(".py"):
            compile(source.replace(fault.right, fault.wrong), fault.file, "exec")


def test_the_tests_that_should_find_a_fault_exist():
    for fault in FAULTS:
        for test in fault.tests.split():
            file, _, name = test.partition("::")
            assert (ROOT / file).exists(), f"{fault.name}: {test}"
            assert not name or f"def {name}(" in (ROOT / file).read_text(), f"{fault.name}: {test}"
