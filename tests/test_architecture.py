"""The architecture: which package may import which, and how large a module or a folder may be."""

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import shellrunner
from shellrunner.config import QueueSettings, Settings

pytestmark = pytest.mark.timeout(300)  # it reads all files, which takes long on a machine with much else to do

ROOT = Path(__file__).parent.parent
SOURCE = Path(shellrunner.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))

# From the top down: a package may import from the layers below its own. The root package holds only the version.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("backup",),
    ("service", "installation"),
    ("systemd",),
    ("web", "supervisor", "callbacks", "client", "metrics", "host_control"),
    ("results", "live_usage"),
    ("store", "access"),
    ("keeper", "config", "wire", "sealing"),
    ("model", "log"),
    (
        "errors",
        "charsets",
        "process_hardening",
        "startup_signals",
        "startup_interrupt",
        "tasks",
        "clock",
        "peer_credentials",
        "aiohttp_import",
        "machine",
    ),
    ("ascii_text", "control_characters", "directory_sync"),
    ("__init__",),
)
LAYER = {package: number for number, layer in enumerate(reversed(LAYERS)) for package in layer}

# The same within packages, by dotted name: each part of a package (module or subpackage; `__init__` is the package's
# own module) may import from the layers below its own. To add a package, add a row that names all of its parts.
INNER_LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "access": (
        ("authenticator", "submission"),
        ("session_registry", "throttle", "command_rules", "job_policy"),
        ("token_lookup", "networks", "request_rate"),
        ("__init__",),
    ),
    "backup": (
        ("cluster_import", "creation", "restoration"),
        ("manifest",),
        ("private_files",),
        ("__init__",),
    ),
    "cli": (
        ("__init__", "commands"),
        ("verb_group",),
        ("parameters",),
        ("terminal",),
        ("foreground",),
        ("api_calls", "output_writer", "stdin_source", "job_request", "listing"),
        ("job_selection", "event_loop"),
        ("job_query",),
        ("server_config", "exit_codes", "ui"),
        ("fd_io", "boundary"),
    ),
    "cli.commands": (("submission",), ("inspection", "control", "administration"), ("__init__",)),
    "cli.parameters": (
        ("job_options", "detach_option"),
        ("job_ids",),
        ("number_types", "argument_types", "service_values", "output_options"),
        ("__init__",),
    ),
    "cli.foreground": (("foreground_job",), ("local_environment", "job_ending"), ("__init__",)),
    "cli.terminal": (
        ("attachment",),
        ("keyboard", "replay", "status_overlay"),
        ("detach_key", "modes", "raw_mode", "stop_key"),
        ("__init__",),
    ),
    "cli.listing": (("watched_table", "job_printer"), ("__init__",)),
    "cli.ui": (
        ("job_table",),
        ("job_state", "output_format", "prompt"),
        ("console",),
        ("table", "progress", "editor"),
        ("formatting", "ansi", "terminal_filter", "shell_completion", "help_examples", "json_object"),
        ("__init__",),
    ),
    "callbacks": (
        ("__init__",),
        ("sender",),
        ("delivery", "webhook_headers"),
        ("addresses",),
    ),
    "client": (
        ("__init__",),
        ("sync_client",),
        ("client",),
        ("streams", "stdin", "aiohttp_transport", "blocking_transport"),
        ("requester", "events"),
        ("transport",),
        ("retry", "sse_parser", "server_identity"),
        ("client_error", "address", "request_types"),
    ),
    "keeper": (
        ("__main__",),
        ("fork_server",),
        ("memory_sharing",),
        ("loop",),
        ("running",),
        ("command",),
        ("sandbox",),
        ("fork_exec",),
        ("stdio", "program"),
        ("pty",),
        ("recorder", "stdin_buffer", "process_tree", "message_socket"),
        ("slot", "identity", "protocol", "poller"),
        ("__init__",),
    ),
    "keeper.process_tree": (("leftovers", "pause", "termination", "let_go", "child_signals"), ("__init__",)),
    "installation": (
        ("install_plan", "removal_plan"),
        ("host", "config_file", "plan"),
        ("steps", "layout"),
        ("__init__",),
    ),
    "service": (
        ("__init__", "worker"),
        ("probes",),
        ("reload", "session_reader", "supervision"),
        ("network", "opened_history", "database_wait"),
        ("audit_file",),
        (
            "audit_log",
            "startup_warnings",
            "health",
            "state_dir",
            "limits",
            "profile_check",
        ),
        ("process",),
    ),
    "service.process": (("descriptors", "pid_namespace", "shutdown", "worker_threads"), ("__init__",)),
    "service.network": (
        ("unavailable_responder",),
        ("listening",),
        ("binding", "tls", "tls_protocol", "unix_socket"),
        ("__init__",),
    ),
    "store": (
        ("sqlite", "postgres", "postgres_import"),
        ("components",),
        ("units",),
        ("query",),
        ("rows",),
        ("__init__",),
        ("notifications", "change_log", "state_files"),
        ("transition", "values", "hosts"),
        ("output",),
        ("columns", "pagination", "queues"),
        ("db",),
    ),
    "sealing": (("job_keys",), ("sealed_text", "digest_key"), ("key_files",), ("__init__",)),
    "store.sqlite": (
        ("composition",),
        ("store",),
        ("claims", "effects", "opening", "copying"),
        ("point_reads",),
        ("add_jobs", "provenance", "main_file", "key_inventory"),
        ("secrets_upgrade",),
        ("claim_requests", "queueing_item", "single_host"),
        ("schema",),
        ("engine", "clock"),
        ("__init__",),
    ),
    "store.postgres": (
        ("composition", "maintenance"),
        ("store",),
        ("claims", "add_jobs"),
        ("opening",),
        ("orders",),
        ("effects",),
        ("hosts",),
        ("output_chunks",),
        ("schema", "secrets_reading", "text_index"),
        ("node",),
        ("transaction",),
        ("delivery",),
        ("engine",),
        ("node_config",),
        ("__init__",),
    ),
    "store.sqlite.copying": (("stopped_history",), ("snapshot",), ("__init__",)),
    "store.sqlite.clock": (("clock_marks",), ("__init__",)),
    "store.postgres.maintenance": (
        ("history_import", "availability", "roles"),
        ("chunk_import", "resealing"),
        ("__init__",),
    ),
    "store.postgres.output_chunks": (
        ("output_ends", "node_output"),
        ("chunk_storage", "chunk_removal", "remote_followers", "spill_sweep"),
        ("sender",),
        ("sending",),
        ("chunk_source", "cutting"),
        ("chunk_rows",),
        ("__init__",),
    ),
    "store.sqlite.engine": (
        ("engine",),
        ("batch_writer", "loop_reader"),
        ("batch_reader",),
        ("db_thread", "disk_reserve", "history_files"),
        ("__init__",),
    ),
    "store.units": (
        ("bulk_cancel", "bulk_delete", "claiming", "editing"),
        ("admission",),
        ("lifecycle", "queue_limits"),
        ("dependents",),
        ("due_callbacks", "idempotency_keys", "locks", "queue_pauses", "sessions", "trimming"),
        ("__init__",),
    ),
    "supervisor": (
        ("__init__",),
        ("supervisor",),
        ("job_runner", "controls", "end_recorder", "unknown_keepers"),
        ("keeper_pool", "running_job", "start_message", "confinement"),
        ("seccomp", "fork_server_connection", "keeper_connection", "users"),
        ("message_protocol", "verdict", "orphans", "concurrency", "oom_kills"),
    ),
    "web": (
        ("__init__",),
        ("openapi",),
        ("handlers",),
        ("feeds", "security"),
        ("status_view",),
        ("http",),
        ("route", "app_keys"),
    ),
    "web.http": (
        ("responses",),
        ("streaming",),
        ("server_protocol", "bodies"),
        (
            "problems",
            "connections",
            "revocation",
            "parameters",
            "accept",
            "aiohttp_internals",
            "static_files",
            "request_line",
        ),
        ("strangers",),
        ("sources",),
        ("__init__",),
    ),
    "web.security": (
        ("middleware",),
        ("authentication", "ownership", "audit"),
        ("origin", "audit_details", "refusal_limit"),
        ("proxy_marks", "loopback", "worker_removal"),
        ("__init__",),
    ),
}

