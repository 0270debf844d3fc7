"""The conformance kit for authors of adapters: what every adapter must do, as pytest checks.

Write one class a network and run pytest::

    import pytest
    from convkit.testing import AdapterConformance

    class TestMine(AdapterConformance):
        adapter = "mine"
        shapes = ("height=64", "width=96")

        @pytest.fixture(scope="class")
        @classmethod
        def weights(cls, tmp_path_factory):
            return make_small_checkpoint(tmp_path_factory.mktemp("weights") / "mine.pt")

Each check says in its docstring what a failure means and what to do. The adapter's distribution has
to be installed (``pip install -e .``): the kit finds the adapter as the command line does.

The module needs pytest; ``import convkit`` alone never imports it.
"""

from convkit.self_test import OUTPUT_FAULTS as FAULTS
from convkit.self_test import OutputFault as Fault
from convkit.testing._conformance import AdapterConformance

__all__ = ["FAULTS", "AdapterConformance", "Fault"]
