"""Patches: they fire as often as they declare, and they come off whatever happens."""

from __future__ import annotations

import inspect
import types
from typing import Any

import pytest
import torch
from torch import nn

from convkit.errors import AdapterError, PatchError
from convkit.model import AttributePatch, ModulePatch, at_least, exactly, optional, patched


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.unused = nn.Linear(2, 2)
        self.wide = nn.Linear(2, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.fixture
def net() -> Net:
    return Net().eval()


X = torch.ones(1, 2)


def plus(amount: float) -> Any:
    return lambda module, original, x: original(x) + amount


def on(*paths: str) -> Any:
    return lambda path, module: path in paths


def forwards(net: nn.Module) -> dict[str, Any]:
    """Return the instance attribute ``forward`` of every module that has one."""
    return {path: vars(module)["forward"] for path, module in net.named_modules() if "forward" in vars(module)}


def test_a_patched_forward_replaces_the_method_and_gets_it_as_original(net):
    with torch.no_grad(), patched(net, [ModulePatch("p", "why", on("second"), plus(10.0))]) as records:
        inside = net(X)
    with torch.no_grad():
        torch.testing.assert_close(inside, net(X) + 10)
    (record,) = records
    assert (record.name, record.reason, record.expect) == ("p", "why", "at least 1")
    assert (record.sites, record.fired, record.near_misses) == (["second"], 1, [])


def test_after_the_block_nothing_is_left_on_the_model(net):
    with patched(net, [ModulePatch("p", "", on("first", "second"), plus(1.0), exactly(2))]):
        assert set(forwards(net)) == {"first", "second"}
        net(X)
    assert forwards(net) == {}


def test_patches_come_off_when_the_block_raises_and_the_error_comes_through(net):
    with pytest.raises(ZeroDivisionError), patched(net, [ModulePatch("p", "", on("first"), plus(1.0))]):
        raise ZeroDivisionError
    assert forwards(net) == {}


@pytest.mark.parametrize("stopper", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_patches_come_off_when_the_block_is_interrupted(net, stopper):
    with pytest.raises(stopper), patched(net, [ModulePatch("p", "", on("first"), plus(1.0))]):
        raise stopper
    assert forwards(net) == {}


def test_patches_installed_before_one_that_cannot_be_come_off_again(net):
    good = ModulePatch("good", "", on("first"), plus(1.0))
    nowhere = ModulePatch("nowhere", "", on("third"), plus(1.0))
    with pytest.raises(PatchError, match="'nowhere' matches 0 modules"), patched(net, [good, nowhere]):
        pytest.fail("the block must not run")
    assert forwards(net) == {}


def test_patches_come_off_when_match_itself_raises(net):
    def match(path: str, module: nn.Module) -> bool:
        if path == "second":
            raise ZeroDivisionError
        return path == "first"

    with (
        pytest.raises(AdapterError, match="patch 'p' at module 'second' raised ZeroDivisionError"),
        patched(net, [ModulePatch("p", "", match, plus(1.0))]),
    ):
        pytest.fail("the block must not run")
    assert forwards(net) == {}


def test_two_patches_on_one_module_nest_the_later_around_the_earlier(net):
    double = ModulePatch("double", "", on("second"), lambda module, original, x: original(x) * 2)
    add = ModulePatch("add", "", on("second"), plus(1.0))
    with torch.no_grad():
        plain = net(X)
        with patched(net, [double, add]) as records:
            torch.testing.assert_close(net(X), plain * 2 + 1)
        with patched(net, [add, double]):
            torch.testing.assert_close(net(X), (plain + 1) * 2)
        torch.testing.assert_close(net(X), plain)
    assert [record.fired for record in records] == [1, 1]
    assert forwards(net) == {}


def test_an_inner_block_that_is_left_gives_the_outer_patch_back(net):
    outer, inner = ModulePatch("o", "", on("first"), plus(1.0)), ModulePatch("i", "", on("first"), plus(2.0))
    with patched(net, [outer]):
        installed = net.first.forward
        with patched(net, [inner]):
            net(X)
        assert net.first.forward is installed
        net(X)
    assert forwards(net) == {}


def test_a_forward_that_was_set_on_the_instance_before_comes_back(net):
    own = types.MethodType(lambda self, x: x, net.first)
    net.first.forward = own
    with patched(net, [ModulePatch("p", "", on("first"), plus(1.0))]):
        net(X)
    assert net.first.forward is own


def test_matches_are_counted_by_module_and_uses_by_module_not_by_call(net):
    with patched(net, [ModulePatch("p", "", on("first", "second"), plus(0.0), exactly(2))]) as (record,):
        for _ in range(3):
            net(X)
    assert record.fired == 2


def test_a_matching_module_that_never_runs_is_an_error_that_names_the_sites(net):
    patch = ModulePatch("p", "", on("second", "unused"), plus(0.0), exactly(2))
    with (
        pytest.raises(PatchError, match=r"'p' was used 1 time; it declares exactly 2") as caught,
        patched(net, [patch]),
    ):
        net(X)
    assert "second, unused" in caught.value.message
    assert forwards(net) == {}


COUNTS = [
    (exactly(2), 2, True),
    (exactly(2), 1, False),
    (exactly(2), 3, False),
    (exactly(0), 0, True),
    (exactly(0), 1, False),
    (at_least(1), 0, False),
    (at_least(1), 2, True),
    (optional(), 0, True),
    (optional(), 2, True),
]


@pytest.mark.parametrize(("expect", "count", "good"), COUNTS, ids=[f"{c[0]}-{c[1]}" for c in COUNTS])
def test_expected_counts_hold(expect, count, good):
    class Chain(nn.Sequential):
        """Run all children."""

    net = Chain(*[nn.Linear(2, 2) for _ in range(3)])
    patch = ModulePatch("p", "", on(*map(str, range(count))), plus(0.0), expect)

    def run() -> None:
        with patched(net, [patch]):
            net(X)

    if good:
        run()
    else:
        with pytest.raises(PatchError, match=f"matches {count} module.*declares {expect}"):
            run()
    assert forwards(net) == {}


def test_the_model_may_override_the_expectation_by_name(net):
    patch = ModulePatch("p", "", on("second"), plus(0.0), exactly(3))
    with patched(net, [patch], {"p": exactly(1)}) as (record,):
        net(X)
    assert record.expect == "exactly 1"
    with pytest.raises(PatchError, match="exactly 2"), patched(net, [patch], {"p": exactly(2)}):
        pytest.fail("the block must not run")


def test_near_misses_stand_in_the_message_and_in_the_record(net):
    def match(path: str, module: nn.Module) -> bool | str:
        if not isinstance(module, nn.Linear):
            return False
        return module.out_features == 2 or f"it has {module.out_features} outputs, not 2"

    with patched(net, [ModulePatch("p", "", match, plus(0.0), optional())]) as (record,):
        pass
    assert record.near_misses == ["wide: it has 9 outputs, not 2"]
    patch = ModulePatch("p", "", match, plus(0.0), exactly(4))
    with pytest.raises(PatchError, match="matches 3 modules") as caught, patched(net, [patch]):
        pytest.fail("the block must not run")
    assert "wide: it has 9 outputs, not 2" in caught.value.hint
    assert "first, second, unused" in caught.value.message


def test_without_near_misses_the_hint_doubts_the_model(net):
    with pytest.raises(PatchError) as caught, patched(net, [ModulePatch("p", "", on("x"), plus(0.0))]):
        pytest.fail("the block must not run")
    assert "right model" in caught.value.hint


def test_the_model_itself_can_be_patched_and_is_called_by_its_class(net):
    with torch.no_grad(), patched(net, [ModulePatch("p", "", on(""), plus(5.0))]) as (record,):
        torch.testing.assert_close(net(X) - 5, Net.forward(net, X))
    assert record.sites == ["Net"]


def test_a_patched_forward_that_takes_anything_keeps_the_signature_that_exporters_read(net):
    plain = inspect.signature(net.first.forward)

    def forward(module: nn.Module, original: Any, *args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    with patched(net, [ModulePatch("p", "", on("first"), forward, optional())]):
        assert inspect.signature(net.first.forward) == plain


def test_the_arguments_that_a_patched_forward_names_are_the_signature_that_exporters_read(net):
    def forward(module: nn.Module, original: Any, x: torch.Tensor, scale: float = 2.0) -> Any:
        return original(x) * scale

    plain = inspect.signature(net.first.forward)
    with torch.no_grad(), patched(net, [ModulePatch("p", "", on("first"), forward)]):
        assert list(inspect.signature(net.first.forward).parameters) == ["x", "scale"]
        torch.testing.assert_close(net.first(X), 2 * nn.Linear.forward(net.first, X))
    assert inspect.signature(net.first.forward) == plain


library = types.SimpleNamespace(__name__="library", double=lambda x: 2 * x)


class Tool:
    @staticmethod
    def static(x: int) -> int:
        return x

    @classmethod
    def build(cls, x: int) -> tuple[type, int]:
        return cls, x

    def method(self, x: int) -> int:
        return x + 1


class SubTool(Tool):
    """Inherit everything."""


def test_an_attribute_patch_counts_calls_and_restores_the_very_object(net):
    original = library.double
    patch = AttributePatch("a", "why", library, "double", lambda original, x: original(x) + 1, exactly(2))
    with patched(net, [patch]) as (record,):
        assert [library.double(3), library.double(4)] == [7, 9]
    assert library.double is original
    assert (record.fired, record.sites, record.expect) == (2, ["library.double"], "exactly 2")


def test_an_attribute_patch_that_is_not_called_is_an_error(net):
    original = library.double
    patch = AttributePatch("a", "", library, "double", lambda original, x: x)
    with pytest.raises(PatchError, match="'a' was used 0 times; it declares at least 1"), patched(net, [patch]):
        pass
    assert library.double is original


@pytest.mark.parametrize("owner", [Tool, SubTool, Tool()], ids=["class", "subclass", "instance"])
def test_a_method_on_a_class_a_subclass_or_an_instance_comes_back_as_it_was(net, owner):
    before = dict(vars(owner))
    patch = AttributePatch("a", "", owner, "method", lambda original, *args: original(*args) * 10)
    with patched(net, [patch]):
        tool = owner if isinstance(owner, Tool) else owner()
        assert tool.method(1) == 20
    assert dict(vars(owner)) == before
    assert Tool().method(1) == 2


@pytest.mark.parametrize("name", ["static", "build"])
def test_static_and_class_methods_stay_what_they_are(net, name):
    before = vars(Tool)[name]
    plain = getattr(Tool(), name)(3)
    patch = AttributePatch("a", "", Tool, name, lambda original, x: original(x))
    with patched(net, [patch]):
        assert getattr(Tool, name)(3) == plain
        assert getattr(Tool(), name)(3) == plain
    assert vars(Tool)[name] is before


def test_a_missing_attribute_is_an_error_with_a_suggestion(net):
    patch = AttributePatch("a", "", library, "duoble", lambda original: None)
    with pytest.raises(PatchError, match=r"found no library\.duoble") as caught, patched(net, [patch]):
        pytest.fail("the block must not run")
    assert "Did you mean 'double'" in caught.value.hint


def test_an_error_in_the_block_is_not_hidden_by_a_count_that_fails_too(net):
    patch = AttributePatch("a", "", library, "double", lambda original, x: x, exactly(5))
    with pytest.raises(ZeroDivisionError), patched(net, [patch]):
        raise ZeroDivisionError
