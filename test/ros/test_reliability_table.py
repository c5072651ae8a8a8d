"""docs/reliability.md names tests that exist."""
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"


def test_every_test_of_the_table_exists():
    found = 0
    for line in PAGE.read_text().splitlines():
        if not line.startswith("|"):
            continue
        file = None
        for name, test in re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", line):
            file = name or file
            if file is None:
                continue
            source = (HERE / file).read_text()
            assert not test or f"def {test}(" in source, f"{file}::{test}"
            found += 1
    assert found > 30
