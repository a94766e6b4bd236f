"""Style that matters is a test: sizes, words, units, borders, and that everything shown in the documents runs."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("policies", "telemetry", "sim_backend", "api", "daemon")
CODE_LINES, TEST_LINES = 400, 600
FUNCTION_LINES, KERNEL_LINES = 60, 200
PARAMETERS = 6
NESTING = 3
VAGUE = {"manager", "helper", "helpers", "util", "utils", "info", "data", "process"}
"""Words that say nothing; refused in names of modules, classes and functions."""
VAGUE_ALLOWED = {"DataError"}
"""The exit status it stands for is called EX_DATAERR by sysexits."""
NOT_TEXT = {".png", ".gz", ".ico", ".woff2", ".parquet"}
MILLIWATT_FILE = "telemetry/nvml.py"
NOTES = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:home|root|Users|work|mnt|workspace)/[\w.-]")
REGISTRY = re.compile(
    r"(?:https?://[\w.:@-]*(?:pypi|pythonhosted|registry|artifactory|nexus|devpi)|"
    r"(?<![\w-])--(?:(?:extra-)?index-url|find-links)[ =])"
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")


@cache
def tracked() -> tuple[Path, ...]:
    """Files of the project: known to git, or new and not ignored; whatever is there where git is not."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
        paths = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        unlisted = {".venv", "build", "__pycache__", ".git"}
        paths = [path for path in ROOT.rglob("*") if not unlisted & set(path.relative_to(ROOT).parts)]
    return tuple(sorted(path for path in paths if path.is_file()))


def name_of(path: Path) -> str:
    """Path from the root of the project, for messages."""
    return path.relative_to(ROOT).as_posix()


def python_files(*folders: str) -> list[Path]:
    """Tracked Python files, of all folders or the named ones."""
    files = [path for path in tracked() if path.suffix == ".py"]
    return [path for path in files if not folders or path.relative_to(ROOT).parts[0] in folders]


def text_files() -> list[Path]:
    """Tracked files that people write; what is vendored keeps its own words."""
    return [path for path in tracked() if path.suffix not in NOT_TEXT and "assets" not in path.parts]


@cache
def tree_of(path: Path) -> ast.Module:
    """Syntax tree of one file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    """Every function and method of one file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, Function):
            yield node


def is_kernel(path: Path) -> bool:
    """Whether the file holds compiled code, whose functions may be long and take what they need."""
    return path.stem.endswith("_kernel")


def fail_if(found: list[str], rule: str) -> None:
    """Fail with the rule and every place that breaks it."""
    if found:
        pytest.fail(rule + "\n  " + "\n  ".join(found), pytrace=False)


def test_files_are_short() -> None:
    found = []
    for path in python_files():
        limit = TEST_LINES if path.relative_to(ROOT).parts[0] == "tests" else CODE_LINES
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > limit and not is_kernel(path):
            found.append(f"{name_of(path)}: {lines} lines, at most {limit}")
    fail_if(found, "a file is one subject")


def test_functions_are_short() -> None:
    found = []
    for path in python_files():
        limit = KERNEL_LINES if is_kernel(path) else FUNCTION_LINES
        for node in functions(path):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > limit:
                found.append(f"{name_of(path)}:{node.lineno} {node.name}: {lines} lines, at most {limit}")
    fail_if(found, "a function fits on a screen")


def is_flag(argument: ast.arg) -> bool:
    """Whether the parameter declares a flag of the command line (`Annotated[..., typer.Option(...)]`)."""
    annotation = argument.annotation
    return isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated"


def test_functions_take_few_parameters() -> None:
    """A flag of the command line is no parameter that a caller passes."""
    found = []
    for path in python_files():
        if is_kernel(path):
            continue
        for node in functions(path):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(1 for each in arguments if each.arg not in {"self", "cls"} and not is_flag(each))
            if count > PARAMETERS:
                found.append(f"{name_of(path)}:{node.lineno} {node.name}: {count} parameters, at most {PARAMETERS}")
    fail_if(found, "more than six parameters are a type that has not been named")


