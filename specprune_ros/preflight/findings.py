"""What a check says: OK, WARN or FAIL, with the remedy; and checks that cannot stop one another."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from ..errors import ConfigurationError, SpecpruneError


class Level(Enum):
    """How bad a finding is. Only FAIL keeps a policy from running as it should."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One line. name: what was checked. text: what was found. remedy: what to do; "" for OK."""

    name: str
    level: Level
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" + (f". {self.remedy}" if self.remedy else "")


Check = Callable[[], "Finding | Sequence[Finding]"]


def ok(name: str, text: str) -> Finding:
    return Finding(name, Level.OK, text)


def warn(name: str, text: str, remedy: str) -> Finding:
    return Finding(name, Level.WARN, text, remedy)


def fail(name: str, text: str, remedy: str) -> Finding:
    return Finding(name, Level.FAIL, text, remedy)


def run_checks(checks: Iterable[tuple[str, Check]]) -> list[Finding]:
    """Run checks one after another; what one raises becomes its own FAIL line."""
    findings: list[Finding] = []
    for name, check in checks:
        try:
            found = check()
        except SpecpruneError as error:  # says what is wrong and what to do
            found = fail(name, str(error), "")
        except Exception as error:
            text = " ".join(str(error).split())
            found = fail(name, f"the check itself failed: {type(error).__name__}: {text}",
                         "Report it if the cause is not plain from the text")
        findings += [found] if isinstance(found, Finding) else found
    return findings


def raise_failures(findings: Iterable[Finding]) -> None:
    """Raise ConfigurationError that names every FAIL."""
    failures = [str(finding) for finding in findings if finding.level is Level.FAIL]
    if failures:
        raise ConfigurationError("; ".join(failures))
