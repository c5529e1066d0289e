"""A hash of code changes with whatever the code does or uses, and with nothing else."""

from __future__ import annotations

import functools
import math
import sys
import types

import numpy as np
import pytest
import torch
import torch_geometric.transforms as T

from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.code import bytes_of, code_of
from pyg_ckd.data import PCAFeatures
from pyg_ckd.nn import FISM, VBPR, LightGCN
from pyg_ckd.training import Trainer, train_teachers
from tests.training.problem import planted_data

SOURCE = """
import helpers
import torch

SCALE = 2.0
TABLE = (1, 2, 3)
CALLS = []


def helper(x):
    return x + 1


class Base:
    WIDTH = 4

    def shared(self, x):
        return x * self.WIDTH


class Model(Base):
    def __init__(self, rate=0.1):
        self.rate = rate

    @property
    def size(self):
        return 3

    @staticmethod
    def free(x):
        return x

    def forward(self, x, bias=1.0):
        "Adds."
        CALLS.append(x)
        return helpers.norm(helper(self.shared(x))) * SCALE + bias + TABLE[0]
"""
HELPERS = "def norm(x):\n    return x / 2\n\n\ndef unused(x):\n    return x\n"


def made(source: str = SOURCE, helpers: str = HELPERS):
    """Return the class of a module that was written in an editor."""
    other = types.ModuleType("helpers")
    exec(helpers, other.__dict__)
    sys.modules["helpers"] = other
    try:
        space = {"__name__": "mine"}
        exec(source, space)
        return space["Model"]
    finally:
        del sys.modules["helpers"]


EDITS = {
    "a helper": ("x + 1", "x + 2"),
    "a constant": ("SCALE = 2.0", "SCALE = 3.0"),
    "a constant of several numbers": ("(1, 2, 3)", "(1, 2, 4)"),
    "a base class": ("x * self.WIDTH", "x - self.WIDTH"),
    "an attribute of a base class": ("WIDTH = 4", "WIDTH = 5"),
    "a default": ("bias=1.0", "bias=2.0"),
    "a property": ("return 3", "return 4"),
    "a static method": ("def free(x):\n        return x", "def free(x):\n        return -x"),
    "the default of the constructor": ("rate=0.1", "rate=0.2"),
}


@pytest.mark.parametrize(("old", "new"), EDITS.values(), ids=EDITS.keys())
def test_an_edit_of_what_is_used_is_another_code(old, new):
    assert SOURCE.count(old) == 1
    assert code_of(made()) == code_of(made())
    assert code_of(made()) != code_of(made(SOURCE.replace(old, new)))


def test_an_edit_of_another_module_is_another_code_if_it_is_used():
    assert code_of(made()) != code_of(made(helpers=HELPERS.replace("x / 2", "x / 3")))
    assert code_of(made()) == code_of(made(helpers=HELPERS.replace("return x\n", "return -x\n")))


def test_places_comments_and_what_is_only_filled_do_not_count():
    model = made("# A comment.\n\n\n" + SOURCE)
    assert code_of(model) == code_of(made())
    model().forward(1.0)
    assert code_of(model) == code_of(made())


def test_objects_count_with_their_settings():
    assert code_of(made()(0.1)) == code_of(made()(0.1)) != code_of(made()(0.2))
    assert code_of(PCAFeatures(2)) == code_of(PCAFeatures(2)) != code_of(PCAFeatures(3))
    assert code_of(T.NormalizeFeatures(["x"])) != code_of(T.NormalizeFeatures(["y"]))
    assert code_of(functools.partial(made, 1)) != code_of(functools.partial(made, 2))
    assert code_of(made()(np.zeros(2))) != code_of(made()(np.ones(2)))


def test_closures_count_with_their_values_and_weights():
    def make(value):
        return lambda x: x * value

    assert code_of(make(1)) == code_of(make(1)) != code_of(make(2))
    net = torch.nn.Linear(2, 2)
    before = code_of(make(net))
    assert code_of(make(net)) == before
    with torch.no_grad():
        net.weight += 1
    assert code_of(make(net)) != before


def test_the_order_in_sets_and_places_in_memory_do_not_count():
    assert code_of({f"{n}" for n in range(50)}) == code_of({f"{n}" for n in reversed(range(50))})
    kept = [made() for _ in range(3)]
    assert len({code_of(one) for one in kept}) == 1


NAMESPACES = {
    "argparse": "from argparse import Namespace as Settings",
    "types": "from types import SimpleNamespace as Settings",
    "dataclass": "import dataclasses\nSettings = dataclasses.make_dataclass('Settings', ['scale', 'rates'])",
}


@pytest.mark.parametrize("head", NAMESPACES.values(), ids=NAMESPACES.keys())
def test_settings_in_an_object_that_a_function_reads_count(head):
    def reads(scale: float, rate: int):
        space = {"__name__": "mine"}
        body = f"{head}\nARGS = Settings(scale={scale}, rates=[{rate}])\ndef f(x):\n    return x * ARGS.scale\n"
        exec(body, space)
        return space["f"]

    assert code_of(reads(1.0, 1)) == code_of(reads(1.0, 1))
    assert len({code_of(reads(*values)) for values in ((1.0, 1), (2.0, 1), (1.0, 2))}) == 3


