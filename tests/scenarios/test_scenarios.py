"""Transcripts that a power engineer can review: each file is a script and what the cores answered."""

from pathlib import Path

import pytest

from tests.scenarios.stage import Stage

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


def played(text: str) -> str:
    """The transcript with its answers (the indented lines) made again."""
    stage, lines = Stage(), []
    for line in text.splitlines():
        if line.startswith("  "):
            continue
        lines.append(line)
        if line.strip() and not line.startswith("#"):
            lines += [f"  {answer}" for answer in stage.play(line)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript_is_what_happens(path: Path, rewrite: bool) -> None:
    """Run with --rewrite to write the answers again; only commit a change of which you understand the cause."""
    text = path.read_text(encoding="utf-8")
    now = played(text)
    if rewrite:
        path.write_text(now, encoding="utf-8")
    else:
        assert text == now, "read the difference; if it is right: pytest tests/scenarios --rewrite"


def test_every_promised_transcript_is_there() -> None:
    assert len(TRANSCRIPTS) >= 10


def test_a_line_that_is_no_verb_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such line"):
        played("fleet 1\nsing all\n")
