import io
import re

from sim_backend.report import table
from sim_backend.report.verdict import limits_of
from sim_backend.result import ReplayResult, RunResult
from tests.twin.fake_result import fake_result


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


RESULT = fake_result((0.0, 30.0), ("no-cap", "polca"), bins=200)


def line_of(text: str, *starts: str) -> str:
    return next(line for line in text.splitlines() if all(part in line for part in starts))


def test_the_plain_table_has_a_row_for_each_run_under_each_path() -> None:
    text = table.render(RESULT)
    rows = [line for line in text.splitlines() if re.match(r"(no-cap|polca) +\+", line)]
    assert len(rows) == len(RESULT.runs)
    assert "out-of-band actuation, reactive guarantee" in text
    assert "in-band actuation, hard guarantee" in text


def test_the_plain_table_is_plain() -> None:
    text = table.render(RESULT)
    assert "\x1b" not in text
    assert text.isascii()


def test_columns_line_up() -> None:
    lines = table.render(RESULT).splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("---"))
    heading, rows = lines[rule - 1], lines[rule + 1 : rule + 5]
    for title in ("servers", "brakes", "trips"):
        end = heading.index(title) + len(title)
        assert all(row[end - 1].isdigit() and row[end] in " !" for row in rows), title


def test_a_broken_limit_is_marked_on_its_figure_and_named_at_the_end() -> None:
    line = line_of(table.render(RESULT), "no-cap", "+30 %")
    assert re.search(r"\d!", line)
    assert line.endswith("no: brakes")


def test_a_good_run_says_yes_and_carries_no_mark() -> None:
    line = line_of(table.render(RESULT), "polca", "+30 %")
    assert line.endswith("yes")
    assert "!" not in line


def test_a_missing_figure_is_a_dash() -> None:
    bare = RunResult("polca", 0.0, 40, "in-band", "hard", {"brakes": 0})
    one = table.row(bare, limits_of({}), table.COLUMNS)
    assert one.cells[0] == "0"
    assert set(one.cells[1:]) == {"-"}
    assert table.render(ReplayResult({}, (bare,)))


def test_a_change_near_its_limit_is_not_rounded_onto_it() -> None:
    change = {"high": {"p50": 0.96, "p99": -0.001}, "low": {"p50": 12.34, "p99": 1.0}}
    one = table.row(
        RunResult("p", 0.0, 1, "in-band", "hard", {"latency_change_pct": change}), limits_of({}), table.COLUMNS
    )
    assert one.cells[3:7] == ("+0.96", "+0.00", "+12.3", "+1.00")


def test_markdown_has_the_same_figures_and_bold_where_a_limit_is_broken() -> None:
    text = table.markdown(RESULT)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    widths = {line.count("|") for line in rows}
    assert len(widths) == 1
    assert re.search(r"\*\*\d+\*\*", line_of(text, "| no-cap |", "+30 %"))
    assert line_of(text, "| polca |", "+30 %").endswith("| yes |")


def test_a_pipe_in_a_name_does_not_break_the_markdown() -> None:
    text = table.markdown(ReplayResult({}, (RunResult("a|b", 0.0, 1, "in-band", "hard", {}),)))
    assert "a\\|b" in text


def test_what_is_no_terminal_gets_the_plain_table() -> None:
    stream = io.StringIO()
    table.show(RESULT, stream)
    assert stream.getvalue() == table.render(RESULT)


def test_a_terminal_gets_words_and_marks_beside_the_colour(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    table.show(RESULT, stream)
    text = stream.getvalue()
    assert "\x1b[" in text
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "no: brakes" in bare
    assert re.search(r"\d!", bare)


def test_a_name_with_brackets_is_shown_as_it_is(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    table.show(ReplayResult({}, (RunResult("[red]x", 0.0, 1, "in-band", "hard", {}),)), stream)
    assert "[red]x" in re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