@pytest.mark.parametrize(
    "body", ["{c}\ndef f(x):\n    return x * C", "class f:\n    {c}"], ids=["global", "in a class"]
)
def test_containers_in_capital_letters_count(body):
    def code(container: str):
        space = {"__name__": "mine"}
        exec(body.format(c=container), space)
        return code_of(space["f"])

    assert code("C = {'rate': 0.1}") == code("C = {'rate': 0.1}")
    assert len({code(f"C = {value}") for value in ("{'rate': 0.1}", "{'rate': 0.2}", "[1]", "[2]", "{1}")}) == 5
    assert code("C = {}") == code("C = {'kept': object()}")  # A cache, before and after its first use.


READS = [
    "x * c['rate']",
    "c.get('rate')",
    "[v for v in c]",
    "dict(**c)",
    "x in c",
    "(lambda: c[x])()",
    "{**c}",
]
WRITES = ["c.setdefault(x, 1)", "keep(c, x)", "c", "(c, x)", "len(c)", "[v for v in keep(c)]", "c['found'].append(x)"]


@pytest.mark.parametrize("line", [*READS, *WRITES])
def test_containers_in_small_letters_count_where_they_are_only_looked_into(line):
    def code(values, more=""):
        space = {"__name__": "mine", "c": values}
        exec(f"def keep(kept, x):\n    return kept\ndef f(x):\n    return {line}\n{more}", space)
        return code_of(space["f"])

    assert code({"rate": 0.1}) == code({"rate": 0.1})
    assert (code({"rate": 0.1}) != code({"rate": 0.2})) == (line in READS)
    assert code({"kept": object()}) == code({})
    log = "def log(x):\n    keep(c, x)"
    assert code({"rate": 0.1}, log) == code({"rate": 0.2}, log)


def test_containers_in_closures_do_not_count():
    def holds(config):
        return code_of(lambda x: x * config["rate"])

    assert holds({"rate": 0.1}) == holds({"rate": 0.2})


def test_hooks_of_a_module_count():
    def hooked(factor):
        net = torch.nn.Sequential(torch.nn.Identity())
        net[0].register_forward_hook(lambda module, inputs, out: out * factor)
        return code_of(net)

    assert hooked(1.0) == hooked(1.0) != hooked(2.0)


def test_a_hook_that_counts_does_not_change_the_code():
    class Counter:
        number = 0

        def __call__(self, module, inputs, out):
            self.number += 1

    net, counter = torch.nn.Linear(2, 2), Counter()
    plain = code_of(net)
    net.register_forward_hook(counter)
    before = code_of(net)
    net(torch.ones(1, 2))
    assert code_of(net) == before != plain


@pytest.mark.parametrize("line", ["C[x] = 1", "C.update(x)", "x = [C.pop(y) for y in x]", "del C[x]"])
def test_containers_that_a_function_writes_into_do_not_count(line):
    def code(container: str):
        space = {"__name__": "mine"}
        exec(f"C = {container}\ndef f(x):\n    {line}\n    return x", space)
        return code_of(space["f"])

    assert code("{1: 2}") == code("{1: 3}")


WRITTEN_ELSEWHERE = {
    "function": "C = {c}\ndef fill(x):\n    C[x] = x\ndef f(x):\n    return C[x]",
    "method": "C = {c}\nclass Fills:\n    def fill(self, x):\n        C[x] = x\ndef f(x):\n    return C[x]",
    "class of itself": "C = {c}\nclass A:\n    def g(self):\n        C.clear()\nA.of = A\ndef f(x):\n    return C",
    "class method": "class f:\n    C = {c}\n    @classmethod\n    def fill(cls, x):\n        cls.C[x] = x",
}


@pytest.mark.parametrize("body", WRITTEN_ELSEWHERE.values(), ids=WRITTEN_ELSEWHERE.keys())
def test_containers_that_others_write_into_do_not_count(body):
    def code(container: str):
        space = {"__name__": "mine"}
        exec(body.format(c=container), space)
        return code_of(space["f"])

    assert code("{1: 2}") == code("{1: 3}")


def test_an_object_that_holds_more_than_plain_values_does_not_count():
    space = {"__name__": "mine", "kept": types.SimpleNamespace(found={}, of=object())}
    exec("def f(x):\n    kept.found[x] = x\n    return x\n", space)
    before = code_of(space["f"])
    space["f"](1)
    assert code_of(space["f"]) == before


def test_the_code_of_the_package_is_the_same_after_its_use():
    classes = (VBPR, FISM, LightGCN, DistillationWrapper, Objective)
    before = [code_of(cls) for cls in classes]
    data = planted_data()
    run = Trainer(max_epochs=1, monitor="ndcg@5", progress=False)
    teachers = train_teachers(VBPR, data, run, use_cache=False, embedding_dim=4)
    run.fit(DistillationWrapper(FISM.from_data(data, embedding_dim=4), teachers), data)
    assert [code_of(cls) for cls in classes] == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), ()], ids=str)
def test_the_bytes_of_a_tensor_are_those_of_its_array(shape, dtype):
    values = torch.arange(12.0)[: math.prod(shape)].view(shape).to(dtype)
    assert bytes_of(values).tobytes() == values.numpy().tobytes()
    assert bytes_of(values.t()).tobytes() == values.t().numpy().tobytes()


def test_numbers_that_arrays_lack_have_bytes():
    values = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    assert bytes_of(values.requires_grad_()).tobytes() == values.detach().view(torch.int16).numpy().tobytes()