def depth_of(node: ast.AST, depth: int = 0) -> int:
    """Deepest nesting of loops and decisions below `node`; an `elif` is no deeper than its `if`."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            continue
        nests = isinstance(child, ast.If | ast.For | ast.AsyncFor | ast.While | ast.Try | ast.Match)
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth_of(child, depth + 1 if nests and not is_elif else depth))
    return deepest


def test_decisions_are_not_nested_deeply() -> None:
    found = [
        f"{name_of(path)}:{node.lineno} {node.name}: {depth_of(node)} levels, at most {NESTING}"
        for path in python_files(*PACKAGES)
        if not is_kernel(path)
        for node in functions(path)
        if depth_of(node) > NESTING
    ]
    fail_if(found, "a deep decision hides a function")


def words_of(identifier: str) -> str:
    """`drawnPower_w` -> `_drawn_power_w_`, to search for whole words."""
    return "_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower().strip("_") + "_"


def refused_words() -> dict[str, str]:
    """Words in `code` in the last column of the glossary, each with what to say instead."""
    refused = {}
    for line in (ROOT / "GLOSSARY.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3:
            refused.update(dict.fromkeys(re.findall(r"`(\w+)`", cells[2]), cells[0]))
    return refused


def declared_names(path: Path) -> Iterator[tuple[int, str]]:
    """Names that a file gives: its own, and those of its classes, functions, parameters and variables."""
    yield 1, path.stem
    for node in ast.walk(tree_of(path)):
        if isinstance(node, Function | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def test_names_use_the_words_of_the_glossary() -> None:
    refused = refused_words()
    assert len(refused) > 15, "the last column of GLOSSARY.md has lost its words"
    found = [
        f"{name_of(path)}:{line} {name}: not '{word}', say {instead}"
        for path in python_files(*PACKAGES)
        for line, name in declared_names(path)
        for word, instead in refused.items()
        if f"_{word}_" in words_of(name)
    ]
    fail_if(found, "one word for one thing (GLOSSARY.md)")


def test_names_say_something() -> None:
    found = []
    for path in python_files(*PACKAGES):
        named = [node for node in ast.walk(tree_of(path)) if isinstance(node, Function | ast.ClassDef)]
        for line, name in [(1, path.stem), *((node.lineno, node.name) for node in named)]:
            vague = VAGUE & set(words_of(name).strip("_").split("_"))
            if (vague or name.startswith("handle_")) and name not in VAGUE_ALLOWED:
                found.append(f"{name_of(path)}:{line} {name}")
    fail_if(found, f"a name with one of {sorted(VAGUE)} or handle_* could stand for anything")


def test_nothing_is_left_for_later() -> None:
    found = [
        f"{name_of(path)}:{number} {line.strip()[:80]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if NOTES.search(line)
    ]
    fail_if(found, "do it, or write down in docs/decisions why not")


def test_only_the_command_line_prints() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in python_files(*PACKAGES)
        if path.relative_to(ROOT).parts[0] != "daemon"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    fail_if(found, "return it; daemon/ decides what is shown")


def test_milliwatts_stay_in_one_file() -> None:
    milliwatts = re.compile(r"(?i)\bmw\b|_mw\b|\bmw_|milli-?watt")
    found = [
        f"{name_of(path)}:{number} {line.strip()[:80]}"
        for path in python_files(*PACKAGES)
        if name_of(path) != MILLIWATT_FILE
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        # Megawatts are written MW; a name is never written so.
        if milliwatts.search(line.replace(" MW", " "))
    ]
    fail_if(found, f"watts everywhere; only {MILLIWATT_FILE} speaks the device's unit")


def test_no_other_distribution_provides_our_packages() -> None:
    """The five have plain names: another `daemon` or `api` in the same environment would replace ours."""
    providers = importlib.metadata.packages_distributions()
    found = [
        f"{package}: {', '.join(sorted(others))}"
        for package in PACKAGES
        if (others := set(providers.get(package, [])) - {"overwatt"})
    ]
    fail_if(found, "installed distributions that collide with ours")


def test_files_name_no_machine_and_no_registry() -> None:
    found = []
    for path in text_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if path != Path(__file__) and (MACHINE_PATHS.search(line) or REGISTRY.search(line)):
                found.append(f"{name_of(path)}:{number} {line.strip()[:80]}")
    fail_if(found, "a path or host of one machine means nothing on another")


def test_locks_hold_anywhere() -> None:
    """Every line of a lock is a name, a version and hashes: no place where it was fetched from."""
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text, f"{lock.name} names a host"
        for entry in text.replace("\\\n", " ").splitlines():
            requirement = entry.split("#")[0].strip()
            assert not requirement or ("==" in requirement and "--hash=sha256:" in requirement), f"{lock.name}: {entry}"


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Top-level modules that one file imports."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, str(node.module).split(".")[0]


def third_party_imports() -> dict[str, str]:
    """Modules that the five packages import beside the standard library, each with one place."""
    return {
        module: f"{name_of(path)}:{line}"
        for path in python_files(*PACKAGES)
        for line, module in imported_modules(path)
        if module not in sys.stdlib_module_names and module not in PACKAGES
    }


def test_dependencies_are_what_the_code_imports() -> None:
    """No distribution is declared that nothing imports, none is imported that is not declared."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    roles = {role: names for role, names in project["optional-dependencies"].items() if role != "dev"}
    lines = [*project["dependencies"], *(line for names in roles.values() for line in names)]
    declared = {re.split(r"[\[<>=~! ]", line)[0] for line in lines}
    modules = importlib.metadata.packages_distributions()
    imported = {
        re.sub(r"[-_.]+", "-", modules.get(name, [name])[0]).lower(): place
        for name, place in third_party_imports().items()
    }
    undeclared = [f"{name} (imported in {place})" for name, place in imported.items() if name not in declared]
    fail_if(undeclared, "imported, but not declared in pyproject.toml")
    fail_if(sorted(declared - set(imported)), "declared in pyproject.toml, but imported nowhere")


