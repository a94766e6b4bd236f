import os
import stat
from pathlib import Path

import pytest

from policies.errors import ConfigError
from telemetry.whole_file import write_whole


def test_a_file_appears_with_its_whole_content_and_nothing_beside_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "out.json", b"whole")
    assert (tmp_path / "out.json").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_an_older_file_is_replaced_and_keeps_who_may_read_it(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_bytes(b"older and longer")
    target.chmod(0o640)
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_new_file_is_as_readable_as_the_user_wants_new_files(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "out", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_a_link_stays_a_link_to_the_new_content(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    link.symlink_to(real)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


def test_a_pipe_or_device_is_written_to_and_not_replaced() -> None:
    write_whole("/dev/null", b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_folder_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent/out\.json: cannot be written .* name a file in an existing"):
        write_whole(tmp_path / "absent" / "out.json", b"x")


def test_a_folder_as_target_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        write_whole(tmp_path, b"x")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_leaves_the_old_file_and_no_part_of_the_new(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "out", "text is no bytes")  # type: ignore[arg-type]
    assert (tmp_path / "out").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_dash_is_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_whole("-", b"to a pipe")
    assert capfdbinary.readouterr().out == b"to a pipe"
