"""The page's modules as source text: size, imports, layers. No browser is needed."""

import posixpath
import re
from importlib.resources import files
from typing import Any

import pytest

ROOT = files("shellrunner") / "page"
# A folder, and the folders whose modules may be imported in it. Its own may be, everywhere.
LAYERS = {
    "core": set(),
    "ui": {"core"},
    "terminal": {"core", "vendor"},
    "list": {"core", "ui"},
    "form": {"core", "ui"},
    "run": {"core", "ui", "form"},
    "job": {"core", "ui", "terminal"},
    "": {"core", "ui", "form", "list", "run", "job"},
}
MAX_ENTRIES = 12
MAX_LINES = 300
IMPORT = re.compile(r'^(?:import|export) [^;]*?from "([^"]+)";|\bimport\("([^"]+)"\)', re.MULTILINE)


def read_modules() -> dict[Any, Any]:
    """Return the page's own modules by their path."""
    folders = {f"{folder}/" if folder else "": ROOT / folder for folder in LAYERS}
    return {
        prefix + each.name: each.read_text("utf-8")
        for prefix, folder in folders.items()
        for each in folder.iterdir()
        if each.name.endswith(".js")
    }


MODULES = read_modules()


def imports(name: Any) -> set[Any]:
    """Return the paths of the modules that a module imports."""
    found = [static or dynamic for static, dynamic in IMPORT.findall(MODULES[name])]
    assert all(path.startswith(("./", "../")) for path in found), found
    return {posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) for path in found}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_one_way(name: Any) -> None:
    """A module imports only from its own folder and from the folders below it."""
    folder = posixpath.dirname(name)
    assert {posixpath.dirname(path) for path in imports(name)} <= LAYERS[folder] | {folder}


def test_layers_have_no_cycle() -> None:
    """The folders can be put in an order in which each imports only from earlier ones."""
    ordered: list[Any] = []
    while len(ordered) < len(LAYERS):
        free = [each for each in LAYERS if each not in ordered and LAYERS[each] <= {*ordered, "vendor"}]
        assert free, f"cycle between {sorted(LAYERS.keys() - set(ordered))}"
        ordered += free


def test_modules_in_a_folder_have_no_cycle() -> None:
    """No module imports itself, not even through others."""
    graph = {name: imports(name) & MODULES.keys() for name in MODULES}
    while leaves := {name for name, needed in graph.items() if not needed}:
        graph = {name: needed - leaves for name, needed in graph.items() if name not in leaves}
    assert graph == {}


def test_folders_are_small() -> None:
    """No folder has more than a dozen entries, and every folder with modules is a layer."""
    folders = [ROOT, *(each for each in ROOT.iterdir() if each.is_dir() and each.name != "vendor")]
    entries = {folder.name: sorted(each.name for each in folder.iterdir()) for folder in folders}
    assert {name: len(found) for name, found in entries.items() if len(found) > MAX_ENTRIES} == {}
    with_modules = {name for name, found in entries.items() if any(each.endswith(".js") for each in found)}
    assert with_modules - {ROOT.name} == LAYERS.keys() - {""}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_is_small_and_imports_what_exists(name: Any) -> None:
    """Each module begins with a comment, has fewer than 300 lines, imports existing files and never parses HTML."""
    text = MODULES[name]
    assert text.startswith("/* ")
    assert text.count("\n") < MAX_LINES
    assert {path for path in imports(name) if path not in MODULES and not (ROOT / path).is_file()} == set()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_uses_what_it_imports(name: Any) -> None:
    """Every imported name is used."""
    text = MODULES[name]
    for names in re.findall(r"import \{([^}]*)\} from", text):
        for word in names.split(","):
            imported = word.split(" as ")[-1].strip()
            assert len(re.findall(rf"(?<![\w$]){re.escape(imported)}(?![\w$])", text)) > 1, imported


def test_every_module_is_used() -> None:
    """Every module is imported by another, except main.js, which the page loads."""
    assert MODULES.keys() - set().union(*map(imports, MODULES)) == {"main.js"}


def test_every_export_is_used() -> None:
    """Every exported name is imported by another module."""
    exported = {
        (name, found)
        for name, text in MODULES.items()
        for found in re.findall(r"^export (?:async )?(?:function|class|const) ([\w$]+)", text, re.MULTILINE)
    }
    imported = set()
    for name, text in MODULES.items():
        for names, path in re.findall(r'import \{([^}]*)\} from "([^"]+)"', text):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
            imported |= {(target, word.split(" as ")[0].strip()) for word in names.split(",")}
    assert exported - imported == set()


def test_every_element_that_is_looked_up_is_in_the_page() -> None:
    """Each id that a module passes to $() is the id of exactly one element of index.html."""
    index = (ROOT / "index.html").read_text("utf-8")
    ids = re.findall(r'\sid="([^"]+)"', index)
    assert len(ids) == len(set(ids))
    looked_up = {found for text in MODULES.values() for found in re.findall(r'\$\("([^"]+)"\)', text)}
    assert looked_up - set(ids) == set()