def test_deciding_needs_neither_numba_nor_scipy() -> None:
    """An agent on a GPU host starts small: importing all of `policies` loads no compiler."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in python_files("policies")
    ]
    program = f"import sys, {', '.join(modules)}; print(sorted({{'numba', 'scipy'}} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"


EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


def test_examples_print_what_the_documents_show() -> None:
    for example in EXAMPLES:
        expected = example.with_suffix(".out")
        assert expected.is_file(), f"{name_of(example)} has no {expected.name} beside it"
        ran = subprocess.run([sys.executable, str(example)], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, f"{name_of(example)}: {ran.stderr}"
        assert ran.stdout == expected.read_text(encoding="utf-8"), f"{name_of(example)} prints something else"


def test_links_between_documents_lead_somewhere() -> None:
    found = []
    for path in text_files():
        if path.suffix != ".md":
            continue
        prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in LINK.findall(prose):
            file = target.split("#")[0]
            if re.match(r"[a-z]+:", target) or not file:
                continue
            if not (path.parent / file).exists():
                found.append(f"{name_of(path)}: {target}")
    fail_if(found, "dead links")


def test_every_target_of_make_is_explained() -> None:
    """`make help` lists a target by the words beside it; the unexplained ones are steps of others."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    explained = set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))
    wanted = {
        "demo",
        "test",
        "check",
        "bench",
        "bench-w",
        "results",
        "sim",
        "replay",
        "lock",
        "format",
        "clean",
        "help",
    }
    assert wanted <= explained


def test_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
