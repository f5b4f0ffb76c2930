"""The arrows between the packages, read from the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("refiner", "detector", "pipeline", "service", "scripts")

GROUND = {"", "_extras", "_paths", "_published_weights", "_training_run", "_weight_files"}
"""Modules of bpr/ itself, which stand on nothing; "" is `from bpr import __version__`."""

MAY_IMPORT = {
    "refiner": GROUND | {"refiner"},
    "detector": GROUND | {"detector"},
    "pipeline": GROUND | {"pipeline", "detector", "refiner"},
    "service": GROUND | {"service", "pipeline", "detector", "refiner"},
    "scripts": GROUND | {"scripts", "service", "pipeline", "detector", "refiner"},
}
LEVELS = (  # of pipeline/: a file imports from its own level and those before it
    {"instance", "settings", "files", "threads"},
    {"formats"},
    {
        "geometry",
        "crops",
        "plan",
        "predictor",
        "runner",
        "harm",
        "overlaps",
        "metrics",
        "detection",
        "instance_pictures",
    },
    {"colour_evidence", "passes", "chain"},
    {"host", "chain_runner", "device", "refine"},
    {"network"},
    {"datasets"},
    {"batch", "extraction", "evaluation", "training", "adapters", "demo"},
    {"distributed"},
)
# a training reads the patch data sets of extraction, and scores a detector as an evaluation does
ROOMS_BESIDE = {"training": {"extraction", "evaluation"}}
ONLY_IN = {
    "ray": ["pipeline/distributed.py", "service/deployment.py"],
    "fastapi": ["service/"],
}
WITHOUT_TORCH = [
    *(ROOT / f"pipeline/{name}.py" for name in ("instance", "settings", "geometry", "refine")),
    *sorted((ROOT / "pipeline/formats").glob("*.py")),
    *sorted((ROOT / "pipeline/datasets").glob("*.py")),
    ROOT / "pipeline/adapters/refiner.py",
    ROOT / "refiner/predictor.py",
]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("bpr", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def imported_modules(path):
    """Every module that a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            # `from bpr.pipeline.formats import rle` imports a module too
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources():
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def everything_in_python():
    return [
        path
        for folder in (*FOLDERS, "bpr", "tests", "benchmarks", "docker")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def own_imports(path):
    """(folder or module of bpr/, whole name) of what a file imports from this project."""
    known = {module_name(source) for source in sources()}
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] != "bpr":
            continue
        if len(parts) == 1 or module == "bpr.__version__":
            yield "", "bpr"
        elif parts[1] in {*FOLDERS, *GROUND}:
            while len(parts) > 2 and ".".join(parts) not in known:
                parts.pop()  # a name inside a module
            yield parts[1], ".".join(parts)


def test_every_import_names_the_package():
    bare = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in everything_in_python()
        for module in imported_modules(path)
        if module.split(".")[0] in FOLDERS
    ]
    assert bare == []


def test_imports_follow_the_arrows():
    against = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources()
        for top, module in own_imports(path)
        if top not in MAY_IMPORT[path.relative_to(ROOT).parts[0]]
    ]
    against += [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources()
        for module in imported_modules(path)
        if module.split(".")[0] in {"tests", "benchmarks"}
    ]
    assert against == []


def test_the_ground_stands_on_nothing():
    for path in (ROOT / "bpr").glob("_[a-z]*.py"):
        assert {top for top, _ in own_imports(path)} <= GROUND, path


def room(module):
    return module.split(".")[2]


def test_rooms_of_the_pipeline_import_downwards():
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    against = []
    for path in sources():
        name = module_name(path)
        if not name.startswith("bpr.pipeline."):
            continue
        own = room(name)
        for top, module in own_imports(path):
            if top != "pipeline" or module == "bpr.pipeline" or room(module) == own:
                continue
            beside = level[room(module)] == level[own] and level[own] == level["batch"]
            if level[room(module)] > level[own] or (
                beside and room(module) not in ROOMS_BESIDE.get(own, ())
            ):
                against.append(f"{name} imports {module}")
    assert against == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module_name(path): {module for _, module in own_imports(path)} - {module_name(path)}
        for path in sources()
    }
    while True:
        leaves = {name for name, imported in graph.items() if not imported & graph.keys()}
        if not leaves:
            break
        graph = {name: imported for name, imported in graph.items() if name not in leaves}
    # what is left imports, directly or not, something that imports it
    assert sorted(graph) == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_heavy_library_stays_in_its_place(library):
    elsewhere = [
        str(path.relative_to(ROOT))
        for path in sources()
        if library in {module.split(".")[0] for module in imported_modules(path)}
        and not path.relative_to(ROOT).as_posix().startswith(tuple(ONLY_IN[library]))
    ]
    assert elsewhere == []


def test_what_refines_on_a_cpu_loads_no_torch():
    modules = [module_name(path) for path in WITHOUT_TORCH]
    code = f"import sys, {', '.join(modules)}; assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_public_face_is_lazy():
    code = (
        "import sys, bpr\n"
        "assert not [name for name in sys.modules if name.startswith('bpr.')]\n"
        "assert {*bpr.__all__, '__version__'} <= set(dir(bpr))\n"
        "assert all(hasattr(bpr, name) for name in bpr.__all__)\n"
        "assert not hasattr(bpr, 'no_such_name')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_programs_import_is_used_by_nothing_in_here():
    names = ("Client", "Refiner", "add_refined_field", "load_refiner", "open_comparison")
    public = {f"bpr.{name}" for name in names}
    users = [path for path in sources() if public & set(imported_modules(path))]
    assert users == []


def test_packages_say_nothing_on_import():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("__init__.py"):
            assert path.read_text(encoding="utf-8") == "", f"{path} is not empty"


def test_every_folder_of_python_is_a_package():
    folders = {path.parent for path in sources()}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_package_links_to_the_folders_beside_it():
    for folder in FOLDERS:
        assert (ROOT / "bpr" / folder).resolve() == ROOT / folder


def test_tests_are_no_package():
    # a package tests/refiner would hide refiner
    assert list((ROOT / "tests").rglob("__init__.py")) == []