# Of the keeper, other packages may import only its files' format, its protocol and the identity of its process.
PUBLIC_KEEPER_MODULES = {
    "shellrunner.keeper",
    "shellrunner.keeper.slot",
    "shellrunner.keeper.protocol",
    "shellrunner.keeper.identity",
}

DATABASES = {"aiosqlite", "sqlite3", "psycopg", "pgqueuer"}
NETWORK = {"aiohttp", "socket", "http"}
PROCESSES = {"subprocess", "signal", "multiprocessing"}
# What one module may import all the same.
ALLOWED_IMPORTS = {
    "shellrunner.access.session_registry": {"asyncio"},  # a lock, so that ends are stored in their order
    "shellrunner.store.postgres.engine.connection_thread": {"socket"},  # to break a connection that does not answer
}
# What a package must not import: each package has a row, even if it is empty.
FORBIDDEN_IMPORTS: dict[str, set[str]] = {
    "__init__": NETWORK | DATABASES | PROCESSES | {"asyncio", "click", "pydantic"},
    "__main__": NETWORK | DATABASES | PROCESSES | {"asyncio", "click", "pydantic"},
    "clock": NETWORK | DATABASES | PROCESSES | {"asyncio", "click", "pydantic"},
    "tasks": NETWORK | DATABASES | PROCESSES | {"click", "pydantic"},
    "process_hardening": NETWORK | DATABASES | PROCESSES | {"asyncio", "click", "pydantic"},
    "peer_credentials": DATABASES | PROCESSES | {"aiohttp", "http", "asyncio", "click", "pydantic"},
    "aiohttp_import": DATABASES | PROCESSES | {"asyncio", "click", "pydantic"},
    "machine": NETWORK | DATABASES | PROCESSES | {"asyncio", "click", "pydantic"},
    "startup_signals": NETWORK | DATABASES | {"subprocess", "multiprocessing", "asyncio", "click", "pydantic"},
    "startup_interrupt": NETWORK | DATABASES | {"subprocess", "multiprocessing", "asyncio", "click", "pydantic"},
    "keeper": DATABASES | {"aiohttp", "http", "asyncio", "subprocess", "multiprocessing", "click", "pydantic"},
    "client": DATABASES | PROCESSES | {"click"},
    "errors": NETWORK | DATABASES | PROCESSES | {"asyncio", "pydantic", "http"},
    "ascii_text": NETWORK | DATABASES | PROCESSES | {"asyncio", "pydantic", "json"},
    "control_characters": NETWORK | DATABASES | PROCESSES | {"asyncio", "pydantic", "json"},
    "directory_sync": NETWORK | DATABASES | PROCESSES | {"asyncio", "pydantic", "json"},
    "charsets": NETWORK | DATABASES | PROCESSES | {"asyncio", "pydantic", "json"},
    "model": NETWORK | DATABASES | PROCESSES | {"asyncio", "os", "json"},
    "config": NETWORK | DATABASES | PROCESSES | {"asyncio"},
    "wire": NETWORK | DATABASES | PROCESSES | {"asyncio", "os"},
    "access": DATABASES | {"aiohttp", "http", "asyncio"},
    "sealing": NETWORK | DATABASES | PROCESSES,
    "store": NETWORK | PROCESSES,
    "web": DATABASES | PROCESSES,
    "supervisor": DATABASES | {"aiohttp", "http"},
    "results": NETWORK | DATABASES | PROCESSES,
    "callbacks": DATABASES | PROCESSES,
    "host_control": NETWORK | DATABASES | PROCESSES,
    "metrics": NETWORK | DATABASES | PROCESSES | {"asyncio"},
    "live_usage": NETWORK | DATABASES | PROCESSES,
    "log": NETWORK | DATABASES | PROCESSES | {"asyncio"},
    "systemd": {"aiohttp", "http", "asyncio"} | DATABASES | PROCESSES,
    "service": DATABASES | {"click"},
    "installation": NETWORK | DATABASES | {"asyncio", "click"},
    "backup": NETWORK | DATABASES | PROCESSES | {"asyncio", "click"},
    "cli": NETWORK | DATABASES,
}


