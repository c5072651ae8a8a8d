"""Pages of reports: one file, nothing from outside, text that cannot become markup."""
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from specprune_ros.analysis.plots import figure, save
from specprune_ros.analysis.reports import write_analysis_report
from specprune_ros.bench.report import write_report
from specprune_ros.errors import ConfigurationError
from specprune_ros.report import Report, command_line
from specprune_ros.report.page import shown

VOID = {"meta", "img", "br", "link", "input", "hr"}
ORIGIN = {"command": "analyze hitrate", "settings": {"top_k": 20}, "commit": "abc123",
          "versions": {"torch": "2.13", "python": "3.11"},
          "machine": {"cpu": "Some CPU", "system": "Linux", "threads": {"torch": 1}},
          "checkpoint": {"name": "tiny", "trained": False, "note": "untrained: <noise>"}}


class Page(HTMLParser):
    """Checks that tags are balanced; collects text, links and pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.pictures, self.words, self.rows = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attributes)
        self.links += [values[name] for name in ("src", "href") if name in values]
        if tag == "img":
            self.pictures.append(values)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)

    @property
    def text(self):
        return " ".join(self.words)


def check_self_contained(text):
    """The parsed page, after a check that it loads nothing."""
    page = Page(text)
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert not re.search(r"https?:|url\(|@import|<script", text)
    assert all(picture["alt"] for picture in page.pictures)
    return page


@pytest.fixture
def png(tmp_path):
    drawn, (axis,) = figure(1, 1, 3.0, 2.0)
    axis.plot([1, 2])
    return save(drawn, tmp_path / "picture.png", "title", "caption")


def test_page_holds_everything_itself(tmp_path, png):
    report = Report("A & B", "lead")
    report.section("One").table(["name", "value"], [["x", 1.23456], ["y", None]], "caption")
    report.picture(png, "what it shows").warning("careful").text("a note")
    report.section("Two").text("more").origin(ORIGIN, "specprune analyze hitrate --top-k 20")
    path = report.write(tmp_path / "new" / "report.html")
    page = check_self_contained(path.read_text())
    assert page.rows[:3] == [["name", "value"], ["x", "1.235"], ["y"]]
    assert page.pictures[0]["alt"] == "what it shows"
    for words in ("A & B", "careful", "a note", "abc123", "Some CPU, Linux", "torch 2.13",
                  "specprune analyze hitrate --top-k 20", '"top_k": 20'):
        assert words in page.text
    assert [link for link in page.links if link.startswith("#")] == ["#s0", "#s1", "#s2"]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x>', "a & b", "</td>"])
def test_text_never_becomes_markup(text):
    report = Report(text, text).section(text).text(text).warning(text)
    report.table([text, "b"], [[text, text]], text)
    report.origin({"commit": text, "versions": {text: text}, "settings": {text: text}}, text)
    page = check_self_contained(report.html())
    assert page.text.count(text) >= 8
    assert not page.pictures


@pytest.mark.parametrize("value, text", [
    (1.0, "1"), (0.123456, "0.1235"), (123456.0, "123456"), (1234567.8, "1.235e+06"), (7, "7"),
    (None, ""), (True, "True"), ("+1.50", "+1.50"), (float("nan"), "nan"), (-2.5, "-2.5")])
def test_cells(value, text):
    assert shown(value) == text


def test_columns_of_numbers_and_of_words():
    html = Report("t").table(["name", "number", "word"], [
        ["a", "18/20", "why"], ["b", "+1.5", "not"], ["c", "not available", ""]]).html()
    assert re.findall(r'<th scope="col"( class="words")?>(\w+)', html) == [
        (' class="words"', "name"), ("", "number"), (' class="words"', "word")]


def test_records_leave_out_what_is_empty_and_what_is_asked():
    html = Report("t").records([{"layer": "0", "share_mean": "0.123456", "none": "", "id": "7"},
                                {"layer": "1", "share_mean": "2.0", "none": "", "id": "8"}],
                               leave_out="id").html()
    assert Page(html).rows == [["layer", "share mean"], ["0", "0.1235"], ["1", "2"]]


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="report.html"):
        Report("t").write(tmp_path / "file" / "report.html")


@pytest.mark.parametrize("argv, text", [
    (["/opt/bin/specprune", "eval", "--json", "a b.json"], "specprune eval --json 'a b.json'"),
    (["/x/specprune_ros/cli.py", "bench"], "specprune bench"),
    (["/usr/bin/pytest", "-q"], "")])
def test_the_command_is_that_of_this_process(monkeypatch, argv, text):
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == text


def test_report_of_an_analysis_is_made_of_its_files(tmp_path, png):
    png.rename(tmp_path / "hitrate.png")
    (tmp_path / "hitrate.csv").write_text("camera,layer,overlap\nprimary,0,0.51234\n")
    (tmp_path / "hitrate.json").write_text(json.dumps(
        {**ORIGIN, "n": {"recordings": 1, "queries": 4}, "note": "a remark"}))
    path = write_analysis_report(tmp_path / "r.html", tmp_path / "hitrate", "overlap of layers")
    page = check_self_contained(path.read_text())
    assert len(page.pictures) == 1
    assert ["primary", "0", "0.5123"] in page.rows
    for words in ("specprune analyze hitrate: overlap of layers", "tiny, 1 recording, 4 queries",
                  "untrained: <noise>", "a remark"):
        assert words in page.text


def arm(text, ms, flops, rows):
    times = {"median": ms, "iqr": 0.5, "p95": ms + 2, "n": 9}
    return {"text": text, "runtime": "eager", "cpu_ms": times, "query_cpu_ms": times,
            "query_wall_ms": times, "cuda_ms": times, "flops": flops, "tokens_per_layer": rows,
            "roofline_ms": ms / 2, "of_roofline": 0.5, "tflops_per_s": 100.0,
            "peak_memory_mib": 54321.0}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_report_of_a_benchmark(tmp_path, device):
    document = {
        **ORIGIN, "command": "bench", "device": device, "device_facts": {"name": "This CPU"},
        "model": {"name": "small", "dtype": "float32"},
        "workload": {"threads": 1, "cameras": 2, "tokens": 600, "scene": "static",
                     "mode": "coarse"},
        "arms": {"b": arm("dense in our runtime", 20.0, 2e9, [600, 600]),
                 "d": arm("pruned in our runtime", 10.0, 1e9, [600, 200])},
        "ratios": {"b/d": 2.0, "query b/d": None, "flops": 2.0}, "withheld": "b is too slow",
        "selection_of_layer": 0.04, "selection_of_query": None,
    }
    page = check_self_contained(write_report(tmp_path / "b.html", document).read_text())
    assert len(page.pictures) == 1  # no sweep, no second picture
    assert ["b/d", "2.00"] in page.rows and ["query b/d", "withheld"] in page.rows
    assert ["selection of layer", "4.0 %"] in page.rows
    assert next(row for row in page.rows if row[0].startswith("d:"))[2] == "10.00 (0.50)"
    assert "b is too slow" in page.text and ("54321" in page.text) == (device == "cuda")
