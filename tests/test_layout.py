"""The arrows between the packages, read from the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "refiner": {"refiner"},
    "detector": {"detector", "refiner"},
    "pipeline": {"pipeline", "detector", "refiner"},
    "service": {"service", "pipeline", "detector", "refiner"},
    "scripts": {"scripts", "service", "pipeline", "detector", "refiner"},
}
ONLY_IN = {
    "ray": ["pipeline/distributed.py", "service/deployment.py"],
    "fastapi": ["service/"],
}
WITHOUT_TORCH = [
    *(ROOT / f"pipeline/{name}.py" for name in ("instance", "settings", "geometry", "images")),
    *sorted((ROOT / "pipeline/formats").glob("*.py")),
]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path):
    """Every module that a file imports, wherever in the file it does so."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*base, *([node.module] if node.module else [])])


def sources():
    return [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def test_imports_follow_the_arrows():
    against = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources()
        for module in imported_modules(path)
        if (top := module.split(".")[0]) in {*MAY_IMPORT, "tests", "benchmarks"}
        and top not in MAY_IMPORT[path.relative_to(ROOT).parts[0]]
    ]
    assert against == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_heavy_library_stays_in_its_place(library):
    elsewhere = [
        str(path.relative_to(ROOT))
        for path in sources()
        if library in {module.split(".")[0] for module in imported_modules(path)}
        and not path.relative_to(ROOT).as_posix().startswith(tuple(ONLY_IN[library]))
    ]
    assert elsewhere == []


def test_what_works_on_arrays_loads_no_torch():
    modules = [module_name(path) for path in WITHOUT_TORCH]
    code = f"import sys, {', '.join(modules)}; assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_what_programs_import_is_used_by_nothing_in_here():
    assert {name.split(".")[0] for name in imported_modules(ROOT / "bpr.py")} == {"pipeline"}
    users = [path.name for path in sources() if "bpr" in set(imported_modules(path))]
    assert users == ["write_reference.py"]  # which describes it


def test_packages_say_nothing_on_import():
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("__init__.py"):
            assert path.read_text(encoding="utf-8") == "", f"{path} is not empty"


def test_tests_are_no_package():
    # a package tests/refiner would hide refiner
    assert list((ROOT / "tests").rglob("__init__.py")) == []