def module_name(path: Path) -> str:
    """Return the dotted name by which the file is imported."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """Return the package of src/shellrunner, or the module beside them, in which a module of ours lies."""
    return [*module.split("."), "__init__"][1]


def part_of(package: str, module: str) -> str | None:
    """Return the part of the package in which a module lies, `__init__` for the package itself; None if outside."""
    head, own = f"shellrunner.{package}".split("."), module.split(".")
    return [*own, "__init__"][len(head)] if own[: len(head)] == head else None


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a module; nobody changes it."""
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    """Return every module that the file imports, anywhere in it: at the top, in a function, for the type checker."""
    return frozenset(_find_imports(path))


def _find_imports(path: Path) -> Iterator[str]:
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if is_module(inner) else module


@cache
def is_module(name: str) -> bool:
    """Return whether this names a module of ours, and not something in one."""
    path = SOURCE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def ours(path: Path) -> list[str]:
    """Return the modules of ours that the file imports."""
    return [name for name in imports(path) if name.split(".")[0] == "shellrunner"]


def wrong(check: Callable[[Path], object], modules: Iterable[Path] = MODULES) -> dict[str, object]:
    """Return what `check` finds wrong in each of the modules, by name. A test for each takes 20 times as long."""
    return {module_name(path): found for path in modules if (found := check(path))}


