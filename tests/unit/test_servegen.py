"""ServeGen's windows: what is read, what is drawn from them, and what is said of bad files."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from policies.errors import ConfigError, DataError
from telemetry.request_reading import Reading
from telemetry.request_spool import Requests
from telemetry.request_trace import read_request_trace
from telemetry.servegen import Client, Gaps, Lengths, ServeGen, TokenCounts
from telemetry.servegen_aggregate import from_quantiles
from telemetry.servegen_draw import drawn, expected_rows
from telemetry.servegen_files import read_folder
from telemetry.trace import FORMATS

DAY = b"".join(
    b"%d,%d,%.2f,%s,0.5,0.5\n" % (600 * k, k % 3, 0.8 + k % 5 / 4, (b"Gamma", b"Weibull")[k % 2]) for k in range(144)
)
IDLE = b"0,0,0,,0,0\n600,0,0,,0,0\n"
LENGTHS = json.dumps(
    {
        "0": {"input_tokens": "{10: 0.25, 20: 0.75}", "output_tokens": "{0: 0.5, 3: 0.5}"},
        "21600": {"input_tokens": "{}", "output_tokens": "{}"},
        "43200": {"input_tokens": "{30: 1.0}", "output_tokens": "{40: 1.0}", "reason_ratio": "{0.0: 1.0}"},
    }
).encode()
FILES = {
    "chunk-0-trace.csv": DAY,
    "chunk-0-dataset.json": LENGTHS,
    "chunk-7-trace.csv": DAY.replace(b",1,", b",0.5,"),
    "chunk-12-trace.csv": IDLE,
}
Folder = Callable[[dict[str, bytes]], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(files: dict[str, bytes]) -> Path:
        path = tmp_path / "load"
        path.mkdir(exist_ok=True)
        for name, content in files.items():
            (path / name).write_bytes(content)
        return path

    return make


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"some/where/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def counts(*pairs: tuple[int, float]) -> TokenCounts:
    return TokenCounts(np.array([k for k, _ in pairs], dtype=np.int32), np.cumsum([share for _, share in pairs]))


def steady(rate_rps: float, cv: float, *, weibull: bool, windows: int = 6, number: int = 0) -> ServeGen:
    """One client that never changes."""
    lengths = {0: Lengths(counts((10, 0.5), (30, 0.5)), counts((1, 0.9), (100, 0.1)))}
    whole = np.ones(windows)
    starts = np.arange(windows, dtype=np.int64) * 600
    client = Client(number, starts, whole * rate_rps, whole * cv, whole > (0 if weibull else 1), lengths)
    return ServeGen((client,), 600 * windows)


def all_of(load: ServeGen, reading: Reading) -> Requests:
    return np.concatenate(list(drawn(load, reading)))


def test_a_folder_and_an_archive_give_the_same_requests(folder: Folder, tmp_path: Path) -> None:
    path = folder(FILES)
    archive = tmp_path / "load.tar.xz"
    archive.write_bytes(packed(FILES))
    loose, tight = read_request_trace(path), read_request_trace(archive)
    assert loose.rows == tight.rows > 50_000
    assert (loose.read(0, loose.rows) == tight.read(0, loose.rows)).all()
    names = [each.name for each in FORMATS if each.sniff(b"", path)]
    assert names == ["servegen"]


def test_rates_are_those_of_the_files(folder: Folder) -> None:
    start_s, rate_rps, active = read_folder(folder(FILES), "load").rates()
    assert (start_s == 600 * np.arange(144)).all()
    assert rate_rps[:6].tolist() == [0.0, 1.5, 4.0, 0.0, 1.5, 4.0]
    assert active[:6].tolist() == [0, 2, 2, 0, 2, 2]


def test_windows_without_requests_are_gaps(folder: Folder) -> None:
    trace = read_request_trace(folder(FILES))
    arrival_s = trace.read(0, trace.rows)["arrival_s"]
    assert not (arrival_s // 600 % 3 == 0).any()
    assert (np.diff(arrival_s) >= 0.0).all()
    counted = np.bincount((arrival_s // 600).astype(int), minlength=144)
    assert counted[1::3] == pytest.approx(900, abs=5 * 30 * 1.8)
    assert counted[2::3] == pytest.approx(2400, abs=5 * 49 * 1.8)


def test_lengths_are_those_of_the_window_or_the_nearest_one(folder: Folder) -> None:
    trace = read_request_trace(folder(FILES))
    rows = trace.read(0, trace.rows)
    early, late = rows[rows["arrival_s"] < 32_400], rows[rows["arrival_s"] >= 43_200]
    assert set(late["prompt_tokens"].tolist()) == {30}
    assert set(late["output_tokens"].tolist()) == {40}
    first = early[early["arrival_s"] < 21_600]
    assert (first["prompt_tokens"] == 10).mean() == pytest.approx(0.25, abs=0.02)
    assert (first["output_tokens"] == 1).mean() == pytest.approx(0.5, abs=0.02)
    assert trace.zero_output_rows == (rows["output_tokens"] == 1).sum()


def test_clients_without_lengths_draw_from_those_of_the_others_by_their_rates() -> None:
    known = [
        Client(k, np.array([0]), np.array([rate]), np.ones(1), np.zeros(1, dtype=bool), {0: Lengths(each, each)})
        for k, (rate, each) in enumerate([(1.0, counts((10, 1.0))), (3.0, counts((20, 0.5), (30, 0.5)))])
    ]
    load = ServeGen(tuple(known), 600)
    prompt_tokens = load.pooled(0.0).prompt.draw(np.random.default_rng(1), 100_000)
    shares = [(prompt_tokens == k).mean() for k in (10, 20, 30)]
    assert shares == pytest.approx([0.25, 0.375, 0.375], abs=0.008)
    # Beyond the last window nobody sends: all weigh the same.
    prompt_tokens = load.pooled(50_000.0).prompt.draw(np.random.default_rng(1), 100_000)
    assert (prompt_tokens == 10).mean() == pytest.approx(0.5, abs=0.008)


@pytest.mark.parametrize("weibull", [False, True])
@pytest.mark.parametrize("cv", [0.05, 0.5, 1.0, 1.7, 4.0, 30.0, 797.0])
def test_gaps_have_the_given_mean_and_variation(cv: float, weibull: bool) -> None:
    gaps = Gaps.of(20.0, cv, weibull=weibull)
    if weibull:
        moments = np.exp([_log_gamma(1 + n / gaps.shape) for n in (1, 2)]) * gaps.scale_s ** np.array([1, 2])
    else:
        moments = np.array([gaps.shape * gaps.scale_s, gaps.shape * (gaps.shape + 1) * gaps.scale_s**2])
    assert moments[0] == pytest.approx(0.05, rel=1e-6)
    assert np.sqrt(moments[1] / moments[0] ** 2 - 1) == pytest.approx(cv, rel=1e-4)
    if cv <= 4.0:
        sample = gaps.draw(np.random.default_rng(3), 400_000)
        assert sample.mean() == pytest.approx(0.05, rel=4 * cv / 400_000**0.5)
        assert sample.std() / sample.mean() == pytest.approx(cv, rel=0.1)


def _log_gamma(value: float) -> float:
    from math import lgamma

    return lgamma(value)


@pytest.mark.parametrize("weibull", [False, True])
@pytest.mark.parametrize(("cv", "cut"), [(0.3, 0.02), (1.0, 0.03), (5.0, 0.1)])
def test_windows_have_the_stated_rate_whatever_their_burstiness(cv: float, cut: float, weibull: bool) -> None:
    """A process that began anew with each window would give (CV^2 - 1) / 2 requests too many in each."""
    load = steady(1.0, cv, weibull=weibull, windows=400)
    rows = len(all_of(load, Reading(seed=2)))
    deviation = cv * 240_000**0.5
    assert abs(rows - 240_000) < 4 * deviation
    assert 4 * deviation / 240_000 < cut
    short = all_of(steady(0.01, cv, weibull=weibull, windows=4000), Reading(seed=2))
    excess = abs(4000 * (cv**2 - 1) / 2)
    assert abs(len(short) - 24_000) < 0.5 * max(excess, 4 * cv * 24_000**0.5)


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    load = steady(5.0, 1.5, weibull=True)
    assert (all_of(load, Reading(seed=4)) == all_of(load, Reading(seed=4))).all()
    other = all_of(load, Reading(seed=5))["arrival_s"]
    assert not np.isin(other, all_of(load, Reading(seed=4))["arrival_s"]).any()
    twin = ServeGen((*load.clients, *steady(5.0, 1.5, weibull=True, number=1).clients), load.end_s)
    assert len(np.unique(all_of(twin, Reading())["arrival_s"])) == len(all_of(twin, Reading()))


@pytest.mark.parametrize("block_rows", [1, 50, 10**9])
def test_neither_the_size_of_blocks_nor_the_span_shows_in_what_is_drawn(
    monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    clients = [
        steady(rate, cv, weibull=rate > 2, number=k).clients[0]
        for k, (rate, cv) in enumerate([(1.0, 1.0), (3.0, 0.5), (9.0, 6.0), (0.01, 1.0)])
    ]
    load = ServeGen(tuple(clients), 3600)
    expected = all_of(load, Reading())
    assert (np.diff(expected["arrival_s"]) >= 0.0).all()
    monkeypatch.setattr("telemetry.servegen_draw.BLOCK_ROWS", block_rows)
    assert (all_of(load, Reading()) == expected).all()
    part = all_of(load, Reading(start_s=1200.0, stop_s=2000.0))
    inside = expected[(expected["arrival_s"] >= 1200.0) & (expected["arrival_s"] < 2000.0)]
    assert (part["prompt_tokens"] == inside["prompt_tokens"]).all()
    assert (part["arrival_s"] == inside["arrival_s"] - 1200.0).all()


def test_a_factor_changes_rates_and_leaves_burstiness() -> None:
    load = steady(1.0, 2.0, weibull=False, windows=300)
    many = all_of(load, Reading(factor=8.0))["arrival_s"]
    assert expected_rows(load, Reading(factor=8.0)) == 8 * 180_000
    assert abs(len(many) - 1_440_000) < 4 * 2.0 * 1_440_000**0.5
    gaps_s = np.diff(many)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(2.0, rel=0.02)
    assert expected_rows(load, Reading(start_s=300.0, stop_s=900.0)) == 600.0


def test_memory_does_not_depend_on_the_rate() -> None:
    """A block never holds many more requests than wait for it."""
    load = steady(3000.0, 1.0, weibull=False, windows=1)
    sizes = [len(block) for block in drawn(load, Reading())]
    assert sum(sizes) == pytest.approx(1_800_000, rel=0.01)
    assert max(sizes) < 60_000


def test_a_trace_that_was_drawn_travels_with_its_reading(folder: Folder) -> None:
    trace = read_request_trace(folder(FILES), Reading(seed=9, factor=0.1))
    again = pickle.loads(pickle.dumps(trace))
    assert (again.read(0, again.rows) == trace.read(0, trace.rows)).all()


def test_more_requests_than_can_be_kept_are_refused_with_the_share_that_can(folder: Folder) -> None:
    path = folder({**FILES, "chunk-0-trace.csv": DAY.replace(b",1,", b",100000,")})
    with pytest.raises(DataError, match=r"stands for 2,880,\d{3},\d{3} requests, more than .* factor at most 0.017"):
        read_request_trace(path)
    with pytest.raises(DataError, match="no request falls into the span"):
        read_request_trace(path, Reading(start_s=900_000.0))


def test_a_recipe_names_load_share_days_and_seed(folder: Folder, tmp_path: Path) -> None:
    path = folder(FILES)
    recipe = tmp_path / "some.toml"
    recipe.write_text('servegen = "load"\nfactor = 0.5\nseed = 3\nstart_day = 0.25\ndays = 0.5\n')
    trace = read_request_trace(recipe)
    direct = read_request_trace(path, Reading(seed=3, factor=0.5, start_s=21_600.0, stop_s=64_800.0))
    assert (trace.read(0, trace.rows) == direct.read(0, direct.rows)).all()
    for text, said in (
        ('servegen = "load"\nfactr = 2\n', "no recipe (Object contains unknown field `factr`"),
        ('servegen = "load"\nfactor = -1\n', "no recipe (Expected `float` > 0.0"),
        ("servegen = load\n", "no recipe (Invalid value"),
        ('servegen = "nowhere"\n', "nowhere: no such file; check the path"),
        ('servegen = "some.toml"\n', "is none of ServeGen's files; name one"),
        ('servegen = "load"\nseed = 99999999999999999999\n', "no recipe ("),
        ("servegen = " + "[" * 3000, "no recipe ("),
        ('servegen = "load" #' + "x" * 9000, "longer than 4096 bytes"),
    ):
        recipe.write_text(text)
        with pytest.raises(DataError) as caught:
            read_request_trace(recipe)
        assert said in str(caught.value)


RATES = b"t_s,requests_per_s,active_clients\n0,5,3\n600,0,0\n1200,20,4\n"
TOKENS = (
    b"window_start_s,in_mean,in_p50,in_p90,in_p99,out_mean,out_p50,out_p90,out_p99\n"
    b"0,1497.6,99,2302,28539,25.4,4,80,184\n"
)


def test_summed_rates_are_drawn_with_the_quantiles_beside_them(folder: Folder) -> None:
    path = folder({"a__aggregate_10min.csv": RATES, "a__tokens_6h.csv": TOKENS}) / "a__aggregate_10min.csv"
    trace = read_request_trace(path, Reading(factor=10.0))
    rows = trace.read(0, trace.rows)
    assert trace.rows == pytest.approx(150_000, abs=4 * 150_000**0.5)
    assert not ((rows["arrival_s"] >= 600) & (rows["arrival_s"] < 1200)).any()
    assert np.quantile(rows["prompt_tokens"], [0.5, 0.9, 0.99]) == pytest.approx([99, 2302, 28539], rel=0.06)
    assert rows["prompt_tokens"].mean() == pytest.approx(1497.6, rel=0.05)
    assert np.quantile(rows["output_tokens"], [0.5, 0.9, 0.99]) == pytest.approx([4, 80, 184], rel=0.06)


def test_a_mean_that_its_quantiles_cannot_have_leaves_the_quantiles() -> None:
    low = from_quantiles(np.array([1.0, 99.0, 2302.0, 28539.0]))
    assert low.counts.max() == 28539
    assert np.quantile(low.counts, 0.9, method="higher") == pytest.approx(2302, rel=0.01)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a__aggregate_10min.csv", RATES + b"1200,1,1\n", ", line 5: start 1200 is not a later multiple of 600 s"),
        ("a__aggregate_10min.csv", RATES[:-1] + b"x\n", ", line 4: '1200,20,4x' is not 3 numbers"),
        ("a__aggregate_10min.csv", RATES.replace(b",20", b",nan"), ", line 4: '1200,nan,4' is not 3 numbers"),
        ("a__aggregate_10min.csv", RATES.replace(b",20", b",9e9"), ", line 4: rate above 1,000,000 requests/s"),
        ("a__aggregate_10min.csv", RATES[:34] + b"0,0,0\n", ": no window has a rate above 0"),
        ("a__aggregate_10min.csv", RATES[:34], ", line 1: no line follows the header"),
        ("a__tokens_6h.csv", TOKENS.replace(b"2302", b"30"), ", line 2: mean, p50, p90 and p99 must be 1 or more"),
        ("a__tokens_6h.csv", b"x" * 10_000_000, ": larger than 8 MiB"),
        ("a__tokens_6h.csv", b"", ", line 1: unknown header ''"),
    ],
)
def test_bad_sums_are_refused_in_one_line(folder: Folder, name: str, content: bytes, said: str) -> None:
    path = folder({"a__aggregate_10min.csv": RATES, "a__tokens_6h.csv": TOKENS, name: content})
    with pytest.raises(DataError) as caught:
        read_request_trace(path / "a__aggregate_10min.csv")
    assert said in str(caught.value)


def test_summed_rates_without_token_counts_are_refused(folder: Folder) -> None:
    for name in ("a__aggregate_10min.csv", "rates.csv"):
        with pytest.raises(DataError, match="no token counts beside it; call it <name>aggregate_10min"):
            read_request_trace(folder({name: RATES}) / name)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"chunk-0-trace.csv": b"0,1,1,Gamma,1\n"}, ", chunk-0-trace.csv, line 1: 5 columns instead of 6"),
        ({"chunk-0-trace.csv": DAY + b"600,1,1,Gamma,1,1\n"}, ", line 145: window start '600' is not a later multiple"),
        ({"chunk-0-trace.csv": b"30,1,1,Gamma,1,1\n"}, ", line 1: window start '30' is not a later multiple of 600 s"),
        ({"chunk-0-trace.csv": b"0,-1,1,Gamma,1,1\n"}, ", line 1: rate '-1' is not from 0 to 1,000,000 requests/s"),
        ({"chunk-0-trace.csv": b"0,1_0,1,Gamma,1,1\n"}, ", line 1: '1_0' is not a number"),
        ({"chunk-0-trace.csv": b"0,1,0,Gamma,1,1\n"}, ", line 1: CV '0' is not from 0.01 to 1000"),
        (
            {"chunk-0-trace.csv": b"0,1,1,Pareto,1,1\n"},
            ", line 1: unknown family 'Pareto'; there are Gamma and Weibull",
        ),
        ({"chunk-0-trace.csv": b"0,1,1,\xff,1,1\n"}, ", line 1: byte 7 is not UTF-8 text"),
        ({"chunk-0-trace.csv": b""}, ", chunk-0-trace.csv: the file is empty"),
        ({name: IDLE for name in FILES if name.endswith("csv")}, ": no window has a rate above 0"),
        ({"chunk-0-dataset.json": b"{}"}, ": no chunk-<i>-dataset.json with token counts"),
        (
            {"chunk-0-dataset.json": LENGTHS[:99]},
            ", chunk-0-dataset.json: no lengths of ServeGen (Input data was truncated)",
        ),
        ({"chunk-0-dataset.json": b"[]"}, ", chunk-0-dataset.json: no lengths of ServeGen (Expected `object`"),
        (
            {"chunk-0-dataset.json": LENGTHS.replace(b'"0"', b'"17"')},
            ", window '17': its start is not a multiple of 21600 s",
        ),
        (
            {"chunk-0-dataset.json": LENGTHS.replace(b"0.75", b"0.05")},
            ", input_tokens: probabilities are negative or sum to 0.3",
        ),
        (
            {"chunk-0-dataset.json": LENGTHS.replace(b"0.75", b"nan")},
            ", input_tokens: '{10: 0.25, 20: nan}' is not like",
        ),
        ({"chunk-0-dataset.json": LENGTHS.replace(b"20:", b"20,")}, " is not a list of counts and probabilities"),
        ({"chunk-0-dataset.json": LENGTHS.replace(b"20:", b"2.5:")}, ": a count is not a whole number of tokens"),
        ({"chunk-0-dataset.json": LENGTHS.replace(b"{40: 1.0}", b"{}")}, ": token counts of one kind only"),
        ({"chunk-9-dataset.json": LENGTHS}, ": chunk-9-dataset.json has no chunk-9-trace.csv; add it"),
        ({"chunk-00-trace.csv": DAY}, ": a second chunk-00-trace.csv; give the files of one category alone"),
        ({"chunk-0-dataset.json": b" " * (2**25 + 1)}, ", chunk-0-dataset.json: larger than 32 MiB"),
    ],
)
def test_bad_files_are_refused_in_one_line_with_the_place(
    folder: Folder, tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    path = folder({**FILES, **files})
    archive = tmp_path / "load.tar.xz"
    archive.write_bytes(packed({**FILES, **files}))
    for each in (path, archive):
        with pytest.raises(DataError) as caught:
            read_request_trace(each)
        assert said.removeprefix(", ") in str(caught.value)
        assert str(caught.value).startswith(str(each))
        assert str(caught.value).isprintable()
        assert "; " in str(caught.value)


def test_a_damaged_archive_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "load.tar.xz"
    whole = packed(FILES)
    for length in (100, len(whole) // 2, len(whole) - 13):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"byte \d+.* damaged or cut short .*; fetch it again"):
            read_request_trace(path)
    inside = io.BytesIO()
    with tarfile.open(fileobj=inside, mode="w") as archive:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    plain = bytearray(inside.getvalue())
    path.write_bytes(plain)
    assert read_request_trace(path).rows > 50_000
    path.write_bytes(plain[:2000])
    with pytest.raises(DataError, match=r"the archive is damaged near byte 2000 of its content .*; fetch it again"):
        read_request_trace(path)
    second = plain.index(b"chunk-0-dataset.json")
    plain[second + 100] ^= 1
    path.write_bytes(plain)
    with pytest.raises(DataError, match=r"the archive is damaged near byte \d+ of its content"):
        read_request_trace(path)


def test_a_reading_that_makes_no_sense_is_refused() -> None:
    for wrong in (
        {"seed": -1},
        {"factor": 0.0},
        {"factor": float("nan")},
        {"start_s": 5.0, "stop_s": 5.0},
        {"cache_blocks": -1},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Reading(**wrong)
