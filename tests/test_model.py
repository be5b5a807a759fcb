"""The model as a glossary: what it needs to be imported, and its names."""

import subprocess
import sys

import pytest

from shellrunner import model
from shellrunner.model.names import MAX_NAME_LENGTH, is_name


@pytest.mark.heavy
def test_the_model_is_imported_without_pydantic_until_a_specification_is_needed() -> None:
    """Importing the model, as every call of the CLI does, loads no pydantic; naming `JobSpec` does."""
    script = (
        "import sys\nimport shellrunner.model.endings, shellrunner.model.names\n"
        "assert 'pydantic' not in sys.modules\n"
        "from shellrunner.model import JobSpec\nassert 'pydantic' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_everything_that_the_model_exports_exists() -> None:
    """Each exported name is there, whether or not it is imported on demand; any other is an attribute error."""
    assert all(getattr(model, name) is not None for name in model.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        getattr(model, "Nonsense")  # noqa: B009  a type checker would refuse the attribute


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a", True),
        ("A.b_c-9", True),
        ("x" * MAX_NAME_LENGTH, True),
        ("x" * (MAX_NAME_LENGTH + 1), False),
        ("", False),
        ("a b", False),
        ("é", False),
        ("name\n", False),
    ],
)
def test_names(text: str, valid: bool) -> None:
    """A name has 1 to 63 ASCII letters, digits, dots, dashes and underscores."""
    assert is_name(text) is valid