def test_every_package_is_in_a_layer() -> None:
    """LAYERS has each package."""
    assert {package_of(module_name(path)) for path in MODULES} - LAYER.keys() == set()


def test_imports_point_downwards() -> None:
    """No module imports from a layer above its package's, nor from another package in the same layer."""

    def upwards(path: Path) -> list[str]:
        package = package_of(module_name(path))
        return [
            name for name in ours(path) if package_of(name) != package and LAYER[package_of(name)] >= LAYER[package]
        ]

    assert wrong(upwards) == {}


@pytest.mark.parametrize("package", INNER_LAYERS)
def test_imports_point_downwards_within_a_package(package: Any) -> None:
    """No part of a package imports from a layer of INNER_LAYERS above its own, nor from another part in the same."""
    layer = {part: number for number, layer in enumerate(reversed(INNER_LAYERS[package])) for part in layer}

    def upwards(path: Path) -> list[str]:
        own = part_of(package, module_name(path))
        if own is None:
            return []
        imported = {part for name in ours(path) if (part := part_of(package, name)) is not None}
        return [part for part in sorted(imported - {own}) if layer[part] >= layer[own]]

    assert wrong(upwards) == {}


@pytest.mark.parametrize("package", INNER_LAYERS)
def test_inner_layers_name_every_part_once(package: Any) -> None:
    """Every part that INNER_LAYERS names is a module or subpackage of its package, and is named once."""
    named = [part for layer in INNER_LAYERS[package] for part in layer]
    there = {part_of(package, module_name(path)) for path in MODULES} - {None}
    assert len(named) == len(set(named))
    assert set(named) == there


@pytest.mark.parametrize(
    ("package", "databases"), [("sqlite", {"aiosqlite", "sqlite3"}), ("postgres", {"psycopg", "pgqueuer"})]
)
def test_only_a_back_end_imports_its_database(package: str, databases: set[str]) -> None:
    """Units and queries take any database: no module outside a back end imports what it is made with."""
    there = [module_name(path) for path in MODULES if databases & {name.split(".")[0] for name in imports(path)}]
    assert there
    assert [name for name in there if not name.startswith(f"shellrunner.store.{package}.")] == []


def test_a_package_imports_nothing_forbidden() -> None:
    """No package imports what its row of FORBIDDEN_IMPORTS has."""

    def forbidden(path: Path) -> set[str]:
        outside = {name.split(".")[0] for name in imports(path)} - ALLOWED_IMPORTS.get(module_name(path), set())
        return outside & FORBIDDEN_IMPORTS[package_of(module_name(path))]

    assert wrong(forbidden) == {}


def test_the_client_imports_nothing_of_the_server() -> None:
    """Of other packages the client imports only errors, the types of documents, and whose a connection's end is."""
    packages = {
        package_of(name) for path in MODULES if package_of(module_name(path)) == "client" for name in ours(path)
    }
    assert packages == {"client", "errors", "wire", "peer_credentials", "ascii_text"}


def test_every_package_has_a_row_of_forbidden_imports() -> None:
    """FORBIDDEN_IMPORTS has a row for each package, and no row for a package that does not exist."""
    assert set(FORBIDDEN_IMPORTS) == {package_of(module_name(path)) for path in MODULES}


