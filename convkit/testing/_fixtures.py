"""What a conformance class declares, and the fixtures that its checks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from convkit.errors import AdapterNotFoundError
from convkit.plugins import manager
from convkit.testing._subject import Subject

if TYPE_CHECKING:
    from convkit.artifact import Artifact
    from convkit.model import SourceModel

__all__ = ["Fixtures"]


class Fixtures:
    """Base of the checks. Model and artifact are made once for each output form.

    ``adapter`` is the adapter's name. ``shapes`` are as for ``--shape``: choose small ones, the
    checks convert for real. ``options`` are as for ``--set`` and ``backend`` as for ``--backend``. ``forms`` None
    checks every output form.
    """

    adapter: ClassVar[str]
    shapes: ClassVar[Sequence[str]] = ()
    options: ClassVar[Mapping[str, Any]] = {}
    backend: ClassVar[str] = "onnxruntime"
    forms: ClassVar[Sequence[str] | None] = None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every check that names ``form`` once for each output form."""
        if "form" in metafunc.fixturenames:
            metafunc.parametrize("form", list(self.forms or self._all_forms()), scope="class")

    def _all_forms(self) -> Sequence[str]:
        problem = ""
        try:
            return manager().adapter(self.adapter).forms
        except AdapterNotFoundError as error:
            problem = str(error)
        return pytest.fail(f"{problem}\nIs its distribution installed? `pip install -e .` does it.", pytrace=False)

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls) -> Path:
        """Return the path of a checkpoint; every conformance class brings its own."""
        pytest.fail(f"{cls.__name__} must define the fixture `weights`, which returns the path of a checkpoint.")

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, weights: Path) -> Subject:
        """Return the adapter under test."""
        return Subject.find(cls.adapter, weights, cls.shapes, cls.options, cls.backend)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, subject: Subject, form: str) -> SourceModel:
        """Return the loaded model; no check may leave a trace on it."""
        return subject.load(form)

    @pytest.fixture(scope="class")
    @classmethod
    def raws(cls, subject: Subject) -> Sequence[Any]:
        """Return four raw inputs, as the preprocess takes them; the default is the adapter's own samples."""
        spec = subject.load(subject.adapter.forms[0]).spec
        return list(subject.adapter.samples(spec, 4, 0))

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls, subject: Subject, form: str, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        """Return the artifact of one output form, converted and proved."""
        return subject.convert(form, tmp_path_factory.mktemp("artifact") / form)
