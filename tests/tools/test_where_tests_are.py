"""A reference to a test leads to its line, and one that leads nowhere says why."""

import pytest

from tools.where_tests_are import locate


@pytest.fixture
def root(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text(
        "import os\n\n\n@os.fspath\ndef test_a(): ...\n\n\ndef helper(): ...\n"
    )
    return tmp_path


def test_it_finds_the_line_of_a_test(root):
    assert locate("tests/test_one.py::test_a", root) == ("tests/test_one.py", 5)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("tests/test_one.py", "write a test as"),
        ("tests/test_one.py::helper", "write a test as"),
        ("tools/test_one.py::test_a", "write a test as"),
        ("tests/test_two.py::test_a", "no file tests/test_two.py"),
        ("tests/test_one.py::test_b", "no test test_b"),
    ],
)
def test_what_leads_nowhere_is_named(root, reference, said):
    with pytest.raises(LookupError, match=said):
        locate(reference, root)