def test_a_keeper_is_standard_library_only() -> None:
    """A keeper imports nothing but the standard library and itself, and never asyncio."""
    own = {"keeper", "shellrunner"}  # it is run by file, and then is called `keeper`
    allowed = (sys.stdlib_module_names - {"asyncio", "http", "sqlite3"}) | own
    keeper = [path for path in MODULES if package_of(module_name(path)) == "keeper"]
    assert keeper
    assert wrong(lambda path: {name.split(".")[0] for name in imports(path)} - allowed, keeper) == {}
    assert wrong(lambda path: {package_of(name) for name in ours(path)} - {"keeper"}, keeper) == {}


def test_only_public_modules_of_the_keeper_are_imported_elsewhere() -> None:
    """Other packages import only PUBLIC_KEEPER_MODULES of the keeper."""
    others = [path for path in MODULES if package_of(module_name(path)) != "keeper"]

    def private(path: Path) -> set[str]:
        return {name for name in ours(path) if package_of(name) == "keeper"} - PUBLIC_KEEPER_MODULES

    assert wrong(private, others) == {}


def test_undocumented_parts_of_aiohttp_are_used_in_one_module() -> None:
    """Only aiohttp_internals uses aiohttp's private attributes and undocumented modules, which may change."""
    documented = {"aiohttp", "aiohttp.web", "aiohttp.hdrs", "aiohttp.abc", "aiohttp.typedefs"}
    others = [path for path in MODULES if module_name(path) != "shellrunner.web.http.aiohttp_internals"]
    private = {
        "shellrunner.log",
        "shellrunner.store.postgres.engine.postgres_db",
        "shellrunner.store.sqlite.engine.db_thread",
    }

    def undocumented(path: Path) -> set[str]:
        return {name for name in imports(path) if name.split(".")[0] == "aiohttp"} - documented

    assert wrong(undocumented, others) == {}
    assert wrong(lambda path: "noqa: SLF001" in path.read_text(), others).keys() <= private


def lines_of_code(text: str, tree: ast.Module) -> int:
    """Return the number of lines that are neither blank, comment nor part of a docstring."""
    documented: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        value = first.value if isinstance(first, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            documented.update(range(value.lineno, (value.end_lineno or value.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for number, line in lines if number not in documented and line.strip() and line.strip()[0] != "#")


def test_a_folder_shows_about_a_dozen_entries() -> None:
    """No folder has more than eighteen modules and packages, apart from the handlers."""
    folders = {path.parent for path in MODULES}
    crowded = {
        module_name(folder / "__init__.py"): len(entries)
        for folder in folders
        if folder not in {SOURCE, SOURCE / "web/handlers"}
        and len(entries := [*folder.glob("[!_]*.py"), *folder.glob("[!_]*/__init__.py")]) > 18
    }
    assert crowded == {}


def test_a_module_has_a_docstring_and_is_not_too_long() -> None:
    """Each has a docstring, and at most 400 lines of code: those that are neither blank, comment nor docstring."""
    assert wrong(lambda path: not ast.get_docstring(parsed(path))) == {}
    sizes = {module_name(path): lines_of_code(path.read_text(), parsed(path)) for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_no_module_is_named_for_its_kind() -> None:
    """A name says what a module does, not of which kind it is."""
    names = {part for path in MODULES for part in module_name(path).split(".")}
    assert names & {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"} == set()


@pytest.mark.parametrize("section", Settings.model_fields)
def test_every_setting_is_described(section: str) -> None:
    """Each setting has a description, which the reference shows."""
    fields = getattr(Settings.model_fields[section].annotation, "model_fields", QueueSettings.model_fields)
    assert [key for key, field in fields.items() if not field.description] == []


def test_the_test_of_imports_would_notice() -> None:
    """Imports are found in functions, under conditions, relative, and as attributes of a package."""
    probe = SOURCE / "supervisor" / "supervisor.py"
    assert any(package_of(name) == "store" for name in ours(probe))
    assert "shellrunner.log" in ours(
        SOURCE / "cli" / "commands" / "administration" / "serve.py"
    )  # from shellrunner import log
    assert part_of("web", "shellrunner.web.http.problems") == "http"
    assert part_of("web", "shellrunner.web") == "__init__"
    assert part_of("web", "shellrunner.wire.parse") is None
    assert "shellrunner.web.http.problems" in ours(SOURCE / "web" / "security" / "middleware.py")
    assert LAYER["cli"] > LAYER["service"] > LAYER["web"] > LAYER["store"] > LAYER["keeper"] > LAYER["model"]
